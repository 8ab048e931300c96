#pragma once

#include "rules/elementwise/adamw.hpp"
#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// PSGD-Kron. Pooladzandi & Li (2024), https://arxiv.org/abs/2402.04553; AdamW for what is no matrix.
/// Between the two sweeps `u`, the mean of the gradients, becomes the preconditioned step; `probe` is for the fit.
template <bool matrix>
struct psgd_kron {
    static constexpr Names flags{"matrix"};
    static constexpr Names hyper{"lr", "beta1", "weight_decay", "seed", "adamw_lr_ratio", "adamw_beta2", "adamw_eps"};
    static constexpr Names draws{"noise"};
    static constexpr Names work{matrix ? "u" : absent, matrix ? "probe" : absent};
    static constexpr Names numbers{"scale", "decays"};
    static constexpr Names state{"m", matrix ? absent : "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double weight_decay, double seed, double adamw_lr_ratio,
                   double adamw_beta2, double adamw_eps) {
        (void)seed;  // chooses the noise
        if constexpr (matrix) {
            const auto mean = [b = T(beta1), c = T(1 - beta1)](T g, T m) { return b * m + c * g; };
            return look([mean, unbias = T(1 / one_minus_power(beta1, t))](
                            T, T g, T noise, T, T, T m, T) { return values(unbias * mean(g, m), noise); },
                        [=](double scale, double decays) {
                            return [mean, keep = T(1 - lr * weight_decay * decays),
                                    step = T(lr * scale)](T& p, T g, T, T u, T, T& m, T&) {
                                m = mean(g, m);
                                p = keep * p - step * u;
                            };
                        });
        } else {
            const auto step = adamw::at<T>(t, lr * adamw_lr_ratio, beta1, adamw_beta2, adamw_eps, weight_decay);
            return [step](T& p, T g, T, T, T, T& m, T& v) { step(p, g, m, v); };
        }
    }
};

}  // namespace
}  // namespace schuss
