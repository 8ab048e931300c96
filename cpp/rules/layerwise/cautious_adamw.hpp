#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// AdamW that leaves out what goes against the gradient. Liang et al. (2024), https://arxiv.org/abs/2411.16085,
/// with the scale of the authors' later code.
struct cautious_adamw {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        // m sign(g) has the sign of m g, and does not underflow.
        const auto agrees = [](T g, T m) { return where(m * sign(g) > T(0), T(1), T(0)); };
        const auto average = [b1 = T(beta1), c1 = T(1 - beta1)](T g, T m) { return b1 * m + c1 * g; };
        return sum([=](T, T g, T m, T) { return Terms{total(agrees(g, average(g, m)))}; },
                   [=](double agreeing, double size) {
                       const double scale = agreeing > 1e-3 * size ? size / agreeing : 1 / 1e-3;
                       return [=, keep = T(1 - lr * weight_decay), step = T(lr / bias1 * scale), b2 = T(beta2),
                               c2 = T(1 - beta2), root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& v) {
                           m = average(g, m);
                           v = b2 * v + c2 * (g * g);
                           // A product, in which NaN stays NaN.
                           p = keep * p - step * (agrees(g, m) * m / (root * sqrt(v) + eps));
                       };
                   });
    }
};

}  // namespace
}  // namespace schuss
