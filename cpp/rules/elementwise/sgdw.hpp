#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// SGDW. Loshchilov & Hutter (2019), Algorithm 1, https://arxiv.org/abs/1711.05101
/// In the form of torch.optim.SGD, but for the decay.
template <bool momentum_, bool nesterov>
struct sgdw {
    static constexpr Names flags{"momentum", "nesterov"};
    static constexpr bool sensible = momentum_ || !nesterov;
    static constexpr Names hyper{"lr", "momentum", "dampening", "weight_decay"};
    static constexpr Names state{momentum_ ? "buffer" : absent};

    template <class T>
    static auto at(double t, double lr, double momentum, double dampening, double weight_decay) {
        return [keep = T(1 - lr * weight_decay), lr = T(lr), mu = T(momentum),
                c = T(t == 1 ? 1 : 1 - dampening)](T& p, T g, T& buffer) {
            if constexpr (momentum_) {
                buffer = mu * buffer + c * g;
                p = keep * p - lr * (nesterov ? g + mu * buffer : buffer);
            } else {
                p = keep * p - lr * g;
            }
        };
    }
};

}  // namespace
}  // namespace schuss
