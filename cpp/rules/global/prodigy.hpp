#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Prodigy. Mishchenko & Defazio (2023), Algorithm 4, https://arxiv.org/abs/2306.06101, in the form of the authors'
/// code.
struct prodigy {
    static constexpr Names hyper{
        "lr",          "beta1",           "beta2",           "eps", "weight_decay", "d0", "d_coef",
        "growth_rate", "bias_correction", "safeguard_warmup"};
    static constexpr Names state{"m", "v", "s", "p0"};
    static constexpr Names scalars{"d", "d_max", "d_numerator"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double d0,
                   double d_coef, double growth_rate, double bias_correction, double safeguard_warmup, double& d,
                   double& d_max, double& d_numerator) {
        const double beta3 = std::sqrt(beta2);
        const double correction =
            bias_correction ? std::sqrt(one_minus_power(beta2, t)) / one_minus_power(beta1, t) : 1;
        const double rate = d * lr * correction;
        const double weight = d / d0 * (safeguard_warmup ? d : rate);
        const auto distance = [b3 = T(beta3), weight = T(weight)](T g, T s) { return b3 * s + weight * g; };
        return sum([=](T p, T g, T, T, T s, T p0) { return Terms{dot(g, p0 - p), total(abs(distance(g, s)))}; },
                   [=, &d, &d_max, &d_numerator](double gx, double s_norm) {
                       const double d_old = d;
                       d_numerator = beta3 * d_numerator + d / d0 * rate * gx;
                       if (s_norm > 0) {
                           const double d_hat = d_coef * d_numerator / s_norm;
                           if (d == d0 && d_hat > d) d = d_hat;
                           if (d_hat > d_max) d_max = d_hat;
                           if (d * growth_rate < d_max)
                               d = d * growth_rate;
                           else
                               d = d_max;
                       }
                       return [=, keep = T(1 - weight_decay * rate), rate = T(rate), b1 = T(beta1),
                               c1 = T((1 - beta1) * d_old), b2 = T(beta2), c2 = T((1 - beta2) * d_old * d_old),
                               eps = T(d * eps)](T& p, T g, T& m, T& v, T& s, T) {
                           m = b1 * m + c1 * g;
                           v = b2 * v + c2 * (g * g);
                           s = distance(g, s);
                           p = keep * p - rate * (m / (sqrt(v) + eps));
                       };
                   });
    }
};

}  // namespace
}  // namespace schuss
