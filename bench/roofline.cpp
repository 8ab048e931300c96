// The roofline: move the bytes of an optimizer step and, where they are in cache, take its divisions and roots.
//
// A step of a rule with s slots reads p, g and s slots and writes p and s slots. The loop below does that with READ
// arrays that are only read (g) and WRITTEN arrays that are read and written (p and the slots). From memory nothing
// else takes time. In cache the units that divide and take roots are the next limit: DIVISIONS and ROOTS of them per
// element of type REAL, whose operands are the loaded values and whose results are dropped, so that none waits for
// another. Compiled by roofline.py, for each instruction set.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr std::size_t line = 64;    // chunk borders are line borders
constexpr std::size_t ahead = 512;  // bytes that are prefetched; 256 to 1024 were alike where this was written

// The widest register of the instruction set, spelled out: no autovectorizer stands between the source and the stores.
#if defined(__AVX512F__)
using Word = REAL __attribute__((vector_size(64)));
#elif defined(__AVX__)
using Word = REAL __attribute__((vector_size(32)));
#else
using Word = REAL __attribute__((vector_size(16)));
#endif

#if defined(__AVX512F__)
inline __m512 root(__m512 x) {
    return _mm512_sqrt_ps(x);
}
inline __m512d root(__m512d x) {
    return _mm512_sqrt_pd(x);
}
#elif defined(__AVX__)
inline __m256 root(__m256 x) {
    return _mm256_sqrt_ps(x);
}
inline __m256d root(__m256d x) {
    return _mm256_sqrt_pd(x);
}
#elif defined(__x86_64__)
inline __m128 root(__m128 x) {
    return _mm_sqrt_ps(x);
}
inline __m128d root(__m128d x) {
    return _mm_sqrt_pd(x);
}
#else
inline Word root(Word x) {
    for (std::size_t i = 0; i < sizeof(Word) / sizeof(REAL); ++i) x[i] = std::sqrt(x[i]);
    return x;
}
#endif

// No instruction, but the compiler must have the value in a register here and may not know it afterwards: a load before
// it, a store after it, or an operation between two of them is neither left out nor merged with another.
inline Word opaque(Word value) {
#if defined(__x86_64__)
    asm volatile("" : "+x"(value));
#else
    asm volatile("" : "+w"(value));
#endif
    return value;
}

struct Ordinary {
    static void store(Word* to, Word value) { *to = value; }
};

// A streaming store. The line has just been read, so no read for ownership is saved, but the write goes past the
// caches.
struct Streaming {
    static void store(Word* to, Word value) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#elif defined(__AVX__)
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(value));
#elif defined(__x86_64__)
        _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(value));
#else
        *to = value;
#endif
    }
};

template <std::size_t arrays, std::size_t... D, std::size_t... R>
void compute(const Word (&x)[arrays], std::index_sequence<D...>, std::index_sequence<R...>) {
    (opaque(opaque(x[D % arrays]) / x[(D + 1) % arrays]), ...);
    (opaque(root(opaque(x[R % arrays]))), ...);
}

template <class Store, bool prefetch, std::size_t... R, std::size_t... W>
void move(std::size_t first, std::size_t last, std::byte* const* arrays, std::index_sequence<R...>,
          std::index_sequence<W...>) {
    const std::byte* const read[] = {arrays[R]...};
    std::byte* const written[sizeof...(W) + 1] = {arrays[sizeof...(R) + W]...};  // one more: there may be none
    for (std::size_t at = first; at < last; at += line) {
        if constexpr (prefetch) {
            (__builtin_prefetch(read[R] + at + ahead), ...);
            (__builtin_prefetch(written[W] + at + ahead, 1), ...);
        }
#pragma GCC unroll 4
        for (std::size_t i = at; i < at + line; i += sizeof(Word)) {
            const Word x[] = {opaque(*reinterpret_cast<const Word*>(written[W] + i))...,
                              opaque(*reinterpret_cast<const Word*>(read[R] + i))...};
            compute(x, std::make_index_sequence<DIVISIONS>{}, std::make_index_sequence<ROOTS>{});
            (Store::store(reinterpret_cast<Word*>(written[W] + i), x[W]), ...);
        }
    }
}

template <class Store, bool prefetch>
void move_all(std::size_t first, std::size_t last, std::byte* const* arrays) {
    move<Store, prefetch>(first, last, arrays, std::make_index_sequence<READ>{}, std::make_index_sequence<WRITTEN>{});
}

}  // namespace

// Seconds per pass over the first `bytes` of each array; arrays start on cache lines, `bytes` and `chunk` are whole
// lines. chunk = 0: each thread has one contiguous part; otherwise threads take chunks of that many bytes in turn.
// Threads are started before the clock and wait at a gate; the clock stops when the last one is done.
extern "C" double roofline(std::byte* const* arrays, std::size_t bytes, std::size_t chunk, bool streaming,
                           bool prefetch, unsigned threads, unsigned passes) {
    const auto run = streaming ? (prefetch ? move_all<Streaming, true> : move_all<Streaming, false>)
                               : (prefetch ? move_all<Ordinary, true> : move_all<Ordinary, false>);
    const std::size_t lines = bytes / line;

    auto pass = [&](unsigned thread) {
        if (chunk == 0) {
            run(lines * thread / threads * line, lines * (thread + 1) / threads * line, arrays);
        } else {
            for (std::size_t at = thread * chunk; at < bytes; at += threads * chunk)
                run(at, std::min(at + chunk, bytes), arrays);
        }
    };

    using Clock = std::chrono::steady_clock;
    std::atomic<unsigned> ready{0};
    std::atomic<bool> open{false};
    std::vector<Clock::time_point> done(threads);
    auto work = [&](unsigned thread) {
        if (passes > 1) pass(thread);  // what fits in this core's cache is in it when the clock starts
        ready.fetch_add(1);
        while (!open.load(std::memory_order_acquire)) {
        }
        for (unsigned k = 0; k < passes; ++k) pass(thread);
        done[thread] = Clock::now();
    };
    std::vector<std::thread> team;
    for (unsigned thread = 1; thread < threads; ++thread) team.emplace_back(work, thread);
    if (passes > 1) pass(0);
    while (ready.load() + 1 < threads) {
    }
    const auto start = Clock::now();
    open.store(true, std::memory_order_release);
    for (unsigned k = 0; k < passes; ++k) pass(0);
    done[0] = Clock::now();
    for (auto& thread : team) thread.join();
    return std::chrono::duration<double>(*std::max_element(done.begin(), done.end()) - start).count() / passes;
}
