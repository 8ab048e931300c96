/// Arrays between red zones: a write beyond one is found by the zone's bytes, a read by AddressSanitizer or valgrind.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SCHUSS_WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SCHUSS_WITH_ASAN 1
#endif
#endif

#if defined(SCHUSS_WITH_ASAN)
#include <sanitizer/asan_interface.h>
#elif __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#endif

namespace fuzz {

inline void forbid([[maybe_unused]] const std::byte* from, [[maybe_unused]] std::size_t bytes) {
#if defined(SCHUSS_WITH_ASAN)
    __asan_poison_memory_region(from, bytes);
#elif defined(VALGRIND_MAKE_MEM_NOACCESS)
    (void)VALGRIND_MAKE_MEM_NOACCESS(from, bytes);
#endif
}

inline void allow([[maybe_unused]] const std::byte* from, [[maybe_unused]] std::size_t bytes) {
#if defined(SCHUSS_WITH_ASAN)
    __asan_unpoison_memory_region(from, bytes);
#elif defined(VALGRIND_MAKE_MEM_DEFINED)
    (void)VALGRIND_MAKE_MEM_DEFINED(from, bytes);
#endif
}

class Array {
public:
    /// Its first byte lies `offset` bytes after the start of a cache line.
    Array(std::size_t bytes, std::size_t offset) : before_(zone + offset), bytes_(bytes) {
        void* memory = nullptr;
        if (posix_memalign(&memory, line, before_ + bytes_ + zone) != 0) throw std::bad_alloc();
        base_ = static_cast<std::byte*>(memory);
        std::memset(base_, pattern, before_);
        std::memset(base_ + before_ + bytes_, pattern, zone);
        guard(forbid);
    }
    ~Array() {
        if (!base_) return;
        guard(allow);
        std::free(base_);
    }
    Array(Array&& other) noexcept : before_(other.before_), bytes_(other.bytes_), base_(other.base_) {
        other.base_ = nullptr;
    }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;

    std::byte* data() const { return base_ + before_; }
    std::size_t bytes() const { return bytes_; }

    bool intact() const {
        guard(allow);
        const auto untouched = [](std::byte each) { return each == std::byte(pattern); };
        const std::byte* const end = data() + bytes_;
        const bool result = std::all_of(base_, base_ + before_, untouched) && std::all_of(end, end + zone, untouched);
        guard(forbid);
        return result;
    }

    std::vector<std::byte> copy() const { return {data(), data() + bytes_}; }

private:
    static constexpr std::size_t line = 64, zone = 64;
    static constexpr int pattern = 0xa5;

    void guard(void (*change)(const std::byte*, std::size_t)) const {
        change(base_, before_);
        change(data() + bytes_, zone);
    }

    std::size_t before_, bytes_;
    std::byte* base_ = nullptr;
};

}  // namespace fuzz
