#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// MADGRAD. Defazio & Jelassi (2021), Algorithm 1, https://arxiv.org/abs/2101.11075; the step size with eps added, as
/// in the authors' code.
template <bool momentum_>
struct madgrad {
    static constexpr Names flags{"momentum"};
    static constexpr Names hyper{"lr", "momentum", "eps"};
    static constexpr Names state{"n", "s", momentum_ ? "p0" : absent};

    template <class T>
    static auto at(double t, double lr, double momentum, double eps) {
        const double weight = lr > 0 ? (lr + eps) * std::sqrt(t) : 0;
        const auto displacement = [eps = T(eps)](T n, T s) {
            const T root = cbrt(n) + eps;
            return where(root == T(0), T(0), s / root);  // eps may be 0: what has had no gradient stays
        };
        return [=, weight = T(weight), c = T(1 - momentum)](T& p, T g, T& n, T& s, T p0) {
            const T before = displacement(n, s);
            n = n + weight * (g * g);
            s = s + weight * g;
            const T after = displacement(n, s);
            // Without momentum p is the dual average itself, and the start is p + before.
            p = momentum_ ? p + c * (p0 - after - p) : p - (after - before);
        };
    }
};

}  // namespace
}  // namespace schuss
