#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// DoG, distance over gradients. Ivgi, Hinder & Carmon (2023), equation 1, https://arxiv.org/abs/2302.12022
struct dog {
    static constexpr Names hyper{"lr", "initial_distance", "eps"};
    static constexpr Names state{"p0"};
    static constexpr Names scalars{"r", "n"};

    template <class T>
    static auto at(double, double lr, double initial_distance, double eps, double& r, double& n) {
        return sum(
            [](T p, T g, T p0) {
                const T moved = p - p0;
                return Terms{dot(g, g), dot(moved, moved), dot(p0, p0)};
            },
            [=, &r, &n](double gg, double distance2, double start2) {
                if (r == 0) r = initial_distance * (1 + std::sqrt(start2));
                const double distance = std::sqrt(distance2);
                if (distance > r) r = distance;
                n = n + gg;
                const double root = std::sqrt(n + eps), step = root == 0 ? 0 : lr * r / root;
                return [step = T(step)](T& p, T g, T) { p = p - step * g; };
            });
    }
};

}  // namespace
}  // namespace schuss
