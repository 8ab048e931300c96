#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/projection.hpp"

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
        const auto moved = [=](bool projected, double part) {
            return [=, keep = T(1 - lr * weight_decay * (projected ? wd_ratio : 1) / (1 - momentum)), step = T(lr),
                    part = T(part)](T& p, T g, T& buffer) { p = keep * p - step * (direction(g, buffer) - part * p); };
        };
        return without_radial_part<T>(eps, delta, direction, moved);
    }
};

}  // namespace
}  // namespace schuss
