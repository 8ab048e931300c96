#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/projection.hpp"

namespace schuss {
namespace {

/// AdamP. Heo et al. (2021), Algorithm 2, https://arxiv.org/abs/2006.08217, in the form of the authors' code.
struct adam_p {
    static constexpr Scope scope = Scope::row;
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "delta", "wd_ratio", "nesterov"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double delta,
                   double wd_ratio, double nesterov) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const auto direction = [b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2),
                                along = T(nesterov ? beta1 : 1), ahead = T(nesterov ? 1 - beta1 : 0),
                                root = T(1 / std::sqrt(bias2)), eps = T(eps)](T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            const T mean = along * m + ahead * g;
            return mean / (root * sqrt(v) + eps);
        };
        const auto moved = [=](bool projected, double part) {
            return [=, keep = T(1 - lr * weight_decay * (projected ? wd_ratio : 1)), step = T(lr / bias1),
                    part = T(part)](T& p, T g, T& m, T& v) { p = keep * p - step * (direction(g, m, v) - part * p); };
        };
        return without_radial_part<T>(eps, delta, direction, moved);
    }
};

}  // namespace
}  // namespace schuss
