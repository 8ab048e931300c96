/// Who is inside an optimizer: one thread at a time, whatever Python's locks are (docs/decisions/0019-threads.md).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "core/parallel.hpp"

namespace schuss {

// Threads are numbered, since their addresses are used again; a forked child goes on with one thread of its parent.
inline std::atomic<std::uint64_t> threads_numbered{0};
inline std::atomic<unsigned> forks{0};                ///< from the process that loaded us to this one
inline std::atomic<std::uint64_t> forking_thread{0};  ///< the one that lives on in this process

inline std::uint64_t this_thread() {
    thread_local std::uint64_t number = 0;
    if (number == 0) number = ++threads_numbered;
    return number;
}

inline void count_forks() {
    at_fork(nullptr, nullptr, [] {
        forking_thread = this_thread();
        ++forks;
    });
}

/// Keeps other threads out of an object, and out of those that share its lock: a wrapper and what it wraps. A thread
/// that is inside may enter the others, but not the same one once more, as a callback that steps its optimizer would.
class Guard {
public:
    explicit Guard(std::string owner) : owner_(std::move(owner)), lock_(std::make_shared<Lock>()) {}
    Guard(std::string owner, const Guard& wrapped) : owner_(std::move(owner)), lock_(wrapped.lock_) {}

    /// Enters, or raises; `whole` where a thread that a fork leaves behind leaves nothing half done.
    void enter(bool whole = false) {
        Lock& lock = *lock_;
        const std::uint64_t me = this_thread();
        std::uint64_t owner = 0;
        while (!lock.owner.compare_exchange_strong(owner, me)) {
            if (owner == me) break;
            if (!left_behind(owner)) throw std::runtime_error(owner_ + busy);
            if (!lock.whole) throw std::runtime_error(owner_ + forked);
            lock.depth = 0;
        }
        if (lock.depth == 0) {
            ++lock.entry;
            lock.forks = forks.load();
            lock.whole = whole;
        } else if (entry_ == lock.entry) {
            throw std::runtime_error(owner_ + busy);
        }
        ++lock.depth;
        entry_ = lock.entry;
    }

    void leave() {
        entry_ = 0;
        if (--lock_->depth > 0) return;
        lock_->whole = false;
        lock_->owner = 0;
    }

private:
    static constexpr const char* busy =
        ": another thread is inside this optimizer; give each thread its own, or use a lock";
    static constexpr const char* forked =
        ": another thread was inside this optimizer when the process forked, so what is here may be half done; make a "
        "new one, or fork between steps";

    struct Lock {
        std::atomic<std::uint64_t> owner{0};  ///< the thread that is inside, or 0
        std::atomic<unsigned> forks{0};       ///< when it entered
        std::atomic<bool> whole{false};
        // The owner's:
        int depth = 0;            ///< how many objects it is inside of
        std::uint64_t entry = 0;  ///< how often the lock was taken
    };

    bool left_behind(std::uint64_t owner) const { return lock_->forks != forks && owner != forking_thread; }

    std::string owner_;
    std::shared_ptr<Lock> lock_;
    std::uint64_t entry_ = 0;  ///< the one in which a thread is inside this very object
};

/// Is inside for a block.
class Inside {
public:
    Inside(Guard& guard, bool whole) : guard_(guard) { guard_.enter(whole); }
    ~Inside() { guard_.leave(); }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

private:
    Guard& guard_;
};

}  // namespace schuss
