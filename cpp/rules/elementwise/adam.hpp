#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Adam. Kingma & Ba (2015), Algorithm 1, https://arxiv.org/abs/1412.6980
struct adam {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "bias_correction"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double bias_correction) {
        const double bias1 = bias_correction ? one_minus_power(beta1, t) : 1;
        const double bias2 = bias_correction ? one_minus_power(beta2, t) : 1;
        // The corrections are scalars: they go to the step and the root, and one division is left per element.
        return [step = T(lr / bias1), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2),
                root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            p = p - step * (m / (root * sqrt(v) + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
