#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// signSGD. Bernstein et al. (2018), Algorithm 1, https://arxiv.org/abs/1802.04434
struct signsgd {
    static constexpr Names hyper{"lr"};
    static constexpr Names state{};

    template <class T>
    static auto at(double, double lr) {
        return [lr = T(lr)](T& p, T g) { p = p - lr * sign(g); };
    }
};

}  // namespace
}  // namespace schuss
