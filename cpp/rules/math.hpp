/// The vocabulary of a rule besides + - x /: each word is branch-free and equals the NumPy function of that name bit
/// for bit, NaN included (the sign of a zero in a tie of maximum, minimum and clip is not promised).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "rules/elementary.hpp"

namespace schuss {
namespace {

template <class T>
inline T sqrt(T x) {
    return std::sqrt(x);
}

template <class T>
inline T abs(T x) {
    return std::fabs(x);
}

/// 1, 0 or -1; sign(0) is 0 for both zeros, sign(NaN) is NaN.
template <class T>
inline T sign(T x) {
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : x == T(0) ? T(0) : x;
}

template <class T>
inline T where(bool condition, T a, T b) {
    return condition ? a : b;
}

/// The larger; NaN if either is.
template <class T>
inline T maximum(T a, T b) {
    const T larger = a > b ? a : b;  // b where either is NaN
    return a != a ? a : larger;
}

/// The smaller; NaN if either is.
template <class T>
inline T minimum(T a, T b) {
    const T smaller = a < b ? a : b;
    return a != a ? a : smaller;
}

template <class T>
inline T clip(T x, T lower, T upper) {
    return minimum(maximum(x, lower), upper);
}

/// The cube root, to 6 units in the last place. Ours, since NumPy's is the C library's, which no loop can call:
/// Newton's iteration for x^(-1/3), which has no division, from a guess that divides the exponent by -3 (error 3.4%).
template <class T>
inline T cbrt(T x) {
    constexpr bool single = sizeof(T) == 4;
    using Bits = std::conditional_t<single, std::uint32_t, std::uint64_t>;
    constexpr Bits magic = Bits(single ? 0x54a21cacu : 0x553edbc01a36e400u);
    // Subnormal numbers have no exponent to divide: 2^54 makes all of them normal, and its cube root is exact.
    const bool tiny = abs(x) < std::numeric_limits<T>::min();
    const T size = tiny ? abs(x) * T(0x1p54) : abs(x);
    Bits third = std::bit_cast<Bits>(size) >> 2;  // (1/4)(1 + 1/4)(1 + 1/16)(1 + 1/256) is 1/3 to 16 bits
    third += third >> 2;
    third += third >> 4;
    third += third >> 8;
    T r = std::bit_cast<T>(Bits(magic - third));
    const T part = size * T(1.0 / 3);
    for (int i = 0; i < (single ? 3 : 5); ++i) r = r * (T(4.0 / 3) - part * r * r * r);
    const T root = size * r * r * (tiny ? T(0x1p-18) : T(1));
    const T finite = x < T(0) ? -root : root;
    return abs(x) <= std::numeric_limits<T>::max() ? finite : x;  // infinity and NaN are their own
}

/// x^y for x >= 0, in double and for scalars only; the double nearest to it, as `schuss.math.power`.
inline double power(double x, double y) {
    return elementary::power(x, y);
}

/// The natural logarithm, in double and for scalars only, likewise.
inline double log(double x) {
    return elementary::log(x);
}

/// 1 - beta^t without cancellation, in double, likewise.
inline double one_minus_power(double beta, double t) {
    return elementary::one_minus_power(beta, t);
}

/// A term of a sum of products. In double the product of two floats is exact and cannot overflow.
template <class T>
inline double dot(T a, T b) {
    return double(a) * double(b);
}

/// A term of a plain sum.
template <class T>
inline double total(T a) {
    return double(a);
}

}  // namespace
}  // namespace schuss
