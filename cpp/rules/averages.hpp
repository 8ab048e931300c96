/// Averages of the iterates, for the rules that are evaluated at one.
#pragma once

#include "rules/math.hpp"

namespace schuss {
namespace {

/// The share that the newest iterate has in a schedule-free average: iterates weigh t^r times a power of the largest
/// rate so far. `schuss.math.newest_share` in Python.
inline double newest_share(double t, double rate, double r, double exponent, double& rate_max, double& weight_sum) {
    if (rate > rate_max) rate_max = rate;
    const double weight = power(t, r) * power(rate_max, exponent);
    weight_sum += weight;
    return weight_sum > 0 ? weight / weight_sum : 0;
}

}  // namespace
}  // namespace schuss
