#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// RAdam. Liu et al. (2020), Algorithm 2, https://arxiv.org/abs/1908.03265; in the form of torch.optim.RAdam.
struct radam {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const double longest = 2 / (1 - beta2) - 1, length = longest - 2 * t * (1 - bias2) / bias2;
        const bool rectified = length > 5;
        double scale = 1;
        if (rectified)
            scale = std::sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length) * bias2);
        return [step = T(lr / bias1 * scale), rectified, b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2),
                c2 = T(1 - beta2), eps = T(eps)](T& p, T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            p = p - step * (m / where(rectified, sqrt(v) + eps, T(1)));
        };
    }
};

}  // namespace
}  // namespace schuss
