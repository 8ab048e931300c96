#include "core/parallel.hpp"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace schuss {
namespace {

std::atomic<int> threads_wanted{1};
std::atomic<bool> forked{false};
const int openmp_threads = omp_get_max_threads();  ///< of a thread for which nobody has set another number

}  // namespace

int num_threads() {
    return forked ? 1 : threads_wanted.load();
}

int threads_allowed(int wanted) {
    // What a caller of omp_set_num_threads, such as threadpoolctl, takes away from the calling thread.
    const int limit = omp_get_max_threads();
    const int threads = wanted > 0 ? wanted : num_threads();
    return limit < openmp_threads ? std::min(threads, limit) : threads;
}

void set_num_threads(int threads) {
    threads_wanted = threads;
}

void serial_after_fork() {
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
}

FloatingPointMode::FloatingPointMode(bool flush_subnormals) {
#if defined(__x86_64__)
    saved_ = _mm_getcsr();
    _mm_setcsr(flush_subnormals ? 0x9fc0u : 0x1f80u);  // all exceptions masked; flush to zero, denormals are zero
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" ::"r"(std::uint64_t(flush_subnormals) << 24));
#endif
}

FloatingPointMode::~FloatingPointMode() {
#if defined(__x86_64__)
    _mm_setcsr(unsigned(saved_));
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(saved_));
#endif
}

void parallel(int threads, bool flush, void (*body)(void*, int, int), void* context) {
    if (threads <= 1 || forked) {
        const FloatingPointMode mode(flush);
        body(context, 0, 1);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        const FloatingPointMode mode(flush);
        body(context, omp_get_thread_num(), omp_get_num_threads());
    }
}

}  // namespace schuss
