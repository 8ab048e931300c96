#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// StableAdamW: AdamW with Adafactor's clipping of the update. Wortsman et al. (2023), Algorithm 2,
/// https://arxiv.org/abs/2304.13013
struct stable_adamw {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "threshold"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double threshold) {
        // The bias is corrected in the weights of the averages; at t = 1 they are 0 for what was there.
        const double b1 = beta1 * one_minus_power(beta1, t - 1) / one_minus_power(beta1, t);
        const double b2 = beta2 * one_minus_power(beta2, t - 1) / one_minus_power(beta2, t);
        const auto square = [b2 = T(b2), c2 = T(1 - b2)](T g, T v) { return b2 * v + c2 * (g * g); };
        return sum(
            [=, floor = T(eps * eps)](T, T g, T, T v) {
                const T w = square(g, v);
                return Terms{total(where(w > T(0), g * g / maximum(w, floor), T(0)))};
            },
            [=](double ratios, double size) {
                const double rms = size > 0 ? std::sqrt(ratios / size) : 0, excess = rms / threshold;
                const double rate = excess > 1 ? lr / excess : lr;
                return [=, keep = T(1 - rate * weight_decay), rate = T(rate), b1 = T(b1), c1 = T(1 - b1),
                        eps = T(eps)](T& p, T g, T& m, T& v) {
                    m = b1 * m + c1 * g;
                    v = square(g, v);
                    p = keep * p - rate * (m / (sqrt(v) + eps));
                };
            });
    }
};

}  // namespace
}  // namespace schuss
