#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// SGD with the stochastic Polyak step size, SPS_max. Loizou et al. (2021), Equation 3,
/// https://arxiv.org/abs/2002.10542
struct polyak_sgd {
    static constexpr Names hyper{"lr", "scaling", "f_min", "eps"};
    static constexpr Names given{"loss"};
    static constexpr Names state{};

    template <class T>
    static auto at(double, double lr, double scaling, double f_min, double eps, double loss) {
        return sum([](T, T g) { return Terms{dot(g, g)}; },
                   [=](double gg) {
                       const double gap = loss < f_min ? 0 : loss - f_min, under = gg + eps;
                       double step = under > 0 ? gap / under : 0;
                       if (step > lr) step = lr;
                       return [step = T(scaling * step)](T& p, T g) { p = p - step * g; };
                   });
    }
};

}  // namespace
}  // namespace schuss
