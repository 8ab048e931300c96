#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// SGD with annealed gradient noise. Neelakantan et al. (2015), https://arxiv.org/abs/1511.06807
struct noisy_sgd {
    static constexpr Names hyper{"lr", "eta", "gamma", "seed"};
    static constexpr Names draws{"noise"};
    static constexpr Names state{};

    template <class T>
    static auto at(double t, double lr, double eta, double gamma, double seed) {
        (void)seed;  // chooses the noise
        return [lr = T(lr), spread = T(std::sqrt(eta / power(t, gamma)))](T& p, T g, T noise) {
            p = p - lr * (g + spread * noise);
        };
    }
};

}  // namespace
}  // namespace schuss
