#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Adamax. Kingma & Ba (2015), Algorithm 2, https://arxiv.org/abs/1412.6980; with eps as torch.optim.Adamax has it.
struct adamax {
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps"};
    static constexpr Names state{"m", "u"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps) {
        return [step = T(lr / one_minus_power(beta1, t)), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2),
                eps = T(eps)](T& p, T g, T& m, T& u) {
            m = b1 * m + c1 * g;
            u = maximum(b2 * u, abs(g) + eps);
            p = p - step * (m / u);
        };
    }
};

}  // namespace
}  // namespace schuss
