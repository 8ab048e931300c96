#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Fromage. Bernstein et al. (2020), Algorithm 1, https://arxiv.org/abs/2002.03432
struct fromage {
    static constexpr Names hyper{"lr"};
    static constexpr Names state{};

    template <class T>
    static auto at(double, double lr) {
        return sum([](T p, T g) { return Terms{dot(p, p), dot(g, g)}; },
                   [=](double pp, double gg) {
                       const double ratio = pp > 0 && gg > 0 ? std::sqrt(pp) / std::sqrt(gg) : 1;
                       const double back = 1 / std::sqrt(1 + lr * lr);
                       return [keep = T(back), step = T(lr * back * ratio)](T& p, T g) { p = keep * p - step * g; };
                   });
    }
};

}  // namespace
}  // namespace schuss
