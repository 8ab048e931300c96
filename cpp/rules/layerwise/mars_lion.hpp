#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// MARS-Lion. Yuan et al. (2024), https://arxiv.org/abs/2411.10438, in the approximate form, which compares with the
/// last step's gradient.
struct mars_lion {
    static constexpr Names hyper{"lr", "beta", "gamma", "weight_decay"};
    static constexpr Names state{"m", "g_last"};

    template <class T>
    static auto at(double, double lr, double beta, double gamma, double weight_decay) {
        const auto corrected = [ratio = T(gamma * (beta / (1 - beta)))](T g, T g_last) {
            return g + ratio * (g - g_last);
        };
        return sum(
            [=](T, T g, T, T g_last) {
                const T c = corrected(g, g_last);
                return Terms{dot(c, c)};
            },
            [=](double cc) {
                const double shrink = cc > 1 ? 1 / std::sqrt(cc) : 1;
                return [=, shrink = T(shrink), keep = T(1 - lr * weight_decay), lr = T(lr), b = T(beta),
                        c1 = T(1 - beta)](T& p, T g, T& m, T& g_last) {
                    m = b * m + c1 * (shrink * corrected(g, g_last));
                    g_last = g;
                    p = keep * p - lr * sign(m);
                };
            });
    }
};

}  // namespace
}  // namespace schuss
