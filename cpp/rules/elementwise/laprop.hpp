#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// LaProp. Ziyin, Wang & Ueda (2020), Algorithm 1, https://arxiv.org/abs/2002.04839, with the rate inside the momentum
/// as in the authors' code.
struct laprop {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names state{"m", "v"};
    static constexpr Names scalars{"lr_mean"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double& lr_mean) {
        lr_mean = beta1 * lr_mean + (1 - beta1) * lr;
        const double bias2 = one_minus_power(beta2, t);
        const double step = lr_mean > 0 ? lr / lr_mean : 0;
        return [keep = T(1 - lr * weight_decay), step = T(step), b1 = T(beta1), c1 = T((1 - beta1) * lr), b2 = T(beta2),
                c2 = T(1 - beta2), root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& v) {
            v = b2 * v + c2 * (g * g);
            m = b1 * m + c1 * (g / (root * sqrt(v) + eps));
            p = keep * (p - step * m);
        };
    }
};

}  // namespace
}  // namespace schuss
