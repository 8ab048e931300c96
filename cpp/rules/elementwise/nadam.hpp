#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// NAdam. Dozat (2016), Algorithm 2, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
/// In the form of torch.optim.NAdam.
struct nadam {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "momentum_decay"};
    static constexpr Names state{"m", "v"};
    static constexpr Names scalars{"mu_product"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double momentum_decay,
                   double& mu_product) {
        const double mu = beta1 * (1 - 0.5 * power(0.96, t * momentum_decay));
        const double mu_next = beta1 * (1 - 0.5 * power(0.96, (t + 1) * momentum_decay));
        mu_product = mu_product * mu;
        return [now = T(lr * (1 - mu) / (1 - mu_product)), ahead = T(lr * mu_next / (1 - mu_product * mu_next)),
                b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2),
                root = T(1 / std::sqrt(one_minus_power(beta2, t))), eps = T(eps)](T& p, T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            p = p - (now * g + ahead * m) / (root * sqrt(v) + eps);
        };
    }
};

}  // namespace
}  // namespace schuss
