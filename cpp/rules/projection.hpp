/// Directions without their part along the weights, for the rules that keep the norm of scale-invariant weights.
#pragma once

#include "rules/math.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// The sweeps that find how much of a direction u lies along the weights, where these are nearly orthogonal to their
/// gradient: for each row of a tensor if all rows are, else for the tensor as one row if it is, else not at all.
/// Heo et al. (2021), https://arxiv.org/abs/2006.08217, as in the authors' code; `schuss.math.radial_part` in Python.
///
/// `u(g, slots...)` is the direction; `moved(projected, part)` returns the last body, which takes `part * p` from it.
template <class T, class Direction, class Moved>
inline auto without_radial_part(double eps, double delta, const Direction& direction, const Moved& moved) {
    const auto orthogonal = [=](double pp, double gg, double pg, double size) {
        const double lengths = maximum(std::sqrt(pp), eps) * maximum(std::sqrt(gg), eps);
        return abs(pg) / lengths < delta / std::sqrt(size);
    };
    const auto radial = [=](double pp, double pu) {
        const double length = std::sqrt(pp) + eps;
        return pu / length / length;
    };
    return sum(
        [=](T p, T g, auto... slots) -> Terms<4> {
            const T u = direction(g, slots...);
            return {dot(p, p), dot(g, g), dot(p, g), dot(p, u)};
        },
        [=](double pp, double gg, double pg, double pu, double size) {
            return across(
                Terms{pp, gg, pg, pu, orthogonal(pp, gg, pg, size) ? 1.0 : 0.0},
                [=](double pp_all, double gg_all, double pg_all, double pu_all, double rows_orthogonal, double rows) {
                    if (rows == 0) return moved(false, 0);
                    if (rows_orthogonal == rows) return moved(true, radial(pp, pu));
                    if (orthogonal(pp_all, gg_all, pg_all, size * rows)) return moved(true, radial(pp_all, pu_all));
                    return moved(false, 0);
                });
        });
}

}  // namespace
}  // namespace schuss
