#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// NovoGrad. Ginsburg et al. (2019), Algorithm 1, https://arxiv.org/abs/1905.11286
struct novograd {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names state{"m"};
    static constexpr Names scalars{"v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double& v) {
        return sum([](T, T g, T) { return Terms{dot(g, g)}; },
                   [=, &v](double gg) {
                       v = t == 1 ? gg : beta2 * v + (1 - beta2) * gg;
                       return [lr = T(lr), b1 = T(beta1), scale = T(1 / (std::sqrt(v) + eps)),
                               decay = T(weight_decay)](T& p, T g, T& m) {
                           m = b1 * m + (scale * g + decay * p);
                           p = p - lr * m;
                       };
                   });
    }
};

}  // namespace
}  // namespace schuss
