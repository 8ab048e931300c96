#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// CAME. Luo, Ren, Zheng, Jiang, Jiang & You (2023), Algorithm 2, https://arxiv.org/abs/2307.02047
/// Of a matrix two squares are kept as means of rows and columns; `row` and `column` are one over the roots of those of
/// the gradient, `row_distance` and `column_distance` of those of the distance between a direction and the mean.
template <bool matrix>
struct came {
    static constexpr Names flags{"matrix"};
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps1", "weight_decay"};
    static constexpr Names rows{"row", "row_distance"};
    static constexpr Names columns{matrix ? "column" : absent, matrix ? "column_distance" : absent};
    static constexpr Names numbers{"scale"};
    static constexpr Names state{"m", matrix ? absent : "v"};

    template <class T>
    static auto at(double, double lr, double beta1, double beta2, double eps1, double weight_decay) {
        [[maybe_unused]] const auto square = [a = T(beta2), b = T(1 - beta2), eps = T(eps1)](T g, T v) {
            return a * v + b * (g * g + eps);
        };
        const auto mean = [b = T(beta1), c = T(1 - beta1)](T u, T m) { return b * m + c * u; };
        const auto move = [keep = T(1 - lr * weight_decay), lr = T(lr)](T& p, T u) { p = keep * p - lr * u; };
        if constexpr (matrix) {
            const auto direction = [](T g, T row, T column) { return g * (row * column); };
            return fold<Over::columns>([](T, T g, T, T, T, T, T, T) { return Terms{dot(g, g)}; },
                                       [=](double) {
                                           return fold<Over::rows>(
                                               [=](T, T g, T row, T, T column, T, T, T) {
                                                   const T u = direction(g, row, column);
                                                   return Terms{dot(u, u)};
                                               },
                                               [=](double scale) {
                                                   return fold<Over::columns>(
                                                       [=, scale = T(scale)](T, T g, T row, T, T column, T, T m, T) {
                                                           const T u = scale * direction(g, row, column);
                                                           const T distance = u - mean(u, m);
                                                           return Terms{dot(distance, distance)};
                                                       },
                                                       [=](double) {
                                                           return [=, scale = T(scale)](T& p, T g, T row,
                                                                                        T row_distance, T column,
                                                                                        T column_distance, T& m, T&) {
                                                               m = mean(scale * direction(g, row, column), m);
                                                               move(p, m * (row_distance * column_distance));
                                                           };
                                                       });
                                               });
                                       });
        } else {
            return fold<Over::rows>(
                [=](T, T g, T, T, T, T, T, T v) {
                    const T u = g / sqrt(square(g, v));
                    return Terms{dot(u, u)};
                },
                [=](double scale) {
                    return [=, scale = T(scale)](T& p, T g, T, T, T, T, T& m, T& v) {
                        v = square(g, v);
                        m = mean(scale * (g / sqrt(v)), m);
                        move(p, m);
                    };
                });
        }
    }
};

}  // namespace
}  // namespace schuss
