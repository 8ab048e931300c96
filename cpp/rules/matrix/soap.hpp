#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// SOAP. Vyas et al. (2025), Algorithm 3, https://arxiv.org/abs/2409.11321: Adam in the eigenbasis of Shampoo's
/// factors; the first step only makes the basis. After the first sweep the gradient `g` is turned into the basis, after
/// the second the update `u` is turned back. What is no matrix is in its own basis.
template <bool matrix>
struct soap {
    static constexpr Names flags{"matrix"};
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "bias_correction"};
    static constexpr Names work{matrix ? "g" : absent, matrix ? "u" : absent};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay,
                   double bias_correction) {
        const double steps = t - 1;
        const bool first = steps == 0;
        const double correction =
            bias_correction && !first ? std::sqrt(one_minus_power(beta2, steps)) / one_minus_power(beta1, steps) : 1;
        const auto mean = [b = T(beta1), c = T(1 - beta1)](T g, T m) { return b * m + c * g; };
        const auto square = [b = T(beta2), c = T(1 - beta2)](T g, T v) { return b * v + c * (g * g); };
        const auto update = [=, eps = T(eps)](T g, T m, T v) { return mean(g, m) / (sqrt(square(g, v)) + eps); };
        const auto write = [=, keep = T(1 - lr * weight_decay), step = T(lr * correction)](T& p, T g, T u, T& m, T& v) {
            p = where(first, p, keep * (p - step * u));
            m = where(first, m, mean(g, m));
            v = where(first, v, square(g, v));
        };
        if constexpr (matrix)
            return look([](T, T g, T, T, T, T) { return g; },
                        [=] {
                            return look<1>(
                                [=](T, T, T g, T, T m, T v) { return update(g, m, v); },
                                [=] { return [=](T& p, T, T g, T u, T& m, T& v) { write(p, g, u, m, v); }; });
                        });
        else
            return [=](T& p, T g, T, T, T& m, T& v) { write(p, g, update(g, m, v), m, v); };
    }
};

}  // namespace
}  // namespace schuss
