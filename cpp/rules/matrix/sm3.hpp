#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// SM3. Anil, Gupta, Koren & Singer (2019), Algorithm SM3-II, https://arxiv.org/abs/1901.11150
/// `row` is the least of the accumulators of all axes but the last one, `column` that of the last one.
template <bool momentum_, bool matrix>
struct sm3 {
    static constexpr Names flags{"momentum", "matrix"};
    static constexpr Names hyper{"lr", "momentum", "beta2", "eps"};
    static constexpr Names rows{"row"};
    static constexpr Names columns{matrix ? "column" : absent};
    static constexpr Names state{matrix ? absent : "v", momentum_ ? "m" : absent};

    template <class T>
    static auto at(double, double lr, double momentum, double beta2, double eps) {
        const auto square = [a = T(beta2), b = T(beta2 < 1 ? 1 - beta2 : 1)](T g, T v) { return a * v + b * (g * g); };
        const auto move = [lr = T(lr), eps = T(eps), b = T(momentum), c = T(1 - momentum)](T& p, T g, T v, T& m) {
            const T u = where(v == T(0), T(0), g / sqrt(v + eps));
            if constexpr (momentum_) {
                m = b * m + c * u;
                p = p - lr * m;
            } else {
                p = p - lr * u;
            }
        };
        if constexpr (matrix) {
            return fold<Over::columns_largest>(
                [=](T, T g, T row, T column, T, T) { return Terms{total(square(g, minimum(row, column)))}; },
                [=] {
                    return
                        [=](T& p, T g, T row, T column, T&, T& m) { move(p, g, square(g, minimum(row, column)), m); };
                });
        } else {
            return [=](T& p, T g, T, T, T& v, T& m) {
                v = square(g, v);
                move(p, g, v, m);
            };
        }
    }
};

}  // namespace
}  // namespace schuss
