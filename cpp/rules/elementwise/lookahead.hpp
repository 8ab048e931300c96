#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// The synchronisation of Lookahead. Zhang et al. (2019), Algorithm 1, https://arxiv.org/abs/1907.08610
struct lookahead {
    static constexpr Names hyper{"alpha"};
    static constexpr Names state{"slow"};

    template <class T>
    static auto at(double, double alpha) {
        return [alpha = T(alpha)](T& p, T, T& slow) {
            slow = slow + alpha * (p - slow);
            p = slow;
        };
    }
};

}  // namespace
}  // namespace schuss
