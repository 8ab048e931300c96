#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Adafactor. Shazeer & Stern (2018), Algorithms 4 and 5, https://arxiv.org/abs/1804.04235; in torch's form.
/// Of a matrix the squares are kept as means of rows and columns; `row` and `column` are one over the roots of these.
template <bool momentum_, bool matrix>
struct adafactor {
    static constexpr Names flags{"momentum", "matrix"};
    static constexpr Names hyper{"lr", "beta2_decay", "eps1", "weight_decay", "momentum"};
    static constexpr Names rows{"row"};
    static constexpr Names columns{matrix ? "column" : absent};
    static constexpr Names numbers{"step"};
    static constexpr Names state{matrix ? absent : "v", momentum_ ? "m" : absent};

    template <class T>
    static auto at(double t, double lr, double beta2_decay, double eps1, double weight_decay, double momentum) {
        const auto move = [keep = T(1 - lr * weight_decay), b = T(momentum), c = T(1 - momentum)](T& p, T u, T& m) {
            if constexpr (momentum_) {
                m = b * m + c * u;
                p = keep * p - m;
            } else {
                p = keep * p - u;
            }
        };
        if constexpr (matrix) {
            const auto direction = [most = T(1 / eps1)](T g, T row, T column) {
                return g * minimum(row * column, most);
            };
            return fold<Over::columns>([](T, T g, T, T, T, T) { return Terms{dot(g, g)}; },
                                       [=](double) {
                                           return fold<Over::rows>(
                                               [=](T p, T g, T row, T column, T, T) {
                                                   const T u = direction(g, row, column);
                                                   return Terms{dot(u, u), dot(p, p)};
                                               },
                                               [=](double step) {
                                                   return [=, step = T(step)](T& p, T g, T row, T column, T&, T& m) {
                                                       move(p, step * direction(g, row, column), m);
                                                   };
                                               });
                                       });
        } else {
            const double share = power(t, beta2_decay);
            const auto square = [a = T(1 - share), b = T(share)](T g, T v) { return a * v + b * (g * g); };
            const auto direction = [least = T(eps1)](T g, T v) { return g / maximum(sqrt(v), least); };
            return fold<Over::rows>(
                [=](T p, T g, T, T, T v, T) {
                    const T u = direction(g, square(g, v));
                    return Terms{dot(u, u), dot(p, p)};
                },
                [=](double step) {
                    return [=, step = T(step)](T& p, T g, T, T, T& v, T& m) {
                        v = square(g, v);
                        move(p, step * direction(g, v), m);
                    };
                });
        }
    }
};

}  // namespace
}  // namespace schuss
