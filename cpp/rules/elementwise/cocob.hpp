#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// COCOB-Backprop. Orabona & Tommasi (2017), Algorithm 2, https://arxiv.org/abs/1705.07795
struct cocob {
    static constexpr Names hyper{"lr", "alpha"};
    static constexpr Names state{"s", "n", "largest", "reward", "p0"};

    template <class T>
    static auto at(double, double lr, double alpha) {
        return [lr = T(lr), alpha = T(alpha)](T& p, T g, T& s, T& n, T& largest, T& reward, T p0) {
            const T h = lr * g;
            largest = maximum(largest, abs(h));
            n = n + abs(h);
            reward = maximum(reward - h * (p - p0), T(0));
            s = s + h;
            const T scale = largest * maximum(n + largest, alpha * largest);
            // The start of `largest` may round to 0 in its storage: no bet then.
            p = p0 - where(scale == T(0), T(0), s / scale * (largest + reward));
        };
    }
};

}  // namespace
}  // namespace schuss
