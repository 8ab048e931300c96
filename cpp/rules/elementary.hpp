/// The logarithm and powers as the doubles nearest to the exact values. Those of a C library are off by an ulp here and
/// there, in other places where the processor has fused multiply-adds than where it has not, and a trajectory would
/// depend on it. In integers of 128 bits, so that nothing rounds before the end: the relative error there is below
/// 2^-100.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace schuss {
namespace {
namespace elementary {

using Wide = unsigned __int128;

/// The positive number m 2^(e - 128), with the highest bit of m set; or 0, with m = 0.
struct Precise {
    Wide m;
    int e;
};

constexpr Wide wide(std::uint64_t high, std::uint64_t low) {
    return Wide(high) << 64 | low;
}

/// 2^128 log(2).
constexpr Wide log_of_two = wide(0xb17217f7d1cf79abu, 0xc9e3b39803f2f6afu);

/// The number of zeros above the highest bit.
constexpr int zeros_of(Wide x) {
    const auto high = std::uint64_t(x >> 64);
    return high != 0 ? std::countl_zero(high) : 64 + std::countl_zero(std::uint64_t(x));
}

/// The upper half of a product.
constexpr Wide times(Wide a, Wide b) {
    const std::uint64_t a1 = std::uint64_t(a >> 64), a0 = std::uint64_t(a);
    const std::uint64_t b1 = std::uint64_t(b >> 64), b0 = std::uint64_t(b);
    const Wide middle = Wide(a1) * b0, other = Wide(a0) * b1;
    const Wide carry = (Wide(a0) * b0 >> 64) + std::uint64_t(middle) + std::uint64_t(other);
    return Wide(a1) * b1 + (middle >> 64) + (other >> 64) + (carry >> 64);
}

inline Precise normal(Wide m, int e) {
    if (m == 0) return {0, 0};
    const int zeros = zeros_of(m);
    return {m << zeros, e - zeros};
}

inline Precise product(Precise a, Precise b) {
    return normal(times(a.m, b.m), a.e + b.e);
}

/// A positive finite double.
inline Precise precise(double x) {
    const std::uint64_t bits = std::bit_cast<std::uint64_t>(x), exponent = bits >> 52;
    const std::uint64_t fraction = bits & ((std::uint64_t(1) << 52) - 1);
    const std::uint64_t m = exponent == 0 ? fraction : fraction | std::uint64_t(1) << 52;
    return normal(m, int(exponent == 0 ? 1 : exponent) - 1075 + 128);
}

/// The nearest double; of two, the even one. What is half-way within the error of the arithmetic is half-way: powers of
/// numbers with few bits are, and nothing else in practice.
inline double nearest(Precise x) {
    if (x.m == 0) return 0;
    constexpr int least = -1021;  // of the exponents of normal numbers: those below have fewer bits
    const int bits = x.e >= least ? 53 : 53 - (least - x.e);
    if (x.e > 1024) return std::numeric_limits<double>::infinity();
    if (bits < 0) return 0;
    const Wide half = Wide(1) << (127 - bits), error = Wide(1) << 15;
    const Wide kept = bits == 0 ? 0 : x.m >> (128 - bits), rest = bits == 0 ? x.m : x.m - (kept << (128 - bits));
    const bool up = rest > half + error || (rest + error >= half && (kept & 1) != 0);
    // The exponent is in the bits beside the fraction, and a carry out of the fraction is one into it.
    const std::uint64_t exponent = x.e >= least ? std::uint64_t(x.e - least) : 0;
    return std::bit_cast<double>((exponent << 52) + std::uint64_t(kept) + up);
}

template <int n>
consteval std::array<Wide, n> reciprocals(Wide of, unsigned first, unsigned step) {
    std::array<Wide, n> all{};
    for (unsigned i = 0; i < n; ++i) all[i] = of / (first + step * i);
    return all;
}

struct Logarithm {
    bool negative;
    Precise size;
};

/// The logarithm of a positive finite number 2^k m, with m in [sqrt(1/2), sqrt(2)): of m the series of the inverse
/// hyperbolic tangent, 2 s (1 + s^2 / 3 + s^4 / 5 + ...) with s = (m - 1) / (m + 1).
inline Logarithm logarithm(double x) {
    constexpr int terms = 27;  // s^2 < 2^-5
    constexpr auto odd = reciprocals<terms>(Wide(1) << 127, 1, 2);
    constexpr std::uint64_t one = std::uint64_t(1) << 52, root_of_two = 0x16a09e667f3bcdu;
    const Precise number = precise(x);
    const auto m = std::uint64_t(number.m >> 75);  // all 53 bits
    const bool above = m >= root_of_two;
    const int k = number.e - !above;
    const std::uint64_t unit = above ? 2 * one : one;  // as large as m where it is 1
    const bool below = m < unit;
    Wide part = 0;  // of the logarithm of m, 2^part_e
    int part_e = 0;
    if (m != unit) {
        const std::uint64_t numerator = below ? unit - m : m - unit, denominator = unit + m;
        const int up = std::countl_zero(numerator) - std::countl_zero(denominator);
        const int shift = (numerator << up) >= denominator ? up - 1 : up;
        const Wide upper = Wide(numerator << shift) << 64, lower = upper % denominator << 64;
        const Wide s = (upper / denominator) << 64 | lower / denominator;  // 2^(128 + shift) s
        const Wide square = 2 * shift < 128 ? times(s, s) >> (2 * shift) : 0;
        int n = square == 0 ? 0 : 120 / zeros_of(square) + 1;
        Wide sum = odd[std::size_t(n)];
        while (--n >= 0) sum = odd[std::size_t(n)] + times(sum, square);
        part = times(s, sum);  // 2^(126 + shift) of 2 s (1 + ...)
        part_e = 2 - shift;
    }
    if (k == 0) return {below, normal(part, part_e)};
    // Both in units of 2^-116.
    const auto count = std::uint64_t(k < 0 ? -k : k);
    const Wide whole =
        (Wide(std::uint64_t(log_of_two >> 64)) * count << 52) + (Wide(std::uint64_t(log_of_two)) * count >> 12);
    const Wide rest = part == 0 ? 0 : part >> (12 - part_e);
    return {k < 0, normal(below == (k < 0) ? whole + rest : whole - rest, 12)};
}

/// (1 - exp(-r)) / r = 1 - r/2 (1 - r/3 (1 - ...)) for 2^128 r with 0 <= r < 1/16, in units of 2^-127.
constexpr Wide decline(Wide r) {
    constexpr int terms = 17;
    constexpr auto inverse = reciprocals<terms>(~Wide(0), 1, 1);
    constexpr Wide one = Wide(1) << 127;
    const int zeros = zeros_of(r);
    int n = zeros > 8 ? 120 / zeros + 2 : 21 - zeros;
    Wide sum = one;
    while (--n >= 1) sum = one - times(sum, times(r, inverse[std::size_t(n)]));
    return sum;
}

/// exp(-r), likewise.
constexpr Wide decay_of_little(Wide r) {
    return (Wide(1) << 127) - times(r, decline(r));
}

/// exp(-i / 16) in units of 2^-127.
consteval std::array<Wide, 12> sixteenths() {
    std::array<Wide, 12> all{Wide(1) << 127};
    const Wide half = decay_of_little(Wide(1) << 123), one = times(half, half) << 1;
    for (std::size_t i = 1; i < all.size(); ++i) all[i] = times(all[i - 1], one) << 1;
    return all;
}

/// exp(-r) for 2^128 r with 0 <= r <= log(2), in units of 2^-127.
inline Wide decay_of(Wide r) {
    static constexpr auto coarse = sixteenths();
    constexpr Wide fine = (Wide(1) << 124) - 1;
    return times(coarse[std::size_t(r >> 124)], decay_of_little(r & fine)) << 1;
}

/// What of a positive number below 2^11 is left after whole multiples of log(2), times 2^128, and how many those are.
inline Wide remainder(Precise x, int& count) {
    constexpr Wide unit = log_of_two >> 12;  // in units of 2^-116
    const int shift = 12 - x.e;
    const Wide fixed = shift < 128 ? x.m >> shift : 0;
    count = int(fixed / unit);
    // Exactly, since a rounded log(2) would be off by the count.
    const Wide whole = (Wide(std::uint64_t(log_of_two >> 64)) * unsigned(count) << 52) +
                       (Wide(std::uint64_t(log_of_two)) * unsigned(count) >> 12);
    if (whole > fixed) return 0;
    const Wide rest = fixed - whole;
    return rest >> 116 != 0 ? ~Wide(0) : rest << 12;
}

/// The natural logarithm of a number in [0, inf].
inline double log(double x) {
    if (x == 0) return -std::numeric_limits<double>::infinity();
    if (!(x > 0) || x > std::numeric_limits<double>::max()) return x < 0 ? std::numeric_limits<double>::quiet_NaN() : x;
    const Logarithm found = logarithm(x);
    return found.negative ? -nearest(found.size) : nearest(found.size);
}

/// x^y for x in [0, inf].
inline double power(double x, double y) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (y == 0 || x == 1) return 1;
    if (x != x || y != y || x < 0) return std::numeric_limits<double>::quiet_NaN();
    if (x == 0 || x == infinity || std::fabs(y) == infinity) return (x > 1) == (y > 0) ? infinity : 0;
    const Logarithm base = logarithm(x);
    const Precise size = product(base.size, precise(std::fabs(y)));
    const bool falls = base.negative == (y > 0);
    if (size.e > 11) return falls ? 0 : infinity;
    int count = 0;
    const Wide rest = remainder(size, count);
    // exp(w) is 2^(n + 1) exp(-(log(2) - rest)), and exp(-w) is 2^-n exp(-rest).
    return falls ? nearest(normal(decay_of(rest), 1 - count))
                 : nearest(normal(decay_of(rest < log_of_two ? log_of_two - rest : 0), 2 + count));
}

/// 1 - beta^t without cancellation, for beta in [0, 1) and t >= 0.
inline double one_minus_power(double beta, double t) {
    if (!(beta > 0)) return 1;
    if (t == 0) return 0;
    if ((1 - beta) * t > 40) return 1;  // beta^t is less than exp(-40)
    const Precise size = product(logarithm(beta).size, precise(t));
    if (size.e > 6) return 1;
    int count = 0;
    const Wide rest = remainder(size, count);
    constexpr Wide one = Wide(1) << 127;
    if (count > 0 || rest >> 124 != 0) return nearest(normal(one - (decay_of(rest) >> count), 1));
    const Wide little = size.e > -128 ? size.m >> -size.e : 0;  // with more bits than `remainder` has
    return nearest(normal(times(size.m, decline(little)), size.e + 1));
}

}  // namespace elementary
}  // namespace
}  // namespace schuss
