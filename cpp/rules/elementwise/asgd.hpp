#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Averaged SGD. Polyak & Juditsky (1992), https://doi.org/10.1137/0330046, with the rates of Xu (2011),
/// https://arxiv.org/abs/1107.2490; in the form of torch.optim.ASGD: the rate of a step is computed in the step before.
struct asgd {
    static constexpr Names hyper{"lr", "lambd", "alpha", "t0"};
    static constexpr Names state{"ax"};
    static constexpr Names scalars{"eta", "mu"};

    template <class T>
    static auto at(double t, double lr, double lambd, double alpha, double t0, double& eta, double& mu) {
        const double rate = t == 1 ? lr : eta, weight = t == 1 ? 1 : mu;
        eta = lr / power(1 + lambd * lr * t, alpha);
        mu = 1 / maximum(1.0, t - t0);
        return [keep = T(1 - lambd * rate), lr = T(rate), c = T(weight), copies = weight == 1](T& p, T g, T& ax) {
            p = keep * p - lr * g;
            ax = where(copies, p, ax + c * (p - ax));
        };
    }
};

}  // namespace
}  // namespace schuss
