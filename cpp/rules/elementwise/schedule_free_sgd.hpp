#pragma once

#include "rules/averages.hpp"
#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Schedule-free SGD. Defazio et al. (2024), Equations 10 to 12, https://arxiv.org/abs/2405.15682, in the authors' form
/// that keeps y (where gradients are taken) and z, and no x.
struct schedule_free_sgd {
    static constexpr Names hyper{"lr", "momentum", "warmup_steps", "r", "weight_lr_power"};
    static constexpr Names state{"z"};
    static constexpr Names scalars{"lr_max", "weight_sum"};

    template <class T>
    static auto at(double t, double lr, double momentum, double warmup_steps, double r, double weight_lr_power,
                   double& lr_max, double& weight_sum) {
        const double rate = t < warmup_steps ? lr * (t / warmup_steps) : lr;
        const double c = newest_share(t, rate, r, weight_lr_power, lr_max, weight_sum);
        return [c = T(c), rate = T(rate), pull = T(rate * (1 - momentum * (1 - c)))](T& p, T g, T& z) {
            p = p + c * (z - p) - pull * g;
            z = z - rate * g;
        };
    }
};

}  // namespace
}  // namespace schuss
