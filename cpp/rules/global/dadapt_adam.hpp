#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Adam with D-Adaptation. Defazio & Mishchenko (2023), Algorithm 5, https://arxiv.org/abs/2301.07733, in the form of
/// the authors' code.
struct dadapt_adam {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "growth_rate", "bias_correction"};
    static constexpr Names state{"m", "v", "s"};
    static constexpr Names scalars{"d", "d_numerator"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double growth_rate,
                   double bias_correction, double& d, double& d_numerator) {
        const double beta3 = std::sqrt(beta2);
        const double correction =
            bias_correction ? std::sqrt(one_minus_power(beta2, t)) / one_minus_power(beta1, t) : 1;
        const double rate = d * lr * correction;
        const auto distance = [b3 = T(beta3), c3 = T((1 - beta3) * rate)](T g, T s) { return b3 * s + c3 * g; };
        return sum([=, eps = T(eps)](T, T g, T, T v,
                                     T s) { return Terms{dot(g, s / (sqrt(v) + eps)), total(abs(distance(g, s)))}; },
                   [=, &d, &d_numerator](double gs, double s_norm) {
                       d_numerator = beta3 * d_numerator + (1 - beta3) * rate * gs;
                       const double scale = (1 - beta3) * s_norm;
                       if (scale > 0) {
                           const double d_hat = d_numerator / scale;
                           if (d_hat > d) d = d_hat < d * growth_rate ? d_hat : d * growth_rate;
                       }
                       return [=, keep = T(1 - weight_decay * rate), b1 = T(beta1), c1 = T((1 - beta1) * rate),
                               b2 = T(beta2), c2 = T(1 - beta2), eps = T(eps)](T& p, T g, T& m, T& v, T& s) {
                           m = b1 * m + c1 * g;
                           v = b2 * v + c2 * (g * g);
                           s = distance(g, s);
                           p = keep * p - m / (sqrt(v) + eps);
                       };
                   });
    }
};

}  // namespace
}  // namespace schuss
