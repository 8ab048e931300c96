#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// QHAdam. Ma & Yarats (2019), https://arxiv.org/abs/1810.06801
struct qhadam {
    static constexpr Names hyper{"lr", "beta1", "beta2", "nu1", "nu2", "eps", "weight_decay"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double nu1, double nu2, double eps,
                   double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return [keep = T(1 - lr * weight_decay), near1 = T(lr * (1 - nu1)), far1 = T(lr * nu1 / bias1), b1 = T(beta1),
                c1 = T(1 - beta1), near2 = T(1 - nu2), far2 = T(nu2 / bias2), b2 = T(beta2), c2 = T(1 - beta2),
                eps = T(eps)](T& p, T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            p = keep * p - (near1 * g + far1 * m) / (sqrt(near2 * (g * g) + far2 * v) + eps);
        };
    }
};

}  // namespace
}  // namespace schuss
