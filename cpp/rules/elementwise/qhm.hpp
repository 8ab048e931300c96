#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Quasi-hyperbolic momentum. Ma & Yarats (2019), https://arxiv.org/abs/1810.06801
struct qhm {
    static constexpr Names hyper{"lr", "beta", "nu", "weight_decay"};
    static constexpr Names state{"m"};

    template <class T>
    static auto at(double, double lr, double beta, double nu, double weight_decay) {
        return [keep = T(1 - lr * weight_decay), near = T(lr * (1 - nu)), far = T(lr * nu), b = T(beta),
                c = T(1 - beta)](T& p, T g, T& m) {
            m = b * m + c * g;
            p = keep * p - (near * g + far * m);
        };
    }
};

}  // namespace
}  // namespace schuss
