#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Stochastic gradient descent with momentum. Polyak (1964); Sutskever et al. (2013); in the form of torch.optim.SGD:
/// the rate is outside the buffer, and the first gradient enters the buffer undamped.
template <bool momentum_, bool nesterov>
struct sgd {
    static constexpr Names flags{"momentum", "nesterov"};
    static constexpr bool sensible = momentum_ || !nesterov;
    static constexpr Names hyper{"lr", "momentum", "dampening"};
    static constexpr Names state{momentum_ ? "buffer" : absent};

    template <class T>
    static auto at(double t, double lr, double momentum, double dampening) {
        return [lr = T(lr), mu = T(momentum), c = T(t == 1 ? 1 : 1 - dampening)](T& p, T g, T& buffer) {
            if constexpr (momentum_) {
                buffer = mu * buffer + c * g;
                p = p - lr * (nesterov ? g + mu * buffer : buffer);
            } else {
                p = p - lr * g;
            }
        };
    }
};

}  // namespace
}  // namespace schuss
