#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Shampoo. Gupta, Koren & Singer (2018), Algorithm 1, https://arxiv.org/abs/1802.09568, with grafting and a mean as in
/// Shi et al. (2023), Algorithm 2, https://arxiv.org/abs/2309.06497. Between the two sweeps the factors take in the
/// gradient `g`, and the mean `u` is multiplied with their roots and scaled to the length of the grafted step `d`.
template <bool graft_beta2_, bool matrix>
struct shampoo {
    static constexpr Names flags{"graft_beta2", "matrix"};
    static constexpr Names hyper{
        "lr", "beta1", "beta3", "weight_decay", "graft_beta2", "graft_eps", "graft_bias_correction", "bias_correction"};
    static constexpr Names work = graft_beta2_
                                      ? Names{matrix ? "g" : absent, matrix ? "u" : absent, matrix ? "d" : absent}
                                      : Names{matrix ? "g" : absent, matrix ? "u" : absent};
    static constexpr Names state{"m", graft_beta2_ ? "v" : absent};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta3, double weight_decay, double graft_beta2,
                   double graft_eps, double graft_bias_correction, double bias_correction) {
        const double now = beta3 < 0 ? beta1 : beta3;
        const double bias1 = bias_correction ? 1 - now * power(beta1, t - 1) : 1;
        const bool sums = graft_beta2 == 1;
        const double bias2 = graft_bias_correction && !sums ? one_minus_power(graft_beta2, t) : 1;
        const auto mean = [scale = T(1 / bias1), b = T(now), c = T(1 - now)](T g, T m) {
            return scale * (b * m + c * g);
        };
        const auto square = [b = T(graft_beta2), c = T(sums ? 1 : 1 - graft_beta2)](T g, T v) {
            return b * v + c * (g * g);
        };
        const auto grafted = [=, root = T(1 / std::sqrt(bias2)), eps = T(graft_eps)](T u, T v) {
            if constexpr (graft_beta2_)
                return u / (root * sqrt(v) + eps);
            else
                return u;
        };
        const auto write = [=, keep = T(1 - lr * weight_decay), lr = T(lr), b = T(beta1),
                            c = T(1 - beta1)](T& p, T g, T u, T& m, T& v) {
            m = b * m + c * g;
            if constexpr (graft_beta2_) v = square(g, v);
            p = keep * p - lr * u;
        };
        if constexpr (!matrix && graft_beta2_)
            return [=](T& p, T g, T, T, T, T& m, T& v) { write(p, g, grafted(mean(g, m), square(g, v)), m, v); };
        else if constexpr (!matrix)
            return [=](T& p, T g, T, T, T& m, T& v) { write(p, g, mean(g, m), m, v); };
        else if constexpr (graft_beta2_)
            return look(
                [=](T, T g, T, T, T, T m, T v) {
                    const T u = mean(g, m);
                    return values(g, u, grafted(u, square(g, v)));
                },
                [=] { return [=](T& p, T g, T, T u, T, T& m, T& v) { write(p, g, u, m, v); }; });
        else
            return look([=](T, T g, T, T, T m, T) { return values(g, mean(g, m)); },
                        [=] { return [=](T& p, T g, T, T u, T& m, T& v) { write(p, g, u, m, v); }; });
    }
};

}  // namespace
}  // namespace schuss
