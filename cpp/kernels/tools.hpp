/// Tools: loops over several gradients of one shape, element by element or with sums, and dropout. Blocks come out of
/// any array as in storage.hpp. `schuss.aggregation` and `schuss.masks` say the same in NumPy.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/tools.hpp"
#include "kernels/storage.hpp"

namespace schuss {
namespace {

/// Calls `body(first, size)` for one block after the other.
template <class Body>
inline void over_blocks(Index first, Index size, int block, const Body& body) {
    for (const Index end = first + size; first < end; first += block)
        body(first, int(end - first < block ? end - first : block));
}

/// Writes a block of double, rounded once to what the array holds.
inline void write_block(const Operand& to, Index first, int size, const double* block) {
    if (to.dtype == Dtype::float64)
        std::memcpy(to.data + first * Index(sizeof(double)), block, std::size_t(size) * sizeof(double));
    else
        put_back(to, first, size, block);
}

// ---- weighted means ------------------------------------------------------------------------------------------------

inline void weighted_mean(const Layers& layers, const double* weights, double total, Index first, int size,
                          double* scratch, double* mean) {
    std::memset(mean, 0, std::size_t(size) * sizeof *mean);
    for (int k = 0; k < layers.count; ++k) {
        const double weight = weights[k];
        if (weight == 0) continue;
        const double* const x = fetch(layers.of[k], first, size, scratch);
#pragma omp simd
        for (int i = 0; i < size; ++i) mean[i] += weight * x[i];
    }
#pragma omp simd
    for (int i = 0; i < size; ++i) mean[i] /= total;
}

void combine(const Layers& layers, const double* weights, double total, const Operand& to, Index first, Index size) {
    alignas(64) double scratch[block_size], mean[block_size];
    over_blocks(first, size, block_size, [&](Index at, int n) {
        weighted_mean(layers, weights, total, at, n, scratch, mean);
        write_block(to, at, n, mean);
    });
}

void vote(const Layers& layers, const double* weights, const Operand& to, Index first, Index size) {
    alignas(64) double scratch[block_size], votes[block_size];
    over_blocks(first, size, block_size, [&](Index at, int n) {
        std::memset(votes, 0, std::size_t(n) * sizeof *votes);
        for (int k = 0; k < layers.count; ++k) {
            const double weight = weights[k];
            const double* const x = fetch(layers.of[k], at, n, scratch);
#pragma omp simd
            for (int i = 0; i < n; ++i) votes[i] += x[i] > 0 ? weight : x[i] < 0 ? -weight : 0.0;
        }
#pragma omp simd
        for (int i = 0; i < n; ++i) votes[i] = sign(votes[i]);
        write_block(to, at, n, votes);
    });
}

// ---- distances -----------------------------------------------------------------------------------------------------

inline void add_squared_distance(const double* a, const double* b, int size, double* lane) {
    alignas(64) double terms[block_size];
#pragma omp simd
    for (int i = 0; i < size; ++i) {
        const double difference = a[i] - b[i];
        terms[i] = difference * difference;
    }
    sum(terms, size, lane);
}

void residuals(const Layers& layers, const double* weights, double total, Index first, Index size, double* room,
               double* sums) {
    alignas(64) double scratch[block_size], mean[block_size];
    auto* const lane = reinterpret_cast<double (*)[lanes]>(room);
    std::memset(room, 0, std::size_t(layers.count) * sizeof *lane);
    over_blocks(first, size, block_size, [&](Index at, int n) {
        weighted_mean(layers, weights, total, at, n, scratch, mean);
        for (int k = 0; k < layers.count; ++k)
            add_squared_distance(fetch(layers.of[k], at, n, scratch), mean, n, lane[k]);
    });
    for (int k = 0; k < layers.count; ++k) sums[k] = sum_of(lane[k]);
}

void distances(const Layers& layers, int begin, int end, Index first, Index size, int block, double* room,
               double* sums) {
    auto* const lane = reinterpret_cast<double (*)[lanes]>(room + Index(layers.count) * block);
    const auto pairs = [](int row) { return Index(row) * (row - 1) / 2; };
    std::memset(lane, 0, std::size_t(pairs(end) - pairs(begin)) * sizeof *lane);
    over_blocks(first, size, block, [&](Index at, int n) {
        for (int k = 0; k < end; ++k) fetch(layers.of[k], at, n, room + Index(k) * block);
        const auto row = [&](int k) -> const double* {
            const Operand& each = layers.of[k];
            const bool in_place = !each.layout && each.dtype == Dtype::float64;
            return in_place ? reinterpret_cast<const double*>(each.data) + at : room + Index(k) * block;
        };
        double (*to)[lanes] = lane;
        for (int i = begin; i < end; ++i)
            for (int j = 0; j < i; ++j) add_squared_distance(row(i), row(j), n, *to++);
    });
    for (Index p = 0; p < pairs(end) - pairs(begin); ++p) sums[p] = sum_of(lane[p]);
}

// ---- order statistics ----------------------------------------------------------------------------------------------

/// A NaN sorts as plus infinity: one of them cannot reach the middle.
template <class T>
inline void without_nan(const T* from, int size, T* to) {
#pragma omp simd
    for (int i = 0; i < size; ++i) to[i] = from[i] != from[i] ? std::numeric_limits<T>::infinity() : from[i];
}

/// (Of two zeros it may keep one sign twice; the sum that follows starts at +0, so that no sign of a zero is seen.)
template <class T>
inline void exchange(T* __restrict low, T* __restrict high, int size) {
#pragma omp simd
    for (int i = 0; i < size; ++i) {
        const T a = low[i], b = high[i];
        low[i] = a < b ? a : b;
        high[i] = a > b ? a : b;
    }
}

template <class T>
inline void add_to(const T* row, int size, double* sum) {
#pragma omp simd
    for (int i = 0; i < size; ++i) sum[i] += double(row[i]);
}

template <class T>
void sorted_mean(const Layers& layers, const Exchange* network, Index exchanges, int begin, int end, const Operand& to,
                 Index first, Index size, int block, double* room) {
    T* const rows = reinterpret_cast<T*>(room);
    const double count = double(end - begin);
    alignas(64) double mean[block_size];
    over_blocks(first, size, block, [&](Index at, int n) {
        for (int k = 0; k < layers.count; ++k) {
            T* const row = rows + Index(k) * block;
            without_nan(fetch(layers.of[k], at, n, row), n, row);
        }
        for (Index e = 0; e < exchanges; ++e)
            exchange(rows + Index(network[e].low) * block, rows + Index(network[e].high) * block, n);
        std::memset(mean, 0, std::size_t(n) * sizeof *mean);
        for (int k = begin; k < end; ++k) add_to(rows + Index(k) * block, n, mean);
#pragma omp simd
        for (int i = 0; i < n; ++i) mean[i] /= count;
        write_block(to, at, n, mean);
    });
}

// ---- dropout -------------------------------------------------------------------------------------------------------

/// All bits of an element's mask, set where it is kept: elements [first, first + size), `first` even. Two words come of
/// one counter.
inline void draw_mask(const Dropping& dropping, Index first, int size, std::uint32_t* mask) {
    const Words key = words_of(dropping.key);
    const std::uint32_t threshold = dropping.threshold;
    const std::uint64_t counter = std::uint64_t(first) / 2;
    const int pairs = (size + 1) / 2;
#pragma omp simd
    for (int i = 0; i < pairs; ++i) {
        const Words drawn = threefry(key, words_of(counter + std::uint64_t(i)));
        mask[2 * i] = drawn.low < threshold ? 0u : ~0u;
        mask[2 * i + 1] = drawn.high < threshold ? 0u : ~0u;
    }
}

template <class T>
void drop(const Operand& from, const Dropping& dropping, const Operand& to, Index first, Index size) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    const T scale = T(dropping.scale);
    alignas(64) T scratch[block_size], result[block_size];
    alignas(64) std::uint32_t mask[block_size], whole[block_size];
    over_blocks(first, size, block_size, [&](Index at, int n) {
        if (dropping.parts == 2) {
            draw_mask(dropping, at / 2, n / 2, whole);
#pragma omp simd
            for (int i = 0; i < n / 2; ++i) {
                mask[2 * i] = whole[i];
                mask[2 * i + 1] = whole[i];
            }
        } else {
            draw_mask(dropping, at, n, mask);
        }
        const T* const x = fetch(from, at, n, scratch);
        T* const y = to.dtype == dtype_of<T> ? reinterpret_cast<T*>(to.data) + at : result;
#pragma omp simd
        for (int i = 0; i < n; ++i) {
            // All bits or none of the product: what is dropped is 0, be it NaN or infinite.
            const Bits kept = Bits(mask[i]) << (8 * sizeof(Bits) - 32) | mask[i];
            y[i] = std::bit_cast<T>(Bits(std::bit_cast<Bits>(scale * x[i]) & kept));
        }
        put_back(to, at, n, y);
    });
}

consteval Tools tools() {
    return {
        combine, vote, residuals, distances, {sorted_mean<float>, sorted_mean<double>}, {drop<float>, drop<double>}};
}

}  // namespace
}  // namespace schuss
