#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Scion. Pethick et al. (2025), Algorithms 1 and 2, https://arxiv.org/abs/2502.07529
/// Between the two sweeps u becomes the direction under a norm of matrices; under the root of the mean square, which
/// needs no more than a sum, `factor` is one over it.
template <bool constrained, bool matrix>
struct scion {
    static constexpr Names flags{"constrained", "matrix"};
    static constexpr Names hyper{"lr", "momentum", "scale"};
    static constexpr Names work{matrix ? "u" : absent};
    static constexpr Names numbers{"factor"};
    static constexpr Names state{"m"};

    template <class T>
    static auto at(double, double lr, double momentum, double scale) {
        const auto average = [b = T(momentum), c = T(1 - momentum)](T g, T m) { return b * m + c * g; };
        const T keep = T(constrained ? 1 - lr : 1);
        if constexpr (matrix)
            return look([=](T, T g, T, T m) { return average(g, m); },
                        [=](double) {
                            return [=, step = T(lr * scale)](T& p, T g, T u, T& m) {
                                m = average(g, m);
                                p = keep * p - step * u;
                            };
                        });
        else
            return fold<Over::rows>(
                [=](T, T g, T, T m) {
                    const T mean = average(g, m);
                    return Terms{dot(mean, mean)};
                },
                [=](double factor) {
                    return [=, step = T(lr * scale * factor)](T& p, T g, T, T& m) {
                        m = average(g, m);
                        p = keep * p - step * m;
                    };
                });
    }
};

}  // namespace
}  // namespace schuss
