#pragma once

#include "rules/elementwise/adamw.hpp"
#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// AdaMuon. Si et al. (2025), Algorithm 1, https://arxiv.org/abs/2507.11005; AdamW for what is no matrix.
/// u is orthogonalised after the first sweep, w is Adam's quotient of it, r the factor that gives w its norm.
template <bool nesterov, bool matrix>
struct ada_muon {
    static constexpr Names flags{"nesterov", "matrix"};
    static constexpr Names hyper{"lr",          "momentum",    "beta2",    "eps", "weight_decay", "adamw_lr_ratio",
                                 "adamw_beta1", "adamw_beta2", "adamw_eps"};
    static constexpr Names work{matrix ? "u" : absent};
    static constexpr Names rows{"r"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double momentum, double beta2, double eps, double weight_decay,
                   double adamw_lr_ratio, double adamw_beta1, double adamw_beta2, double adamw_eps) {
        const auto mean = [b = T(momentum), c = T(1 - momentum)](T g, T m) { return b * m + c * g; };
        const auto ahead = [=](T g, T m) {
            if constexpr (nesterov) return mean(g, mean(g, m));
            return mean(g, m);
        };
        const auto rest = adamw::at<T>(t, lr * adamw_lr_ratio, adamw_beta1, adamw_beta2, adamw_eps, weight_decay);
        if constexpr (matrix) {
            const auto square = [b = T(beta2), c = T(1 - beta2)](T u, T v) { return b * v + c * (u * u); };
            const auto quotient = [root = T(1 / std::sqrt(one_minus_power(beta2, t))), eps = T(eps)](T u, T v) {
                return u / (root * sqrt(v) + eps);
            };
            const auto write = [=, keep = T(1 - lr * weight_decay), step = T(lr)](T& p, T g, T u, T r, T& m, T& v) {
                m = mean(g, m);
                v = square(u, v);
                p = keep * p - step * (r * quotient(u, v));
            };
            return look([=](T, T g, T, T, T m, T) { return ahead(g, m); },
                        [=] {
                            return fold<Over::rows>(
                                [=](T, T, T u, T, T, T v) {
                                    const T w = quotient(u, square(u, v));
                                    return Terms{dot(w, w)};
                                },
                                [=] { return write; });
                        });
        } else {
            return [=](T& p, T g, T, T, T& m, T& v) { rest(p, g, m, v); };
        }
    }
};

}  // namespace
}  // namespace schuss
