#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Adadelta. Zeiler (2012), Algorithm 1, https://arxiv.org/abs/1212.5701; with the step size of torch.optim.Adadelta.
struct adadelta {
    static constexpr Names hyper{"lr", "rho", "eps"};
    static constexpr Names state{"v", "u"};

    template <class T>
    static auto at(double, double lr, double rho, double eps) {
        // The quotient of two roots is the root of a quotient.
        return [lr = T(lr), b = T(rho), c = T(1 - rho), eps = T(eps)](T& p, T g, T& v, T& u) {
            v = b * v + c * (g * g);
            const T d = sqrt((u + eps) / (v + eps)) * g;
            u = b * u + c * (d * d);
            p = p - lr * d;
        };
    }
};

}  // namespace
}  // namespace schuss
