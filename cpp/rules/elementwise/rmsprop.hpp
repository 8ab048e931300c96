#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// RMSprop. Tieleman & Hinton (2012), lecture 6.5; centered: Graves (2013), https://arxiv.org/abs/1308.0850
template <bool centered, bool momentum_, bool eps_inside>
struct rmsprop {
    static constexpr Names flags{"centered", "momentum", "eps_inside"};
    static constexpr Names hyper{"lr", "alpha", "eps", "momentum"};
    static constexpr Names state{"v", centered ? "m" : absent, momentum_ ? "buffer" : absent};

    template <class T>
    static auto at(double, double lr, double alpha, double eps, double momentum) {
        return [lr = T(lr), a = T(alpha), c = T(1 - alpha), eps = T(eps), mu = T(momentum)](T& p, T g, T& v, T& m,
                                                                                            T& buffer) {
            v = a * v + c * (g * g);
            T w = v;
            if constexpr (centered) {
                m = a * m + c * g;
                w = maximum(v - m * m, T(0));  // rounding can make the variance negative
            }
            const T u = g / (eps_inside ? sqrt(w + eps) : sqrt(w) + eps);
            if constexpr (momentum_) buffer = mu * buffer + u;
            p = p - lr * (momentum_ ? buffer : u);
        };
    }
};

}  // namespace
}  // namespace schuss
