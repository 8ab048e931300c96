#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// AdamC. Defazio (2025), Algorithm 1, https://arxiv.org/abs/2506.02285
struct adam_c {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "max_lr", "correction"};
    static constexpr Names state{"m", "v"};
    static constexpr Names scalars{"lr_max"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double max_lr,
                   double correction, double& lr_max) {
        if (lr > lr_max) lr_max = lr;
        const double peak = max_lr > lr_max ? max_lr : lr_max;
        const double part = peak > 0 ? lr / peak : 1;
        const double decay = lr * (1 - correction + correction * part) * weight_decay;
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return [keep = T(1 - decay), step = T(lr / bias1), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2),
                c2 = T(1 - beta2), root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            p = keep * p - step * (m / (root * sqrt(v) + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
