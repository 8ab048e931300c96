/// The 16-bit types, and the one place where instructions are named: processors with AVX2 convert between float and
/// float16 by themselves, to the same bits as the loops in storage.hpp and three times as fast, and widen 16 bits as
/// they load them, twice as fast as the loop. GCC 12 finds neither.
#pragma once

#include <cstdint>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace schuss {
namespace {

struct Half {
    std::uint16_t bits;
};
struct BFloat {
    std::uint16_t bits;
};

/// Converts the first elements of a block, if there is an instruction for it; returns how many.
template <class From, class To>
inline int convert_by_instruction(const From*, To*, int) {
    return 0;
}

#if defined(__F16C__)
inline int convert_by_instruction(const BFloat* from, float* to, int size) {
    int i = 0;
    for (; i + 8 <= size; i += 8) {
        const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_slli_epi32(bits, 16));
    }
    return i;
}

/// (A signaling NaN becomes quiet when it is widened, not only when it is narrowed: no step can tell.)
inline int convert_by_instruction(const Half* from, float* to, int size) {
    int i = 0;
    for (; i + 8 <= size; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    return i;
}

inline int convert_by_instruction(const float* from, Half* to, int size) {
    int i = 0;
    for (; i + 8 <= size; i += 8) {
        const __m128i narrow = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), narrow);
    }
    return i;
}
#endif

}  // namespace
}  // namespace schuss
