#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// DoWG, distance over weighted gradients. Khaled, Mishchenko & Jin (2023), Algorithm 1,
/// https://arxiv.org/abs/2305.16284
struct dowg {
    static constexpr Names hyper{"lr", "eps"};
    static constexpr Names state{"p0"};
    static constexpr Names scalars{"r2", "v"};

    template <class T>
    static auto at(double, double lr, double eps, double& r2, double& v) {
        return sum(
            [](T p, T g, T p0) {
                const T moved = p - p0;
                return Terms{dot(g, g), dot(moved, moved)};
            },
            [=, &r2, &v](double gg, double distance2) {
                if (distance2 > r2) r2 = distance2;
                v = v + r2 * gg;
                const double root = std::sqrt(v) + eps, step = root == 0 ? 0 : lr * r2 / root;
                return [step = T(step)](T& p, T g, T) { p = p - step * g; };
            });
    }
};

}  // namespace
}  // namespace schuss
