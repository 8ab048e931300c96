/// The end of every sum.
#pragma once

#include "core/kernel.hpp"

namespace schuss {
namespace {

/// Adds the lanes of a chunk by halves: part of the arithmetic contract.
inline double sum_of(double (&lane)[lanes]) {
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
    return lane[0];
}

}  // namespace
}  // namespace schuss
