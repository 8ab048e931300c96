#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// MARS-AdamW. Yuan et al. (2024), https://arxiv.org/abs/2411.10438, in the approximate form, which compares with the
/// last step's gradient.
struct mars_adamw {
    static constexpr Names hyper{"lr", "beta1", "beta2", "gamma", "eps", "weight_decay"};
    static constexpr Names state{"m", "v", "g_last"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double gamma, double eps, double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const auto corrected = [ratio = T(gamma * (beta1 / (1 - beta1)))](T g, T g_last) {
            return g + ratio * (g - g_last);
        };
        return sum(
            [=](T, T g, T, T, T g_last) {
                const T c = corrected(g, g_last);
                return Terms{dot(c, c)};
            },
            [=](double cc) {
                const double shrink = cc > 1 ? 1 / std::sqrt(cc) : 1;
                return [=, shrink = T(shrink), keep = T(1 - lr * weight_decay), step = T(lr / bias1), b1 = T(beta1),
                        c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2), root = T(1 / std::sqrt(bias2)),
                        eps = T(eps)](T& p, T g, T& m, T& v, T& g_last) {
                    const T c = shrink * corrected(g, g_last);
                    m = b1 * m + c1 * c;
                    v = b2 * v + c2 * (c * c);
                    g_last = g;
                    p = keep * p - step * (m / (root * sqrt(v) + eps));
                };
            });
    }
};

}  // namespace
}  // namespace schuss
