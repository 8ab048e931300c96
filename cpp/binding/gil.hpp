/// Work without the GIL, and the interpreter's end, which waits for it (docs/decisions/0006-interpreter-exit.md).
#pragma once

#include <pybind11/pybind11.h>

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "core/parallel.hpp"

namespace schuss {

namespace py = pybind11;

/// The largest step whose memory traffic is done before another Python thread could take the GIL and give it back.
constexpr std::int64_t short_step = 16384;

// A daemon thread that asks for the GIL once the interpreter is going down is ended there and then (Python < 3.14), and
// unwinding it through our frames aborts the process. So the end waits for steps without the GIL, and no further one
// begins.
inline std::atomic<int> steps_without_gil{0};
inline bool exiting = false;  ///< guarded by the GIL

/// Counts a step; made and destroyed with the GIL held.
struct Running {
    Running() { ++steps_without_gil; }
    ~Running() { --steps_without_gil; }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
};

inline void wait_at_exit() {
    pthread_atfork(nullptr, nullptr, [] { steps_without_gil = 0; });  // the threads of those steps stay in the parent
    py::module_::import("atexit").attr("register")(py::cpp_function([] {
        exiting = true;
        const py::gil_scoped_release release;
        while (steps_without_gil > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }));
}

/// Calls `work` in the default floating-point mode, without the GIL if it goes over more elements than a short step does.
template <class Work>
auto without_gil(std::int64_t elements, const Work& work) {
    const FloatingPointMode mode(false);
    if (elements <= short_step || exiting) return work();
    const Running running;
    const py::gil_scoped_release release;
    return work();
}

}  // namespace schuss
