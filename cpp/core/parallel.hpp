/// Threads: the only place that starts them (docs/decisions/0021-pool.md).
#pragma once

#include <cstdint>

namespace schuss {

/// The number of threads that a step uses where its optimizer does not say; at least 1.
int num_threads();
void set_num_threads(int threads);

/// Limits steps to so many threads, whatever they ask for; as many as `num_threads` was, or more, are no limit.
void limit_threads(int threads);

/// The number of threads of a step for which `wanted` are asked, or 0: the package's.
int threads_allowed(int wanted);

/// Calls the functions before a fork, and after it in the parent and in the child; the last registered comes first
/// before, and last after. Where processes do not fork, it calls nothing.
void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)());

/// Gives forked children workers of their own: those of the parent do not exist there.
void restart_after_fork();

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

void parallel(int shares, bool flush, void (*body)(void* context, int share, int shares), void* context);

/// Calls `body(share, shares)` for every share, on as many threads, or fewer where these are busy or cannot be had; the
/// calling one is among them. Shares must not wait for each other.
template <class Body>
void parallel(int shares, bool flush, Body&& body) {
    parallel(shares, flush, [](void* context, int share, int of) { (*static_cast<Body*>(context))(share, of); }, &body);
}

}  // namespace schuss
