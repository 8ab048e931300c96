#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// Rprop. Riedmiller & Braun (1993), without their backtracking: iRprop- of Igel & Huesken (2000).
struct rprop {
    static constexpr Names hyper{"lr", "eta_minus", "eta_plus", "step_min", "step_max"};
    static constexpr Names state{"prev", "step_size"};

    template <class T>
    static auto at(double t, double lr, double eta_minus, double eta_plus, double step_min, double step_max) {
        // The slot starts at 0: lr enters it once. Without lr there is no least size either, so that nothing moves.
        return [start = T(t == 1 ? lr : 0), minus = T(eta_minus), plus = T(eta_plus), lower = T(lr > 0 ? step_min : 0),
                upper = T(step_max)](T& p, T g, T& prev, T& step_size) {
            const T turn = g * sign(prev);  // the product of the two gradients may underflow
            const T old = step_size + start;
            const T kept = where(turn < T(0), T(0), g);
            const T scaled = where(turn > T(0), plus * old, where(turn < T(0), minus * old, old));
            step_size = clip(scaled, lower, upper);
            p = p - sign(kept) * step_size;
            prev = kept;
        };
    }
};

}  // namespace
}  // namespace schuss
