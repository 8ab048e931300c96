#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// LARS. You, Gitman & Ginsburg (2017), Algorithm 1, https://arxiv.org/abs/1708.03888
template <bool momentum_, bool nesterov>
struct lars {
    static constexpr Names flags{"momentum", "nesterov"};
    static constexpr bool sensible = momentum_ || !nesterov;
    static constexpr Names hyper{"lr", "momentum", "weight_decay", "trust_coefficient", "eps"};
    static constexpr Names state{momentum_ ? "buffer" : absent};

    template <class T>
    static auto at(double, double lr, double momentum, double weight_decay, double trust_coefficient, double eps) {
        return sum([](T p, T g, T) { return Terms{dot(p, p), dot(g, g)}; },
                   [=](double pp, double gg) {
                       const double norm = std::sqrt(pp), size = std::sqrt(gg) + weight_decay * norm;
                       const double ratio = norm > 0 && size > 0 ? trust_coefficient * norm / (size + eps) : 1;
                       return [step = T(lr * ratio), decay = T(weight_decay), mu = T(momentum)](T& p, T g, T& buffer) {
                           const T u = step * (g + decay * p);
                           if constexpr (momentum_) {
                               buffer = mu * buffer + u;
                               p = p - (nesterov ? u + mu * buffer : buffer);
                           } else {
                               p = p - u;
                           }
                       };
                   });
    }
};

}  // namespace
}  // namespace schuss
