#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// MoMo: momentum with a model-based step size. Schaipp et al. (2024), Algorithm 1, https://arxiv.org/abs/2305.07583,
/// with the weight decay and the estimate of the lower bound of the authors' code.
struct momo {
    static constexpr Names hyper{"lr", "beta", "f_min", "weight_decay", "adapt_lower_bound"};
    static constexpr Names given{"loss"};
    static constexpr Names state{"d"};
    static constexpr Names scalars{"f_bar", "gamma", "lower_bound"};

    template <class T>
    static auto at(double t, double lr, double beta, double f_min, double weight_decay, double adapt_lower_bound,
                   double loss, double& f_bar, double& gamma, double& lower_bound) {
        const double b = t == 1 ? 0 : beta;  // averages begin with the first values
        const auto average = [b = T(b), c = T(1 - b)](T g, T d) { return b * d + c * g; };
        // Groups may differ in the decay: their terms have it before they are summed.
        const double keep = 1 / (1 + lr * weight_decay);
        return sum(
            [=, keep = T(keep)](T p, T g, T d) {
                const T a = average(g, d);
                return Terms{dot(g, p), dot(a, p), dot(a, a), dot(a, keep * p), dot(a, keep * a)};
            },
            [=, &f_bar, &gamma, &lower_bound](double gp, double dp, double dd, double dp_kept, double dd_kept) {
                f_bar = b * f_bar + (1 - b) * loss;
                gamma = b * gamma + (1 - b) * gp;
                const double reached = f_bar - gamma + dp_kept;
                double least = adapt_lower_bound ? lower_bound : f_min;
                if (adapt_lower_bound && reached < least) least = reached / 2;
                if (least < f_min) least = f_min;
                double step = reached < least ? 0 : reached - least;
                step = dd_kept > 0 ? step / dd_kept : 0;
                if (step > lr) step = lr;
                lower_bound = adapt_lower_bound ? f_bar + dp - gamma - 0.5 * step * dd : f_min;
                if (lower_bound < f_min) lower_bound = f_min;
                return [=, keep = T(keep), step = T(step)](T& p, T g, T& d) {
                    d = average(g, d);
                    p = keep * (p - step * d);
                };
            });
    }
};

}  // namespace
}  // namespace schuss
