#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Adam-mini. Zhang et al. (2024), Algorithm 1, https://arxiv.org/abs/2406.16793
struct adam_mini {
    static constexpr Scope scope = Scope::row;
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names state{"m"};
    static constexpr Names scalars{"v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double& v) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return sum([](T, T g, T) { return Terms{dot(g, g), 1.0}; },
                   [=, &v](double gg, double count) {
                       v = beta2 * v + (1 - beta2) * (gg / (count > 0 ? count : 1));  // a row may be empty
                       return [keep = T(1 - lr * weight_decay), b1 = T(beta1), c1 = T(1 - beta1),
                               step = T(lr / bias1 / (std::sqrt(v / bias2) + eps))](T& p, T g, T& m) {
                           m = b1 * m + c1 * g;
                           p = keep * p - step * m;
                       };
                   });
    }
};

}  // namespace
}  // namespace schuss
