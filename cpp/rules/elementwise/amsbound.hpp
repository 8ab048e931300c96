#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// AMSBound. Luo et al. (2019), Algorithm 3, https://arxiv.org/abs/1902.09843, in the form of the authors' code.
struct amsbound {
    static constexpr Names hyper{"lr", "beta1", "beta2", "final_lr", "gamma", "eps"};
    static constexpr Names state{"m", "v", "v_max"};
    static constexpr Names scalars{"base_lr"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double final_lr, double gamma, double eps,
                   double& base_lr) {
        if (base_lr == 0) base_lr = lr;  // a warm-up may start from 0
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const double middle = base_lr > 0 ? final_lr * (lr / base_lr) : 0;
        return [step = T(lr * std::sqrt(bias2) / bias1), lower = T(middle * (1 - 1 / (gamma * t + 1))),
                upper = T(middle * (1 + 1 / (gamma * t))), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2),
                c2 = T(1 - beta2), eps = T(eps)](T& p, T g, T& m, T& v, T& v_max) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            v_max = maximum(v_max, v);
            p = p - clip(step / (sqrt(v_max) + eps), lower, upper) * m;
        };
    }
};

}  // namespace
}  // namespace schuss
