/// The vocabulary of a rule besides + - x /: each word is branch-free and equals the NumPy function of that name bit
/// for bit, NaN included (the sign of a zero in a tie of maximum, minimum and clip is not promised).
#pragma once

#include <cmath>

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

/// 1 - beta^t without cancellation, in double (`math.expm1` and `math.log` in Python).
inline double one_minus_power(double beta, double t) {
    return beta > 0 ? -std::expm1(t * std::log(beta)) : 1.0;
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
