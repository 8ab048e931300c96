/// Threads: the only place that knows OpenMP.
#pragma once

#include <cstdint>

namespace schuss {

/// The number of threads that a step uses where its optimizer does not say; at least 1.
int num_threads();
void set_num_threads(int threads);

/// The number of threads of a step for which `wanted` are asked, or 0: the package's. No more than OpenMP is limited
/// to.
int threads_allowed(int wanted);

/// Makes forked children run on one thread: the parent's OpenMP pool does not exist in them, and waiting for it hangs.
void serial_after_fork();

/// Gives the calling thread the default floating-point mode (to nearest even, no traps, subnormals kept), or that which
/// flushes subnormals to zero, and restores what it had. The caller's mode may be another, and the workers have that of
/// whoever started them: the bits of a step would depend on it.
class FloatingPointMode {
public:
    explicit FloatingPointMode(bool flush_subnormals);
    ~FloatingPointMode();
    FloatingPointMode(const FloatingPointMode&) = delete;
    FloatingPointMode& operator=(const FloatingPointMode&) = delete;

private:
    std::uint64_t saved_ = 0;
};

void parallel(int threads, bool flush, void (*body)(void* context, int thread, int threads), void* context);

/// Calls `body(thread, threads)` on that many threads, the calling one among them.
template <class Body>
void parallel(int threads, bool flush, Body&& body) {
    parallel(
        threads, flush, [](void* context, int thread, int of) { (*static_cast<Body*>(context))(thread, of); }, &body);
}

}  // namespace schuss
