#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Adagrad. Duchi, Hazan & Singer (2011), https://jmlr.org/papers/v12/duchi11a.html
template <bool eps_inside>
struct adagrad {
    static constexpr Names flags{"eps_inside"};
    static constexpr Names hyper{"lr", "lr_decay", "eps"};
    static constexpr Names state{"n"};

    template <class T>
    static auto at(double t, double lr, double lr_decay, double eps) {
        return [step = T(lr / (1 + (t - 1) * lr_decay)), eps = T(eps)](T& p, T g, T& n) {
            n = n + g * g;
            p = p - step * (g / (eps_inside ? sqrt(n + eps) : sqrt(n) + eps));
        };
    }
};

}  // namespace
}  // namespace schuss
