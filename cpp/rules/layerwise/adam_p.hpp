#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// AdamP. Heo et al. (2021), Algorithm 2, https://arxiv.org/abs/2006.08217, in the form of the authors' code.
struct adam_p {
    static constexpr Scope scope = Scope::row;
    static constexpr Names hyper{"lr", "beta1", "beta2", "eps", "weight_decay", "delta", "wd_ratio", "nesterov"};
    static constexpr Names state{"m", "v"};

    template <class T>
    static auto at(double t, double lr, double beta1, double beta2, double eps, double weight_decay, double delta,
                   double wd_ratio, double nesterov) {
        const double bias1 = one_minus_power(beta1, t), bias2 = one_minus_power(beta2, t);
        const auto direction = [b1 = T(beta1), c1 = T(1 - beta1), b2 = T(beta2), c2 = T(1 - beta2),
                                along = T(nesterov ? beta1 : 1), ahead = T(nesterov ? 1 - beta1 : 0),
                                root = T(1 / std::sqrt(bias2)), eps = T(eps)](T g, T& m, T& v) {
            m = b1 * m + c1 * g;
            v = b2 * v + c2 * (g * g);
            const T mean = along * m + ahead * g;
            return mean / (root * sqrt(v) + eps);
        };
        const auto orthogonal = [=](double pp, double gg, double pg, double size) {
            const double lengths = maximum(std::sqrt(pp), eps) * maximum(std::sqrt(gg), eps);
            return abs(pg) / lengths < delta / std::sqrt(size);
        };
        const auto radial = [=](double pp, double pu) {
            const double length = std::sqrt(pp) + eps;
            return pu / length / length;
        };
        const auto moved = [=](bool projected, double part) {
            return [=, keep = T(1 - lr * weight_decay * (projected ? wd_ratio : 1)), step = T(lr / bias1),
                    part = T(part)](T& p, T g, T& m, T& v) { p = keep * p - step * (direction(g, m, v) - part * p); };
        };
        return sum(
            [=](T p, T g, T m, T v) {
                const T u = direction(g, m, v);
                return Terms{dot(p, p), dot(g, g), dot(p, g), dot(p, u)};
            },
            [=](double pp, double gg, double pg, double pu, double size) {
                return across(Terms{pp, gg, pg, pu, orthogonal(pp, gg, pg, size) ? 1.0 : 0.0},
                              [=](double pp_all, double gg_all, double pg_all, double pu_all, double rows_orthogonal,
                                  double rows) {
                                  if (rows == 0) return moved(false, 0);
                                  if (rows_orthogonal == rows) return moved(true, radial(pp, pu));
                                  if (orthogonal(pp_all, gg_all, pg_all, size * rows))
                                      return moved(true, radial(pp_all, pu_all));
                                  return moved(false, 0);
                              });
            });
    }
};

}  // namespace
}  // namespace schuss
