/// Normal numbers from a counter: a function of seed, step, the tensor's stream and the element, so that no thread,
/// chunk or vector width can change them, and a checkpoint needs no more than the seed and the step.
/// `schuss.math.normals` in Python.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/kernel.hpp"

namespace schuss {
namespace {

struct Words {
    std::uint32_t low, high;
};

/// Threefry-2x32 with 20 rounds. Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3. Additions,
/// rotations and exclusive ors of 32 bits alone: every instruction set has vectors of them.
inline Words threefry(Words key, Words counter) {
    constexpr int rotation[8] = {13, 15, 26, 6, 17, 29, 16, 24};
    const std::uint32_t keys[3] = {key.low, key.high, 0x1bd11bdau ^ key.low ^ key.high};
    std::uint32_t x = counter.low + keys[0], y = counter.high + keys[1];
    for (std::uint32_t group = 0; group < 5; ++group) {
        for (std::uint32_t round = 0; round < 4; ++round) {
            x += y;
            y = std::rotl(y, rotation[4 * (group % 2) + round]) ^ x;
        }
        x += keys[(group + 1) % 3];
        y += keys[(group + 2) % 3] + group + 1;
    }
    return {x, y};
}

inline Words words_of(std::uint64_t x) {
    return {std::uint32_t(x), std::uint32_t(x >> 32)};
}

template <int n>
inline double horner(const double (&coefficient)[n], double x) {
    double sum = coefficient[n - 1];
    for (int i = n - 2; i >= 0; --i) sum = sum * x + coefficient[i];
    return sum;
}

/// The logarithm of a number in [2^-1000, sqrt(2)], to 2 units in the last place: log(m) - n log(2), with m = 2^n x in
/// [sqrt(1/2), sqrt(2)] and the series of the inverse hyperbolic tangent.
inline double log_of_fraction(double x) {
    constexpr double odd[10] = {2.0,      2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,
                                2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19};
    constexpr std::uint64_t root_of_two = 0x3ff6a09e667f3bcdu;
    const std::uint64_t bits = std::bit_cast<std::uint64_t>(x), n = (root_of_two - bits) >> 52;
    const double m = std::bit_cast<double>(bits + (n << 52));
    const double s = (m - 1.0) / (m + 1.0);
    // The bits of 2^52 + n: no instruction set before AVX-512 makes a double of a 64-bit integer.
    const double count = std::bit_cast<double>(n | 0x4330000000000000u) - 0x1p52;
    return s * horner(odd, s * s) - count * 0.6931471805599453;
}

/// The normal number below which a share of the normal distribution lies, for 0 < share < 1. Wichura (1988), Algorithm
/// AS 241: PPND16, accurate to about 1 part in 10^16; all three regions computed and one chosen. Clang would not inline
/// it, and a loop with a call is no vector code.
[[gnu::always_inline]] inline double normal_quantile(double share) {
    constexpr double center[8] = {3.3871328727963666080e0,  1.3314166789178437745e+2, 1.9715909503065514427e+3,
                                  1.3731693765509461125e+4, 4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                  3.3430575583588128105e+4, 2.5090809287301226727e+3};
    constexpr double under_center[8] = {1.0,
                                        4.2313330701600911252e+1,
                                        6.8718700749205790830e+2,
                                        5.3941960214247511077e+3,
                                        2.1213794301586595867e+4,
                                        3.9307895800092710610e+4,
                                        2.8729085735721942674e+4,
                                        5.2264952788528545610e+3};
    constexpr double flank[8] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                                 3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                                 2.27238449892691845833e-2, 7.74545014278341407640e-4};
    constexpr double under_flank[8] = {1.0,
                                       2.05319162663775882187e0,
                                       1.67638483018380384940e0,
                                       6.89767334985100004550e-1,
                                       1.48103976427480074590e-1,
                                       1.51986665636164571966e-2,
                                       5.47593808499534494600e-4,
                                       1.05075007164441684324e-9};
    constexpr double tail[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                                2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                2.71155556874348757815e-5, 2.01033439929228813265e-7};
    constexpr double under_tail[8] = {1.0,
                                      5.99832206555887937690e-1,
                                      1.36929880922735805310e-1,
                                      1.48753612908506148525e-2,
                                      7.86869131145613259100e-4,
                                      1.84631831751005468180e-5,
                                      1.42151175831644588870e-7,
                                      2.04426310338993978564e-15};
    const double q = share - 0.5;
    const double rest = q < 0 ? share : 1.0 - share;
    const double r = std::sqrt(-log_of_fraction(rest));
    const double near = 0.180625 - q * q, middle = r - 1.6, far = r - 5.0;
    const double outside = r <= 5.0 ? horner(flank, middle) : horner(tail, far);
    const double under_outside = r <= 5.0 ? horner(under_flank, middle) : horner(under_tail, far);
    const bool inside = std::fabs(q) <= 0.425;
    const double size =
        (inside ? horner(center, near) : outside) / (inside ? horner(under_center, near) : under_outside);
    return inside ? q * size : q < 0 ? -size : size;
}

/// Normal numbers for the elements [first, first + size) of a tensor.
template <class T>
[[gnu::noinline]] void draw_normals(std::uint64_t seed, std::uint64_t t, std::uint64_t stream, std::uint64_t first,
                                    int size, T* to) {
    const Words key = threefry(threefry(words_of(seed), words_of(t)), words_of(stream));
    alignas(64) std::uint32_t low[block_size], high[block_size];
#pragma omp simd
    for (int i = 0; i < size; ++i) {
        const Words drawn = threefry(key, words_of(first + std::uint64_t(i)));
        low[i] = drawn.low;
        high[i] = drawn.high;
    }
#pragma omp simd
    for (int i = 0; i < size; ++i) {
        // 52 bits behind the exponent of 1, and half of the last of them: never 0, never 1.
        const std::uint64_t mantissa = std::uint64_t(high[i]) << 20 | low[i] >> 12;
        const double share = std::bit_cast<double>(0x3ff0000000000000u | mantissa) - 1.0 + 0x1p-53;
        to[i] = T(normal_quantile(share));
    }
}

}  // namespace
}  // namespace schuss
