#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// AdaMod. Ding et al. (2019), Algorithm 2, https://arxiv.org/abs/1910.12249
struct adamod {
    static constexpr Names hyper{"lr", "beta1", "beta2", "beta3", "eps", "weight_decay"};
    static constexpr Names state{"m", "v", "s"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double beta3, double eps, double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return [keep = T(1 - lr * weight_decay), lr = T(lr), scale = T(1 / bias1), root = T(1 / std::sqrt(bias2)),
                b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2), b3 = T(beta3), c3 = T(1 - beta3),
                eps = T(eps)](T& p, T g, T& m, T& v, T& s) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            const T size = lr / (root * sqrt(v) + eps);
            s = b3 * s + c3 * size;
            p = keep * p - minimum(size, s) * (scale * m);
        };
    }
};

}  // namespace
}  // namespace schuss
