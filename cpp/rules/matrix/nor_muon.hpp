#pragma once

#include "rules/elementwise/adamw.hpp"
#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// NorMuon. Li et al. (2025), Algorithm 1, https://arxiv.org/abs/2510.05491; AdamW for what is no matrix.
/// u is orthogonalised after the first sweep; r is the factor of a row, from the means of its squares so far.
template <bool nesterov, bool matrix>
struct nor_muon {
    static constexpr Names flags{"nesterov", "matrix"};
    static constexpr Names hyper{"lr",          "momentum",    "weight_decay", "adamw_lr_ratio",
                                 "adamw_beta1", "adamw_beta2", "adamw_eps"};
    static constexpr Names work{matrix ? "u" : absent};
    static constexpr Names rows{"r"};
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
            const auto write = [=, keep = T(1 - lr * weight_decay), step = T(lr)](T& p, T g, T u, T r, T& m, T) {
                m = mean(g, m);
                p = keep * p - step * (r * u);
            };
            return look([=](T, T g, T, T, T m, T) { return ahead(g, m); },
                        [=] {
                            return fold<Over::rows>([](T, T, T u, T, T, T) { return Terms{dot(u, u)}; },
                                                    [=] { return write; });
                        });
        } else {
            return [=](T& p, T g, T, T, T& m, T& v) { rest(p, g, m, v); };
        }
    }
};

}  // namespace
}  // namespace schuss
