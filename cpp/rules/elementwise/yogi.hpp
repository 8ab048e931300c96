#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Yogi. Zaheer et al. (2018), Algorithm 2,
/// https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization
struct yogi {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return [step = T(lr / bias1), b1 = T(beta1), c1 = T(1 - beta1), c2 = T(1 - beta2),
                root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& v) {
            const T square = g * g;
            m = b1 * m + c1 * g;
            v = v - c2 * (sign(v - square) * square);
            p = p - step * (m / (root * sqrt(v) + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
