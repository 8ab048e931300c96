#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Adan. Xie et al. (2022), Algorithm 1, https://arxiv.org/abs/2208.06677
struct adan {
    static constexpr Names hyper{"lr", "beta1", "beta2", "beta3", "eps", "weight_decay", "no_prox"};
    static constexpr Names state{"m", "d", "v", "previous"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double beta3, double eps, double weight_decay,
                   double no_prox) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const double bias3 = one_minus_power(beta3, t);
        // The proximal decay divides the whole new parameter: its inverse goes to both parts.
        const double keep = no_prox ? 1 - lr * weight_decay : 1 / (1 + lr * weight_decay);
        const double rate = no_prox ? lr : lr * keep;
        // The first step has no difference yet: nothing of it enters.
        return [keep = T(keep), step1 = T(rate / bias1), step2 = T(rate * beta2 / bias2), b1 = T(beta1),
                c1 = T(1 - beta1), b2 = T(beta2), c2 = T(t == 1 ? 0 : 1 - beta2), ahead = T(t == 1 ? 0 : beta2),
                b3 = T(beta3), c3 = T(1 - beta3), root = T(1 / std::sqrt(bias3)),
                eps = T(eps)](T& p, T g, T& m, T& d, T& v, T& previous) {
            const T change = g - previous;
            const T look = g + ahead * change;
            m = b1 * m + c1 * g;
            d = b2 * d + c2 * change;
            v = b3 * v + c3 * (look * look);
            p = keep * p - (step1 * m + step2 * d) / (root * sqrt(v) + eps);
            previous = g;
        };
    }
};

}  // namespace
}  // namespace schuss
