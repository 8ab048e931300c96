#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// A running sum of gradients, which replaces what was there before its first step.
struct accumulate {
    static constexpr Names hyper{};
    static constexpr Names state{};

    template <class T>
    static auto at(double t) {
        return [first = T(t == 1 ? 1 : 0)](T& p, T g) { p = where(first > T(0), g, p + g); };
    }
};

}  // namespace
}  // namespace schuss
