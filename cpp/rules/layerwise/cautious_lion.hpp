#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Lion that leaves out what goes against the gradient. Liang et al. (2024), https://arxiv.org/abs/2411.16085,
/// with the scale of the authors' later code.
struct cautious_lion {
    static constexpr Names hyper{"lr", "beta1", "beta2", "weight_decay"};
    static constexpr Names state{"m"};

    template <class T>
    static auto at(double, double lr, double beta1, double beta2, double weight_decay) {
        const auto direction = [b1 = T(beta1), c1 = T(1 - beta1)](T g, T m) { return sign(b1 * m + c1 * g); };
        const auto agrees = [](T g, T u) { return where(u * g > T(0), T(1), T(0)); };
        return sum([=](T, T g, T m) { return Terms{total(agrees(g, direction(g, m)))}; },
                   [=](double agreeing, double size) {
                       const double scale = agreeing > 1e-3 * size ? size / agreeing : 1 / 1e-3;
                       return [=, keep = T(1 - lr * weight_decay), step = T(lr * scale), b2 = T(beta2),
                               c2 = T(1 - beta2)](T& p, T g, T& m) {
                           const T u = direction(g, m);
                           p = keep * p - step * (agrees(g, u) * u);  // a product, in which NaN stays NaN
                           m = b2 * m + c2 * g;
                       };
                   });
    }
};

}  // namespace
}  // namespace schuss
