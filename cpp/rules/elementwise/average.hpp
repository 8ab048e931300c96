#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// A weighted mean of what was there and what comes. Polyak & Juditsky (1992), https://doi.org/10.1137/0330046
struct average {
    static constexpr Names hyper{"weight"};
    static constexpr Names state{};

    template <class T>
    static auto at(double, double weight) {
        return [weight = T(weight), all = T(weight == 1 ? 1 : 0)](T& p, T g) {
            p = where(all > T(0), g, p + weight * (g - p));
        };
    }
};

}  // namespace
}  // namespace schuss
