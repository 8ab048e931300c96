#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Tiger. Su (2023), https://github.com/bojone/tiger, without its step sizes that follow the size of a tensor.
struct tiger {
    static constexpr Names hyper{"lr", "beta", "weight_decay"};
    static constexpr Names state{"m"};

    template <class T>
    static auto at(double, double lr, double beta, double weight_decay) {
        return [keep = T(1 - lr * weight_decay), lr = T(lr), b = T(beta), c = T(1 - beta)](T& p, T g, T& m) {
            m = b * m + c * g;
            p = keep * p - lr * sign(m);
        };
    }
};

}  // namespace
}  // namespace schuss
