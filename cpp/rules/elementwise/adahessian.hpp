#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// AdaHessian. Yao et al. (2021), Algorithm 1, https://arxiv.org/abs/2006.00719, with Hessian power 1 or 1/2.
template <bool half_power>
struct adahessian {
    static constexpr Names flags{"half_power"};
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names inputs{"hessian"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const double root = 1 / std::sqrt(bias2);
        return [keep = T(1 - lr * weight_decay), step = T(lr / bias1), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2),
                c2 = T(1 - beta2), root = T(half_power ? std::sqrt(root) : root),
                eps = T(eps)](T& p, T g, T h, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (h * h);
            const T size = half_power ? sqrt(sqrt(v)) : sqrt(v);
            p = keep * p - step * (m / (root * size + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
