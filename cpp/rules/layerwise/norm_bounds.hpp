#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// The nearest point whose Euclidean norm is within bounds: the projection on a ball or a sphere, of tensors or of
/// rows. Boyd & Vandenberghe (2004), Convex Optimization, section 8.1.1, https://web.stanford.edu/~boyd/cvxbook/
template <bool rows>
struct norm_bounds {
    static constexpr Names flags{"rows"};
    static constexpr Scope scope = rows ? Scope::row : Scope::tensor;
    static constexpr Names hyper{"lower", "upper", "slack"};
    static constexpr Names state{};

    template <class T>
    static auto at(double, double lower, double upper, double slack) {
        // Finite doubles may have infinite squares, hence the second sum. Floats have not: there T(2^-600) is 0.
        return sum([down = T(0x1p-600)](T p, T) { return Terms{dot(p, p), dot(down * p, down * p)}; },
                   [=](double pp, double scaled) {
                       const bool fits = pp < 0x1p1000;
                       const double unit = fits ? 1 : 0x1p-600, norm = std::sqrt(fits ? pp : scaled);
                       const double least = lower * unit, most = upper * unit, shrink = most / norm,
                                    grow = least / norm;
                       // Neither where the norm is NaN or infinite; 2^120: what a float can be multiplied with.
                       const bool above = norm > most * (1 + slack) && norm < 0x1p1000;
                       const bool below = norm < least * (1 - slack) && grow < 0x1p120;
                       return [c = T(above ? shrink : below ? grow : 1)](T& p, T) { p = c * p; };
                   });
    }
};

}  // namespace
}  // namespace schuss
