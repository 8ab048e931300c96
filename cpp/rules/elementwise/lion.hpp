#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Lion. Chen et al. (2023), Program 1, https://arxiv.org/abs/2302.06675
struct lion {
    static constexpr Names hyper{"lr", "beta1", "beta2", "weight_decay"};
    static constexpr Names state{"m"};

    template <class T>
    static auto at(double, double lr, double beta1, double beta2, double weight_decay) {
        return [keep = T(1 - lr * weight_decay), lr = T(lr), b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2),
                c2 = T(1 - beta2)](T& p, T g, T& m) {
            p = keep * p - lr * sign(b1 * m + c1 * g);
            m = b2 * m + c2 * g;
        };
    }
};

}  // namespace
}  // namespace schuss
