#pragma once

#include "rules/math.hpp"
#include "rules/names.hpp"

namespace schuss {
namespace {

/// FTRL-Proximal. McMahan et al. (2013), Algorithm 1, https://doi.org/10.1145/2487575.2488200
struct ftrl {
    static constexpr Names hyper{"lr", "beta", "lambda1", "lambda2"};
    static constexpr Names state{"z", "n"};

    template <class T>
    static auto at(double, double lr, double beta, double lambda1, double lambda2) {
        // The weights follow from z alone, so a rate of 0 needs a case of its own to leave them where they are.
        return [moves = lr > 0, inverse = T(1 / lr), rest = T(beta / lr + lambda2), lambda1 = T(lambda1)](T& p, T g,
                                                                                                          T& z, T& n) {
            const T squares = n + g * g;
            const T after = sqrt(squares);
            const T linear = z + (g - inverse * (after - sqrt(n)) * p);
            const T weight =
                where(abs(linear) <= lambda1, T(0), (lambda1 * sign(linear) - linear) / (inverse * after + rest));
            n = where(moves, squares, n);
            z = where(moves, linear, z);
            p = where(moves, weight, p);
        };
    }
};

}  // namespace
}  // namespace schuss
