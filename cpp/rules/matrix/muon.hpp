#pragma once

#include "rules/elementwise/adamw.hpp"
#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Muon. Jordan (2024), https://kellerjordan.github.io/posts/muon/; AdamW for what is no matrix.
/// Between the two sweeps u is orthogonalised; `scale` is the factor of the matrix's shape.
template <bool nesterov, bool matrix>
struct muon {
    static constexpr Names flags{"nesterov", "matrix"};
    static constexpr Names hyper{"lr",          "momentum",    "weight_decay", "adamw_lr_ratio",
                                 "adamw_beta1", "adamw_beta2", "adamw_eps"};
    static constexpr Names work{matrix ? "u" : absent};
    static constexpr Names numbers{"scale"};
    static constexpr Names state{"m", matrix ? absent : "v"};

    template <class T>
    static auto at(double t, double lr, double momentum, double weight_decay, double adamw_lr_ratio, double adamw_beta1,
                   double adamw_beta2, double adamw_eps) {
        const auto mean = [b = T(momentum), c = T(1 - momentum)](T g, T m) { return b * m + c * g; };
        const auto ahead = [=](T g, T m) {
            if constexpr (nesterov) return mean(g, mean(g, m));
            return mean(g, m);
        };
        const auto rest = adamw::at<T>(t, lr * adamw_lr_ratio, adamw_beta1, adamw_beta2, adamw_eps, weight_decay);
        if constexpr (matrix) {
            return look([=](T, T g, T, T m, T) { return ahead(g, m); },
                        [=](double scale) {
                            return [=, keep = T(1 - lr * weight_decay), step = T(lr * scale)](T& p, T g, T u, T& m, T) {
                                m = mean(g, m);
                                p = keep * p - step * u;
                            };
                        });
        } else {
            return [=](T& p, T g, T, T& m, T& v) { rest(p, g, m, v); };
        }
    }
};

}  // namespace
}  // namespace schuss
