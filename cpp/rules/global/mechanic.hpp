#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Mechanic. Cutkosky, Defazio & Mehta (2023), Algorithm 1, https://arxiv.org/abs/2306.00144, in the form of the
/// authors' code in optax. Each of six learners, one per beta, has a reward r, squares v, a largest product m and a
/// scale s.
struct mechanic {
    static constexpr Names hyper{"s_init", "s_decay", "eps"};
    static constexpr Names state{"reference", "delta"};
    static constexpr Names scalars{"s1", "s2", "s3", "s4", "s5", "s6", "m1", "m2", "m3", "m4", "m5", "m6",
                                   "v1", "v2", "v3", "v4", "v5", "v6", "r1", "r2", "r3", "r4", "r5", "r6"};

    template <class T>
    static auto at(double, double s_init, double s_decay, double eps, double& s1, double& s2, double& s3, double& s4,
                   double& s5, double& s6, double& m1, double& m2, double& m3, double& m4, double& m5, double& m6,
                   double& v1, double& v2, double& v3, double& v4, double& v5, double& v6, double& r1, double& r2,
                   double& r3, double& r4, double& r5, double& r6) {
        const double scale = s1 + s2 + s3 + s4 + s5 + s6;
        const auto weight = [scale = T(scale)](T reference, T delta) { return reference + scale * delta; };
        return sum(
            [=](T, T g, T reference, T delta) {
                const T x = weight(reference, delta);
                return Terms{dot(g, delta), dot(x, delta), dot(g, g), dot(x, x)};
            },
            [=, &s1, &s2, &s3, &s4, &s5, &s6, &m1, &m2, &m3, &m4, &m5, &m6, &v1, &v2, &v3, &v4, &v5, &v6, &r1, &r2, &r3,
             &r4, &r5, &r6](double gd, double xd, double gg, double xx) {
                const double decay = s_decay * scale * std::sqrt(gg) / (std::sqrt(xx) + eps);
                const double h = -(gd + decay * xd), size = h < 0 ? -h : h;
                const auto learn = [=](double beta, double& s, double& m, double& v, double& r) {
                    const double least = h < -m ? -m : h, clipped = least > m ? m : least;
                    m = beta * m > size + eps ? beta * m : size + eps;
                    v = beta * beta * v + h * h;
                    r = beta * r + clipped * s;
                    const double wealth = s_init / 6 * m + (r > 0 ? r : 0);
                    s = wealth / (std::sqrt(v) + eps);
                };
                learn(0.9, s1, m1, v1, r1);
                learn(0.99, s2, m2, v2, r2);
                learn(0.999, s3, m3, v3, r3);
                learn(0.9999, s4, m4, v4, r4);
                learn(0.99999, s5, m5, v5, r5);
                learn(0.999999, s6, m6, v6, r6);
                return [=, scale = T(s1 + s2 + s3 + s4 + s5 + s6)](T& p, T, T reference, T& delta) {
                    delta = delta + (p - weight(reference, delta));
                    p = reference + scale * delta;
                };
            });
    }
};

}  // namespace
}  // namespace schuss
