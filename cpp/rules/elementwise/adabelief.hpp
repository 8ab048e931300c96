#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// AdaBelief. Zhuang et al. (2020), Algorithm 2, https://arxiv.org/abs/2010.07468
struct adabelief {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names state{"m", "s"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return [keep = T(1 - lr * weight_decay), step = T(lr / bias1), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2),
                c2 = T(1 - beta2), root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& s) {
            m = b1 * m + c1 * g;
            const T surprise = g - m;
            s = b2 * s + c2 * (surprise * surprise) + eps;
            p = keep * p - step * (m / (root * sqrt(s) + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
