#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// Shortens the update of a tensor, from g to p, to a root mean square of at most `limit`. Shazeer & Stern (2018),
/// section 6, https://arxiv.org/abs/1804.04235
struct rescale_update {
    static constexpr Names hyper{"limit"};
    static constexpr Names state{};

    template <class T>
    static auto at(double, double limit) {
        return sum(
            [](T p, T g) {
                const T d = p - g;
                return Terms{dot(d, d)};
            },
            [=](double dd, double size) {
                const double rms = size > 0 ? std::sqrt(dd / size) : 0;
                const bool longer = rms > limit;
                return [=, c = T(longer ? limit / rms : 1)](T& p, T g) { p = where(longer, g + c * (p - g), p); };
            });
    }
};

}  // namespace
}  // namespace schuss
