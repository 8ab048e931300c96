#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// LAMB. You et al. (2020), Algorithm 2, https://arxiv.org/abs/1904.00962
struct lamb {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const auto direction = [b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2),
                                scale = T(1 / bias1), root = T(1 / std::sqrt(bias2)), eps = T(eps),
                                decay = T(weight_decay)](T p, T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            return scale * (m / (root * sqrt(v) + eps)) + decay * p;
        };
        return sum(
            [=](T p, T g, T m, T v) {
                const T u = direction(p, g, m, v);
                return Terms{dot(p, p), dot(u, u)};
            },
            [=](double pp, double uu) {
                const double ratio = pp > 0 && uu > 0 ? std::sqrt(pp) / std::sqrt(uu) : 1;
                return [=, step = T(lr * ratio)](T& p, T g, T& m, T& v) { p = p - step * direction(p, g, m, v); };
            });
    }
};

}  // namespace
}  // namespace schuss
