#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// SGDP. Heo et al. (2021), Algorithm 1, https://arxiv.org/abs/2006.08217, in the form of the authors' code.
template <bool momentum_, bool nesterov>
struct sgdp {
    static constexpr Scope scope = Scope::row;
    static constexpr Names flags{"momentum", "nesterov"};
    static constexpr bool sensible = momentum_ || !nesterov;
    static constexpr Names hyper{"lr", "momentum", "dampening", "eps", "weight_decay", "delta", "wd_ratio"};
    static constexpr Names state{momentum_ ? "buffer" : absent};

    template <class T>
    static auto at(double, double lr, double momentum, double dampening, double eps, double weight_decay, double delta,
                   double wd_ratio) {
        const auto direction = [mu = T(momentum), c = T(1 - dampening)](T g, T& buffer) {
            if constexpr (momentum_) {
                buffer = mu * buffer + c * g;
                return nesterov ? g + mu * buffer : buffer;
            } else {
                return c * g;
            }
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
            return [=, keep = T(1 - lr * weight_decay * (projected ? wd_ratio : 1) / (1 - momentum)), step = T(lr),
                    part = T(part)](T& p, T g, T& buffer) { p = keep * p - step * (direction(g, buffer) - part * p); };
        };
        return sum(
            [=](T p, T g, T buffer) {
                const T u = direction(g, buffer);
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
