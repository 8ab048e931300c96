#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Optimistic Adam. Daskalakis et al. (2018), Algorithm 1, https://arxiv.org/abs/1711.00141
struct optimistic_adam {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "optimism"};
    static constexpr Names state{"m", "v", "u"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double optimism) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return [now = T(lr * (1 + optimism)), before = T(lr * optimism), b1 = T(beta1), c1 = T(1 - beta1),
                b2 = T(beta2), c2 = T(1 - beta2), scale = T(1 / bias1), root = T(1 / std::sqrt(bias2)),
                eps = T(eps)](T& p, T g, T& m, T& v, T& u) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            const T direction = scale * (m / (root * sqrt(v) + eps));
            p = p - (now * direction - before * u);
            u = direction;
        };
    }
};

}  // namespace
}  // namespace schuss
