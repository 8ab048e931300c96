#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// AMSGrad. Reddi, Kale & Kumar (2018), Algorithm 2, https://arxiv.org/abs/1904.09237
struct amsgrad {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps"};
    static constexpr Names state{"m", "v", "v_max"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return [step = T(lr / bias1), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2),
                root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& v, T& v_max) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            v_max = maximum(v_max, v);
            p = p - step * (m / (root * sqrt(v_max) + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
