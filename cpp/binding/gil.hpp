/// Work without the GIL, and what waits for it: the interpreter's end (docs/decisions/0006-interpreter-exit.md) and
/// forks (docs/decisions/0019-threads.md).
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "core/parallel.hpp"

namespace schuss {

namespace py = pybind11;

#ifdef Py_GIL_DISABLED
constexpr bool has_no_gil = true;
#else
constexpr bool has_no_gil = false;
#endif

/// The largest step whose memory traffic is done before another Python thread could take the GIL and give it back.
constexpr std::int64_t short_step = 16384;

// A daemon thread that asks for the GIL once the interpreter is going down is ended there and then (Python < 3.14), and
// unwinding it through our frames aborts the process. So the end waits for steps without the GIL, and no further one
// begins.
inline std::atomic<int> steps_without_gil{0};
inline std::atomic<bool> exiting{false};

/// Counts a step; made and destroyed with the GIL held.
struct Running {
    Running() { ++steps_without_gil; }
    ~Running() { --steps_without_gil; }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
};

// A fork in the middle of such work would leave the child with arrays half written, and nobody to finish them. Whoever
// waits for the other here does so without the GIL.
inline std::atomic<int> works_without_gil{0};
inline std::atomic<int> forks_under_way{0};

/// Waits for forks, and lets forks wait.
struct Working {
    Working() {
        while (++works_without_gil, forks_under_way > 0) {
            --works_without_gil;
            while (forks_under_way > 0) std::this_thread::yield();
        }
    }
    ~Working() { --works_without_gil; }
    Working(const Working&) = delete;
    Working& operator=(const Working&) = delete;
};

inline void wait_at_fork() {
    at_fork(
        [] {
            ++forks_under_way;
            while (works_without_gil > 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
        },
        [] { --forks_under_way; },
        [] {
            forks_under_way = 0;
            steps_without_gil = 0;  // their threads stay in the parent
        });
}

inline void wait_at_exit() {
    py::module_::import("atexit").attr("register")(py::cpp_function([] {
        exiting = true;
        const py::gil_scoped_release release;
        while (steps_without_gil > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }));
}

/// Calls `work` in the default floating-point mode, without the GIL if it goes over more elements than a short step
/// does.
template <class Work>
auto without_gil(std::int64_t elements, const Work& work) {
    const FloatingPointMode mode(false);
    if (elements <= short_step || exiting) return work();
    const Running running;
    const py::gil_scoped_release release;
    const Working working;
    return work();
}

}  // namespace schuss
