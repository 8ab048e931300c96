#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Averaged momentum: a step along the running mean of the gradients, which starts at zero.
struct momentum {
    static constexpr Names hyper{"lr", "beta"};
    static constexpr Names state{"v"};

    template <class T>
    static auto at(double, double lr, double beta) {
        return [lr = T(lr), b = T(beta), c = T(1 - beta)](T& p, T g, T& v) {
            v = b * v + c * g;
            p = p - lr * v;
        };
    }
};

}  // namespace
}  // namespace schuss
