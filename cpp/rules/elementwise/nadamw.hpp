#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// NAdamW: AdamW with Nesterov's momentum of Dozat (2016), https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
/// In the form of the baselines of AlgoPerf, Dahl et al. (2023), https://arxiv.org/abs/2306.07179
struct nadamw {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        return [keep = T(1 - lr * weight_decay), step = T(lr / bias1), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2),
                c2 = T(1 - beta2), root = T(1 / std::sqrt(bias2)), eps = T(eps)](T& p, T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            p = keep * p - step * ((b1 * m + c1 * g) / (root * sqrt(v) + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
