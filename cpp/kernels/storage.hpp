/// Storage: how blocks of elements come out of any array into the compute type and go back, and the stages that every
/// rule may have around it (regularisation, bounds, sums, norms). Knows nothing of rules; compiled once per instruction
/// set and type. float16 and bfloat16 are storage only: widened exactly, rounded to nearest even, NaN kept NaN.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/kernel.hpp"
#include "kernels/half.hpp"
#include "kernels/lanes.hpp"
#include "kernels/random.hpp"
#include "rules/math.hpp"

namespace schuss {
namespace {

using Index = std::int64_t;

// ---- conversions: integer arithmetic without branches, so that every instruction set vectorizes them alike ----------

inline float widen(BFloat x) {
    return std::bit_cast<float>(std::uint32_t(x.bits) << 16);
}

inline float widen(Half x) {
    // Shift exponent and mantissa into a float's place and correct the exponent's bias. Subnormals are read as the
    // fraction of a number in [2^-14, 2^-13) that 2^-14 is taken from again: no float of this is subnormal, which the
    // processor may have been told to take for 0. Infinity and NaN (exponent 31) get the float's largest exponent.
    const std::uint32_t sign = std::uint32_t(x.bits & 0x8000u) << 16, rest = std::uint32_t(x.bits & 0x7fffu) << 13;
    const std::uint32_t normal = rest + 0x38000000u, special = rest | 0x7f800000u;
    const std::uint32_t tiny = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest + 0x38800000u) - 0x1p-14f);
    const std::uint32_t finite = rest < 0x00800000u ? tiny : normal;
    return std::bit_cast<float>(sign | (rest >= 0x0f800000u ? special : finite));
}

/// The bits of the nearest BFloat, in 32 bits.
inline std::uint32_t narrow(float x, BFloat) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u), quiet = bits | 0x400000u;
    return (x != x ? quiet : rounded) >> 16;
}

/// The bits of the nearest Half, in 32 bits.
inline std::uint32_t narrow(float x, Half) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), size = bits & 0x7fffffffu;
    // Normal results: move the exponent's bias, round to nearest even in the 13 bits that go.
    const std::uint32_t normal = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
    // Subnormal results: adding 1/2 puts the unit in the last place of the sum at 2^-24, so that the sum's own rounding
    // is the rounding we want.
    const std::uint32_t tiny = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
    const std::uint32_t finite = size < 0x38800000u ? tiny : normal;
    const std::uint32_t overflow = size >= 0x477ff000u ? 0x7c00u : finite;
    const std::uint32_t nan = 0x7e00u | ((size >> 13) & 0x3ffu);
    return ((bits >> 16) & 0x8000u) | (size > 0x7f800000u ? nan : overflow);
}

/// A double rounded to odd: rounding the result again, to fewer bits, is rounding the double once.
inline float round_to_odd(double x) {
    const float nearest = float(x);
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
    // Exact; negative where the nearest lies outside; 0 for infinity and NaN. The truth values are its bits: the
    // baseline instruction set has no way from a comparison of doubles to a choice between 32-bit integers.
    const double gap = abs(x) <= std::numeric_limits<double>::max() ? abs(x) - abs(double(nearest)) : 0.0;
    const std::uint64_t sign = std::bit_cast<std::uint64_t>(gap);
    const std::uint32_t outside = std::uint32_t(sign >> 63), inexact = std::uint32_t((sign | (0 - sign)) >> 63);
    // Towards zero where the nearest lies outside, then set the last bit unless it was exact.
    const std::uint32_t odd = (bits - outside) | inexact;
    return std::bit_cast<float>(odd);
}

template <class T>
constexpr bool is_narrow = std::is_same_v<T, Half> || std::is_same_v<T, BFloat>;

template <class From>
inline float as_float(From x) {
    if constexpr (std::is_same_v<From, double>)
        return round_to_odd(x);
    else if constexpr (is_narrow<From>)
        return widen(x);
    else
        return x;
}

template <class To, class From>
inline To convert(From x) {
    if constexpr (is_narrow<To>)
        return {std::uint16_t(narrow(as_float(x), To{}))};
    else if constexpr (is_narrow<From>)
        return To(widen(x));
    else
        return To(x);
}

template <class To, class From>
inline void convert_block(const From* from, To* to, int size) {
    const int done = convert_by_instruction(from, to, size);
    from += done;
    to += done;
    size -= done;
    if constexpr (is_narrow<To>) {
        // Rounded in 32 bits first and cut to 16 then: in one loop GCC goes back and forth between the two widths, and
        // takes half as long again.
        alignas(64) std::uint32_t bits[block_size];
#pragma omp simd
        for (int i = 0; i < size; ++i) bits[i] = narrow(as_float(from[i]), To{});
#pragma omp simd
        for (int i = 0; i < size; ++i) to[i] = To{std::uint16_t(bits[i])};
    } else {
#pragma omp simd
        for (int i = 0; i < size; ++i) to[i] = convert<To>(from[i]);
    }
}

/// Calls `visit(element)` with an element of the type that a dtype stands for.
template <class Visit>
inline void with_type(Dtype dtype, const Visit& visit) {
    switch (dtype) {
        case Dtype::float32: return visit(float{});
        case Dtype::float64: return visit(double{});
        case Dtype::float16: return visit(Half{});
        case Dtype::bfloat16: return visit(BFloat{});
    }
}

template <class T>
constexpr Dtype dtype_of = sizeof(T) == 4 ? Dtype::float32 : Dtype::float64;

/// Elements [first, first + size) of an array with any strides, in the order of its layout.
template <class From, class To>
inline void gather(const Operand& operand, Index first, int size, To* to) {
    const Layout& layout = *operand.layout;
    Index index[66], offset = 0;  // NumPy has at most 64 dimensions; a complex array gets one more
    for (int d = layout.ndim - 1; d >= 0; --d) {
        index[d] = first % layout.shape[d];
        first /= layout.shape[d];
        offset += index[d] * layout.strides[d];
    }
    for (int i = 0; i < size; ++i) {
        From element;
        std::memcpy(&element, operand.data + offset, sizeof element);  // may be misaligned
        to[i] = convert<To>(element);
        for (int d = layout.ndim - 1; d >= 0; --d) {
            offset += layout.strides[d];
            if (++index[d] < layout.shape[d]) break;
            offset -= index[d] * layout.strides[d];
            index[d] = 0;
        }
    }
}

/// Where a block of an operand can be read: in the array itself if it has the compute type, else in scratch.
template <class T>
[[gnu::noinline]] T* fetch(const Operand& operand, Index first, int size, T* scratch) {
    if (!operand.data) return nullptr;
    if (!operand.layout && operand.dtype == dtype_of<T>) return reinterpret_cast<T*>(operand.data) + first;
    with_type(operand.dtype, [&](auto element) {
        using From = decltype(element);
        if (operand.layout)
            gather<From>(operand, first, size, scratch);
        else
            convert_block(reinterpret_cast<const From*>(operand.data) + first, scratch, size);
    });
    return scratch;
}

template <class T>
[[gnu::noinline]] void put_back(const Operand& operand, Index first, int size, const T* block) {
    if (!operand.data || operand.dtype == dtype_of<T>) return;
    with_type(operand.dtype, [&](auto element) {
        convert_block(block, reinterpret_cast<decltype(element)*>(operand.data) + first, size);
    });
}

// ---- the stages
// ------------------------------------------------------------------------------------------------------

/// Calls `visit(row, from, to)` with the parts of a block that belong to one row each.
template <class Visit>
inline void each_row_of(const Tensor& tensor, Index first, int size, const Visit& visit) {
    for (int from = 0; from < size;) {
        const Index row = (first + from) / tensor.row, left = (row + 1) * tensor.row - first;
        const int to = left < size ? int(left) : size;
        visit(row, from, to);
        from = to;
    }
}

/// A block of the gradient as norms see it.
template <class T>
[[gnu::noinline]] const T* prepared(const Tensor& tensor, Index first, int size, T* room) {
    const T* const g = fetch(tensor.g, first, size, room);
    const Stage* const stage = tensor.stage;
    if (!stage || !stage->prepares) return g;
    const T scale = T(stage->prescale), limit = T(stage->limit);
#pragma omp simd
    for (int i = 0; i < size; ++i) room[i] = scale * g[i];
    if (tensor.row_mean) {
        each_row_of(tensor, first, size, [&](Index row, int from, int to) {
            const T mean = T(tensor.row_mean[row]);
#pragma omp simd
            for (int i = from; i < to; ++i) room[i] = room[i] - mean;
        });
    }
    if (limit < std::numeric_limits<T>::infinity()) {
#pragma omp simd
        for (int i = 0; i < size; ++i) room[i] = clip(room[i], -limit, limit);
    }
    return room;
}

/// The gradient that the rule sees: prepared, scaled, with noise and with that of the penalties on the weights.
template <class T>
inline void load_gradient(const Tensor& tensor, Index first, int size, Block<T>& block) {
    const Call& call = *tensor.call;
    T* const room = block.scratch + block_size;
    const T* g = prepared(tensor, first, size, room);
    T scale = T(call.gradient_scale);
    if (tensor.row_scale) {
        each_row_of(tensor, first, size, [&](Index row, int from, int to) {
            const T factor = T(call.gradient_scale * tensor.row_scale[row]);
#pragma omp simd
            for (int i = from; i < to; ++i) room[i] = factor * g[i];
        });
        g = room;
        scale = T(1);
    }
    if (tensor.stage->spread != 0) {
        const T spread = T(tensor.stage->spread);
        T* const normal = block.room;
        draw_normals(tensor.stage->noise_seed, std::uint64_t(call.t), tensor.noise_stream, std::uint64_t(first), size,
                     normal);
#pragma omp simd
        for (int i = 0; i < size; ++i) room[i] = scale * g[i] + spread * normal[i];
        g = room;
        scale = T(1);
    }
    if (call.l1 != 0 || call.l2 != 0) {
        const T l2 = T(call.l2), l1 = T(call.l1);
        const T* const p = block.p;
        // Only the terms asked for: g + 0 * p is not g where g is -0 or p is infinite.
        if (call.l1 == 0) {
#pragma omp simd
            for (int i = 0; i < size; ++i) room[i] = scale * g[i] + l2 * p[i];
        } else if (call.l2 == 0) {
#pragma omp simd
            for (int i = 0; i < size; ++i) room[i] = scale * g[i] + l1 * sign(p[i]);
        } else {
#pragma omp simd
            for (int i = 0; i < size; ++i) room[i] = scale * g[i] + l2 * p[i] + l1 * sign(p[i]);
        }
        g = room;
        scale = T(1);
    }
    block.g = g;
    block.gradient_scale = scale;
}

template <class T>
void load(const Tensor& tensor, const Operands& operands, Index first, int size, Block<T>& block) {
    const Call& call = *tensor.call;
    block.p = fetch(tensor.p, first, size, block.scratch);
    for (int s = 0; s < operands.slots; ++s) {
        T* const room = block.scratch + (2 + s) * block_size;
        block.slot[s] = fetch(tensor.slot[s], first, size, room);
        if (s < operands.inputs || s >= operands.first_work()) continue;
        block.slot[s] = room;
        draw_normals(call.seed, std::uint64_t(call.t), tensor.stream, std::uint64_t(first), size, room);
    }
    load_gradient(tensor, first, size, block);
    if (call.decay != 0 && tensor.decays) std::memcpy(block.before, block.p, std::size_t(size) * sizeof(T));
}

/// Weights decay by a share of where they were, or of their distance from an anchor.
template <class T>
inline void decay(const Tensor& tensor, Index first, int size, Block<T>& block) {
    const T rate = T(tensor.call->decay);
    T* const p = block.p;
    const T* const before = block.before;
    T* const away = block.room;
    if (const T* const anchor = fetch(tensor.anchor, first, size, block.room)) {
#pragma omp simd
        for (int i = 0; i < size; ++i) away[i] = before[i] - anchor[i];
    } else {
        std::memcpy(away, before, std::size_t(size) * sizeof(T));
    }
    if (tensor.stage->cautious) {
#pragma omp simd
        for (int i = 0; i < size; ++i) {
            const T part = where((before[i] - p[i]) * away[i] > T(0), rate * away[i], T(0));
            p[i] = p[i] - part;
        }
    } else {
#pragma omp simd
        for (int i = 0; i < size; ++i) p[i] = p[i] - rate * away[i];
    }
}

/// The running average of the weights as they are stored.
template <class T>
inline void add_to_average(const Tensor& tensor, Index first, int size, Block<T>& block) {
    const T share = T(tensor.stage->average);
    const T* const p = fetch(tensor.p, first, size, block.before);
    T* const average = fetch(tensor.average, first, size, block.room);
    if (share == T(1)) {
        std::memcpy(average, p, std::size_t(size) * sizeof(T));
    } else {
#pragma omp simd
        for (int i = 0; i < size; ++i) average[i] = average[i] + share * (p[i] - average[i]);
    }
    put_back(tensor.average, first, size, average);
}

template <class T>
void store(const Tensor& tensor, const Operands& operands, Index first, int size, Block<T>& block) {
    const Call& call = *tensor.call;
    T* const p = block.p;
    if (call.decay != 0 && tensor.decays) decay(tensor, first, size, block);
    if (call.shrink != 0) {
        const T shrink = T(call.shrink);
#pragma omp simd
        for (int i = 0; i < size; ++i) p[i] = sign(p[i]) * maximum(abs(p[i]) - shrink, T(0));
    }
    if (tensor.bounded) {
        const T lower = T(tensor.lower), upper = T(tensor.upper);
#pragma omp simd
        for (int i = 0; i < size; ++i) p[i] = clip(p[i], lower, upper);
    }
    put_back(tensor.p, first, size, p);
    for (int s = operands.first_state(); s < operands.slots; ++s) put_back(tensor.slot[s], first, size, block.slot[s]);
    if (tensor.stage->average != 0 && tensor.average.data) add_to_average(tensor, first, size, block);
}

/// Adds terms to their lanes: element i of a chunk belongs to lane i modulo 16. (Nothing else points to the lanes: so
/// GCC keeps them in registers. A local copy of them went through memory with AVX2, three times as slow.)
void sum(const double* __restrict terms, int size, double* __restrict lane) {
    int i = 0;
    for (; i + lanes <= size; i += lanes)
        for (int j = 0; j < lanes; ++j) lane[j] += terms[i + j];
    for (int j = 0; i + j < size; ++j) lane[j] += terms[i + j];
}

// ---- norms ----------------------------------------------------------------------------------------------------------

template <Norm norm>
inline double add(double sum, double x, [[maybe_unused]] double power) {
    if constexpr (norm == Norm::largest)
        return maximum(sum, abs(x));
    else if constexpr (norm == Norm::sum)
        return sum + x;
    else if constexpr (norm == Norm::absolute)
        return sum + abs(x);
    else if constexpr (norm == Norm::squares)
        return sum + x * x;
    else
        return sum + std::pow(abs(x), power);  // the C library's: the nearest double takes ten times as long
}

/// Adds elements to the lanes of several chunks, each `chunk_size` elements after the one before, side by side: one
/// stream of loads does not keep a core's share of the memory busy (measured: four take two thirds of the time of one).
template <Norm norm, int chunks, class T>
inline void add_elements(const T* __restrict block, Index size, double scale, double power,
                         double (&lane)[chunks][lanes]) {
    double* __restrict to = lane[0];  // nothing else points there: see `sum`
    const auto with = [&](int at, Index i) { to[at] = add<norm>(to[at], scale * double(block[i]), power); };
    Index i = 0;
    for (; i + lanes <= size; i += lanes)
        for (int c = 0; c < chunks; ++c) {
            if constexpr (norm == Norm::powers) {
                for (int j = 0; j < lanes; ++j) with(c * lanes + j, c * chunk_size + i + j);
            } else {
#pragma omp simd
                for (int j = 0; j < lanes; ++j) with(c * lanes + j, c * chunk_size + i + j);
            }
        }
    for (int c = 0; c < chunks; ++c)
        for (Index j = 0; i + j < size; ++j) with(c * lanes + int(j), c * chunk_size + i + j);
}

/// The end of a chunk, by halves as in every sum.
template <Norm norm>
inline double end_of(double (&lane)[lanes]) {
    if constexpr (norm != Norm::largest) return sum_of(lane);
    double largest = lane[0];
    for (const double each : lane) largest = maximum(largest, each);
    return largest;
}

template <Norm norm, class T>
inline void measure_as(const Tensor& tensor, double power, Index first, Index size, double scale, double* sums) {
    constexpr int many = 4;
    const Operand& g = tensor.g;
    const bool direct = !g.layout && g.dtype == dtype_of<T> && !(tensor.stage && tensor.stage->prepares);
    while (size > 0) {
        if (direct && size >= many * chunk_size) {
            alignas(64) double lane[many][lanes] = {};
            add_elements<norm>(reinterpret_cast<const T*>(g.data) + first, chunk_size, scale, power, lane);
            for (auto& each : lane) *sums++ = end_of<norm>(each);
            first += many * chunk_size;
            size -= many * chunk_size;
            continue;
        }
        const Index end = first + (size < chunk_size ? size : chunk_size);
        size -= end - first;
        alignas(64) double lane[1][lanes] = {};
        alignas(64) T scratch[read_size];
        for (Index n; first < end; first += n) {
            n = end - first < read_size ? end - first : read_size;
            add_elements<norm>(prepared(tensor, first, int(n), scratch), n, scale, power, lane);
        }
        *sums++ = end_of<norm>(lane[0]);
    }
}

template <class T>
void measure(const Tensor& tensor, Norm norm, double power, Index first, Index size, double scale, double* sums) {
    switch (norm) {
        case Norm::sum: return measure_as<Norm::sum, T>(tensor, power, first, size, scale, sums);
        case Norm::absolute: return measure_as<Norm::absolute, T>(tensor, power, first, size, scale, sums);
        case Norm::squares: return measure_as<Norm::squares, T>(tensor, power, first, size, scale, sums);
        case Norm::powers: return measure_as<Norm::powers, T>(tensor, power, first, size, scale, sums);
        case Norm::largest: return measure_as<Norm::largest, T>(tensor, power, first, size, scale, sums);
    }
}

template <class T>
consteval Stages<T> stages() {
    return {load<T>, store<T>, sum, measure<T>};
}

}  // namespace
}  // namespace schuss
