#pragma once

#include "rules/averages.hpp"
#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Schedule-free RAdam: the averages of Defazio et al. (2024), https://arxiv.org/abs/2405.15682, with the step size of
/// Liu et al. (2020), https://arxiv.org/abs/1908.03265, in the form of the first authors' code.
struct schedule_free_radam {
    static constexpr Names hyper{"lr",           "beta1", "beta2",           "eps",
                                 "weight_decay", "r",     "weight_lr_power", "silent_sgd_phase"};
    static constexpr Names state{"z", "v"};
    static constexpr Names scalars{"lr_max", "weight_sum"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double r,
                   double weight_lr_power, double silent_sgd_phase, double& lr_max, double& weight_sum) {
        const double bias2 = one_minus_power(beta2, t);
        const double longest = 2 / (1 - beta2) - 1, length = longest - 2 * t * (1 - bias2) / bias2;
        const bool rectified = length > 4;
        double rect = silent_sgd_phase ? 0 : 1;
        if (rectified)
            rect = std::sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length));
        const double rate = lr * rect;
        const double c = newest_share(t, rate, r, weight_lr_power, lr_max, weight_sum);
        return [c = T(c), rate = T(rate), pull = T(rate * (1 - beta1 * (1 - c))), rectified, b2 = T(beta2),
                c2 = T(1 - beta2), root = T(1 / std::sqrt(bias2)), eps = T(eps),
                decay = T(weight_decay)](T& p, T g, T& z, T& v) {
            v = b2 * v + c2 * (g * g);
            const T u = g / where(rectified, root * sqrt(v) + eps, T(1)) + decay * p;
            p = p + c * (z - p) - pull * u;
            z = z - rate * u;
        };
    }
};

}  // namespace
}  // namespace schuss
