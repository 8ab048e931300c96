#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Signum. Bernstein et al. (2018), Algorithm 2, https://arxiv.org/abs/1802.04434
struct signum {
    static constexpr Names hyper{"lr", "beta"};
    static constexpr Names state{"m"};

    template <class T>
    static auto at(double, double lr, double beta) {
        return [lr = T(lr), b = T(beta), c = T(1 - beta)](T& p, T g, T& m) {
            m = b * m + c * g;
            p = p - lr * sign(m);
        };
    }
};

}  // namespace
}  // namespace schuss
