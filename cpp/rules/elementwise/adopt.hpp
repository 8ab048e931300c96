#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// ADOPT, with clipping. Taniguchi et al. (2024), https://arxiv.org/abs/2411.02853
struct adopt {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay) {
        const bool first = t == 1;  // only v is set: the clip at 0 keeps m and p, a floor of 1 keeps 0 / 0 away
        const double limit = std::sqrt(std::sqrt(t - 1));
        return [keep = T(first ? 1 : 1 - lr * weight_decay), lr = T(lr), b1 = T(beta1), c1 = T(1 - beta1),
                b2 = T(first ? 0 : beta2), c2 = T(first ? 1 : 1 - beta2), floor = T(first ? 1 : eps), lower = T(-limit),
                upper = T(limit)](T& p, T g, T& m, T& v) {
            m = b1 * m + c1 * clip(g / maximum(sqrt(v), floor), lower, upper);
            v = b2 * v + c2 * (g * g);
            p = keep * p - lr * m;
        };
    }
};

}  // namespace
}  // namespace schuss
