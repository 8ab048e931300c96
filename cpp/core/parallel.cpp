#include "core/parallel.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif

namespace schuss {
namespace {

constexpr int most_threads = 4096;

// How often a worker looks for work, and a caller for the end of its work, before it sleeps (decision 21).
constexpr int patience = 16'000;    ///< about a third of a millisecond; so long it keeps its core for itself
constexpr int politeness = 10'000;  ///< some milliseconds; so long it leaves its core to whoever wants it

std::atomic<int> threads_wanted{1};
std::atomic<int> threads_limit{most_threads};

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/// Waits for a condition for a while, and says whether it came true.
template <class Condition>
bool soon(const Condition& condition) {
    for (int i = 0; i < patience + politeness; ++i) {
        if (condition()) return true;
        if (i < patience) {
            pause();
        } else {
            std::this_thread::yield();
        }
    }
    return condition();
}

/// What a caller wants done; it lives until all shares are done.
struct Work {
    void (*body)(void*, int, int);
    void* context;
    int shares;
    bool flush;
    std::atomic<int> left{shares};

    void run(int share) noexcept {
        const FloatingPointMode mode(flush);
        body(context, share, shares);
    }
};

/// Counts a share as done.
void finish(Work& work);

/// A thread for the share of its number, which it finds in a place of its own.
class Worker {
public:
    explicit Worker(int number) : number_(number) {
        std::thread([this] { serve(); }).detach();
    }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// Offers work, unless there is some of another caller.
    bool offer(Work& work) {
        Work* none = nullptr;
        if (!offered_.compare_exchange_strong(none, &work)) return false;
        if (asleep_) {
            const std::lock_guard lock(mutex_);
            woken_.notify_one();
        }
        return true;
    }

    /// Takes back what has not been begun.
    bool withdraw(Work& work) {
        Work* mine = &work;
        return offered_.compare_exchange_strong(mine, nullptr);
    }

private:
    [[noreturn]] void serve() {
        const auto is_offered = [this] { return offered_.load(std::memory_order_relaxed) != nullptr; };
        for (;;) {
            if (!soon(is_offered)) {
                std::unique_lock lock(mutex_);
                asleep_ = true;
                woken_.wait(lock, [this] { return offered_ != nullptr; });
                asleep_ = false;
            }
            if (Work* const work = offered_.exchange(nullptr)) {
                work->run(number_);
                finish(*work);
            }
        }
    }

    // What callers write is on a cache line of this worker's own.
    alignas(64) std::atomic<Work*> offered_{nullptr};
    std::atomic<bool> asleep_{false};
    const int number_;
    std::mutex mutex_;
    std::condition_variable woken_;
};

/// The process's workers, started when they are first needed; they never end.
class Pool {
public:
    void run(Work& work) {
        const int workers = std::min(work.shares - 1, started(work.shares - 1));
        std::array<std::uint64_t, most_threads / 64> refused{};
        for (int k = 1; k <= workers; ++k)
            if (!worker_[k]->offer(work)) refused[k / 64] |= std::uint64_t(1) << k % 64;
        int done = 0;
        for (int k = 0; k < work.shares; ++k) {
            const bool mine = k == 0 || k > workers || (refused[k / 64] >> k % 64 & 1);
            if (mine || worker_[k]->withdraw(work)) {
                work.run(k);
                ++done;
            }
        }
        if (work.left.fetch_sub(done) == done || soon([&] { return work.left == 0; })) return;
        std::unique_lock lock(mutex_);
        ++callers_asleep_;
        finished_.wait(lock, [&] { return work.left == 0; });
        --callers_asleep_;
    }

    /// Wakes the callers that sleep, since the work of one of them is done.
    void wake_callers() {
        if (callers_asleep_ == 0) return;
        const std::lock_guard lock(mutex_);
        finished_.notify_all();
    }

    std::mutex& mutex() { return mutex_; }

private:
    int started(int wanted);

    std::mutex mutex_;
    std::condition_variable finished_;
    std::atomic<int> callers_asleep_{0};
    std::atomic<int> workers_{0};
    std::array<Worker*, most_threads> worker_{};  ///< from 1: share 0 is the caller's
};

// Never destroyed: workers may outlive all that is.
std::atomic<Pool*> pool{new Pool};

/// Starts workers until there are as many as wanted, and returns how many there are: fewer, where the system refuses.
int Pool::started(int wanted) {
    if (workers_ >= wanted) return wanted;
    const std::lock_guard lock(mutex_);
#if !defined(_WIN32)
    // Signals are for the threads of whoever handles them.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
    try {
        for (int k = workers_ + 1; k <= wanted; ++k) {
            worker_[k] = new Worker(k);
            workers_ = k;
        }
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
#if !defined(_WIN32)
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
    return workers_;
}

void finish(Work& work) {
    // The work is the caller's again, and may be gone, with the last count.
    if (work.left.fetch_sub(1) == 1) pool.load()->wake_callers();
}

}  // namespace

int num_threads() {
    return threads_allowed(0);
}

int threads_allowed(int wanted) {
    const int limit = threads_limit, usual = threads_wanted;
    const int threads = wanted > 0 ? wanted : usual;
    return limit < usual ? std::min(threads, limit) : threads;
}

void set_num_threads(int threads) {
    threads_wanted = threads;
}

void limit_threads(int threads) {
    threads_limit = std::max(threads, 1);
}

void at_fork([[maybe_unused]] void (*before)(), [[maybe_unused]] void (*in_parent)(),
             [[maybe_unused]] void (*in_child)()) {
#if !defined(_WIN32)
    pthread_atfork(before, in_parent, in_child);
#endif
}

void restart_after_fork() {
    at_fork([] { pool.load()->mutex().lock(); }, [] { pool.load()->mutex().unlock(); }, [] { pool = new Pool; });
}

FloatingPointMode::FloatingPointMode(bool flush_subnormals) {
#if defined(__x86_64__) || defined(_M_X64)
    saved_ = _mm_getcsr();
    _mm_setcsr(flush_subnormals ? 0x9fc0u : 0x1f80u);  // all exceptions masked; flush to zero, denormals are zero
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" ::"r"(std::uint64_t(flush_subnormals) << 24));
#endif
}

FloatingPointMode::~FloatingPointMode() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_setcsr(unsigned(saved_));
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(saved_));
#endif
}

void parallel(int shares, bool flush, void (*body)(void*, int, int), void* context) {
    Work work{body, context, std::clamp(shares, 1, most_threads), flush};
    if (work.shares == 1) return work.run(0);
    pool.load()->run(work);
}

}  // namespace schuss
