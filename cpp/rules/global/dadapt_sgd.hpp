#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// SGD with D-Adaptation. Defazio & Mishchenko (2023), Algorithm 4, https://arxiv.org/abs/2301.07733
template <bool momentum_>
struct dadapt_sgd {
    static constexpr Names flags{"momentum"};
    static constexpr Names hyper{"lr", "momentum", "growth_rate"};
    static constexpr Names state{"s", momentum_ ? "p0" : absent};
    static constexpr Names scalars{"d", "d_numerator", "g0_norm"};

    template <class T>
    static auto at(double, double lr, double momentum, double growth_rate, double& d, double& d_numerator,
                   double& g0_norm) {
        return sum([](T, T g, T s, T) { return Terms{dot(g, g), dot(g, s), dot(s, s)}; },
                   [=, &d, &d_numerator, &g0_norm](double gg, double gs, double ss) {
                       if (g0_norm == 0) g0_norm = std::sqrt(gg);
                       const double rate = g0_norm == 0 ? 0 : d * lr / g0_norm;
                       d_numerator = d_numerator + rate * gs;
                       // |s + rate g|^2 from its parts: another sweep would read all memory once more.
                       const double square = ss + rate * (2 * gs + rate * gg);
                       if (square > 0) {
                           const double d_hat = 2 * d_numerator / std::sqrt(square);
                           if (d_hat > d) d = d_hat < d * growth_rate ? d_hat : d * growth_rate;
                       }
                       return [rate = T(rate), c = T(1 - momentum)](T& p, T g, T& s, T p0) {
                           s = s + rate * g;
                           p = momentum_ ? p + c * (p0 - s - p) : p - rate * g;
                       };
                   });
    }
};

}  // namespace
}  // namespace schuss
