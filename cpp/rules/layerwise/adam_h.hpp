#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// AdamH: Adam on the sphere of its tensor's norm ("hyperball"), as in the speed runs of
/// https://github.com/KellerJordan/modded-nanogpt
struct adam_h {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const auto direction = [b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2),
                                scale = T(1 / bias1), root = T(1 / std::sqrt(bias2)), eps = T(eps)](T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            return scale * (m / (root * sqrt(v) + eps));
        };
        return sum(
            [=](T p, T g, T m, T v) {
                const T u = direction(g, m, v);
                return Terms{dot(p, p), dot(u, u)};
            },
            [=](double pp, double uu) {
                const double ratio = pp > 0 && uu > 0 ? std::sqrt(pp) / std::sqrt(uu) : 1;
                const auto moved = [=, step = T(lr * ratio)](T p, T g, T& m, T& v) {
                    return p - step * direction(g, m, v);
                };
                return sum(
                    [=](T p, T g, T m, T v) {
                        const T q = moved(p, g, m, v);
                        return Terms{dot(q, q)};
                    },
                    [=](double qq) {
                        const double radius = pp > 0 && qq > 0 ? std::sqrt(pp) / std::sqrt(qq) : 1;
                        return [=, back = T(radius)](T& p, T g, T& m, T& v) { p = back * moved(p, g, m, v); };
                    });
            });
    }
};

}  // namespace
}  // namespace schuss
