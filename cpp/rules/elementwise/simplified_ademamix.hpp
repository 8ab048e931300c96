#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Simplified AdEMAMix. Morwani et al. (2025), https://arxiv.org/abs/2502.02431
struct simplified_ademamix {
    static constexpr Names hyper{"lr", "beta1", "beta2", "alpha", "eps", "weight_decay"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double alpha, double eps, double weight_decay) {
        const double bias2 = one_minus_power(beta2, t);
        return [keep = T(1 - lr * weight_decay), lr = T(lr), b1 = T(beta1), b2 = T(beta2), c2 = T(1 - beta2),
                alpha = T(alpha), root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& v) {
            m = b1 * m + g;
            v = b2 * v + c2 * (g * g);
            p = keep * p - lr * ((m + alpha * g) / (root * sqrt(v) + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
