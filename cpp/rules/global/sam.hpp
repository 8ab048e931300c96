#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

/// SAM's ascent: the weights of about the largest loss near the present ones. Foret et al. (2021), equation 2,
/// https://arxiv.org/abs/2010.01412; adaptive: Kwon et al. (2021), https://arxiv.org/abs/2102.11600, with the authors'
/// eta.
template <bool adaptive>
struct sam {
    static constexpr Names flags{"adaptive"};
    static constexpr Names hyper{"rho", "eta"};
    static constexpr Names state{"before"};

    template <class T>
    static auto at(double, double rho, double eta) {
        const auto scaled = [eta = T(eta)](T p, T x) {
            if constexpr (adaptive)
                return x * (abs(p) + eta);
            else
                return x;
        };
        return sum(
            [=](T p, T g, T) {
                const T u = scaled(p, g);
                return Terms{dot(u, u)};
            },
            [=](double uu) {
                const double norm = std::sqrt(uu), radius = norm == 0 ? 0 : rho / norm;
                return [=, radius = T(radius)](T& p, T g, T& before) {
                    before = p;
                    p = p + radius * scaled(p, scaled(p, g));
                };
            });
    }
};

}  // namespace
}  // namespace schuss
