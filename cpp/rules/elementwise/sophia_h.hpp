#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Sophia-H. Liu et al. (2024), Algorithm 3, https://arxiv.org/abs/2305.14342, in the form of optax.
struct sophia_h {
    static constexpr Names hyper{"lr", "beta1", "beta2", "gamma", "eps", "limit", "weight_decay"};
    static constexpr Names state{"m", "h"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double gamma, double eps, double limit,
                   double weight_decay) {
        static_cast<void>(beta2);  // of what `update_hessian` makes of h; a step only reads it
        const double bias1 = one_minus_power(beta1, t);
        return [keep = T(1 - lr * weight_decay), lr = T(lr), b1 = T(beta1), c1 = T(1 - beta1), first = T(1 / bias1),
                gamma = T(gamma), eps = T(eps), upper = T(limit), lower = T(-limit)](T& p, T g, T& m, T& h) {
            m = b1 * m + c1 * g;
            p = keep * p - lr * clip(first * m / maximum(gamma * h, eps), lower, upper);
        };
    }
};

}  // namespace
}  // namespace schuss
