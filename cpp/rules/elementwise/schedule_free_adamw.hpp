#pragma once

#include "rules/averages.hpp"
#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Schedule-free AdamW. Defazio et al. (2024), Algorithm 1, https://arxiv.org/abs/2405.15682, in the authors' form
/// that keeps y (where gradients are taken) and z, and no x.
struct schedule_free_adamw {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "warmup_steps", "r", "weight_lr_power"};
    static constexpr Names state{"z", "v"};
    static constexpr Names scalars{"lr_max", "weight_sum"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay,
                   double warmup_steps, double r, double weight_lr_power, double& lr_max, double& weight_sum) {
        const double rate = t < warmup_steps ? lr * (t / warmup_steps) : lr;
        const double c = newest_share(t, rate, r, weight_lr_power, lr_max, weight_sum);
        return [c = T(c), rate = T(rate), pull = T(rate * (1 - beta1 * (1 - c))), b2 = T(beta2), c2 = T(1 - beta2),
                root = T(1 / std::sqrt(one_minus_power(beta2, t))), eps = T(eps),
                decay = T(weight_decay)](T& p, T g, T& z, T& v) {
            v = b2 * v + c2 * (g * g);
            const T u = g / (root * sqrt(v) + eps) + decay * p;
            p = p + c * (z - p) - pull * u;
            z = z - rate * u;
        };
    }
};

}  // namespace
}  // namespace schuss
