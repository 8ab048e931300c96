#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Sophia-G. Liu et al. (2024), Algorithm 3, https://arxiv.org/abs/2305.14342, in the form of the authors' code.
struct sophia_g {
    static constexpr Names hyper{"lr", "beta1", "beta2", "rho", "batch", "eps", "weight_decay"};
    static constexpr Names state{"m", "h"};

    template <class T>
    static auto at(double, double lr, double beta1, double beta2, double rho, double batch, double eps,
                   double weight_decay) {
        static_cast<void>(beta2);  // of what `update_hessian` makes of h; a step only reads it
        return [keep = T(1 - lr * weight_decay), lr = T(lr), b1 = T(beta1), c1 = T(1 - beta1), scale = T(rho * batch),
                eps = T(eps), lower = T(-1), upper = T(1)](T& p, T g, T& m, T& h) {
            m = b1 * m + c1 * g;
            p = keep * p - lr * clip(m / (scale * h + eps), lower, upper);
        };
    }
};

}  // namespace
}  // namespace schuss
