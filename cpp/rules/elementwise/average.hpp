#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// A weighted mean of what was there and what comes, or its square. Polyak & Juditsky (1992),
/// https://doi.org/10.1137/0330046
template <bool squares>
struct average {
    static constexpr Names flags{"squares"};
    static constexpr Names hyper{"weight"};
    static constexpr Names state{};

    template <class T>
    static auto at(double, double weight) {
        return [weight = T(weight), all = T(weight == 1 ? 1 : 0)](T& p, T g) {
            const T x = squares ? g * g : g;
            p = where(all > T(0), x, p + weight * (x - p));
        };
    }
};

}  // namespace
}  // namespace schuss
