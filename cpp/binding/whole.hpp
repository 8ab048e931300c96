/// What keeps a change whole that is made by several calls (docs/decisions/0020-interrupts.md): signals wait until it
/// is done, and bytes can be put back without asking for memory.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <signal.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "core/parallel.hpp"

namespace schuss {

namespace py = pybind11;

// Python runs its signal handlers, which may raise, in the main thread between two bytecodes. While they are held
// another handler notes what arrives, in whichever thread it does, and sends it again in the end. All but the notes
// belongs to the main thread; elsewhere there is nothing to hold.
class Signals {
public:
    static void set_up() {
        main_thread_ = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
        at_fork(nullptr, nullptr, [] {
            const bool goes_on = in_main_thread();
            main_thread_ = PyThread_get_thread_ident();
            if (!goes_on && depth_ > 0) {  // the thread that held them stays in the parent
                depth_ = 0;
                release();
            }
        });
    }

    static bool in_main_thread() { return PyThread_get_thread_ident() == main_thread_; }

    static void hold() {
        if (!in_main_thread() || depth_++ > 0) return;
        // Asking Python costs no system call.
        static const py::handle getsignal = py::object(py::module_::import("signal").attr("getsignal")).release();
        for (std::size_t i = 0; i < signals.size(); ++i) {
            is_held_[i] = PyCallable_Check(getsignal(signals[i]).ptr()) != 0;
            if (!is_held_[i]) continue;
            if (!pythons_handler_) pythons_handler_ = PyOS_getsig(signals[i]);
            held_[i] = set(signals[i], noting());
            if (handler(held_[i]) == pythons_handler_) continue;
            set(signals[i], held_[i]);  // another library has taken its place
            is_held_[i] = false;
        }
        holding_ = true;
        if (PyErr_CheckSignals() == 0) return;  // what came before
        depth_ = 0;
        release();
        throw py::error_already_set();
    }

    static void let_go() {
        if (in_main_thread() && depth_ > 0 && --depth_ == 0) release();
    }

    /// Lets handlers run for a while within what holds them, and returns what `resume` takes.
    static int pause() {
        if (!in_main_thread()) return 0;
        const int depth = depth_;
        if (depth > 0) {
            depth_ = 0;
            release();
        }
        return depth;
    }

    static void resume(int depth) {
        if (depth == 0) return;
        try {
            hold();
        } catch (...) {  // it goes out through those that hold
            hold_without_looking(depth);
            throw;
        }
        depth_ = depth;
    }

private:
#if defined(_WIN32)
    static constexpr std::array signals{SIGINT, SIGTERM, SIGBREAK};
    using Action = PyOS_sighandler_t;

    static Action set(int signal, Action action) { return PyOS_setsig(signal, action); }
    static PyOS_sighandler_t handler(Action action) { return action; }
    static Action noting() { return note; }
#else
    static constexpr std::array signals{SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1, SIGUSR2};
    using Action = struct sigaction;

    static Action set(int signal, const Action& action) {
        Action before{};
        sigaction(signal, &action, &before);
        return before;
    }
    static PyOS_sighandler_t handler(const Action& action) {
        return action.sa_flags & SA_SIGINFO ? nullptr : action.sa_handler;
    }
    static Action noting() {
        Action ours{};
        ours.sa_handler = note;
        return ours;
    }
#endif

    static void hold_without_looking(int depth) {
        for (std::size_t i = 0; i < signals.size(); ++i)
            if (is_held_[i]) set(signals[i], noting());
        holding_ = true;
        depth_ = depth;
    }

    static void release() {
        for (std::size_t i = 0; i < signals.size(); ++i) {
            if (!is_held_[i]) continue;
            const Action present = set(signals[i], held_[i]);
            if (handler(present) != note) set(signals[i], present);  // it was changed in between
        }
        holding_ = false;
        for (std::size_t i = 0; i < signals.size(); ++i)
            if (arrived_[i].exchange(false)) raise(signals[i]);
    }

    static void note(int signal) {
        for (std::size_t i = 0; i < signals.size(); ++i)
            if (signals[i] == signal) {
                arrived_[i] = true;
#if defined(_WIN32)
                if (holding_) set(signal, note);  // Windows takes a handler away when it calls it
#endif
                // Another thread may get here when it is over.
                if (!holding_ && arrived_[i].exchange(false)) pythons_handler_(signal);
            }
    }

    inline static unsigned long main_thread_ = 0;
    inline static int depth_ = 0;
    inline static PyOS_sighandler_t pythons_handler_ = nullptr;
    inline static std::array<Action, signals.size()> held_{};
    inline static std::array<bool, signals.size()> is_held_{};
    inline static std::array<std::atomic<bool>, signals.size()> arrived_{};
    inline static std::atomic<bool> holding_{false};
};

/// Bytes of arrays and attributes of objects as they are now, for the end of a block that an error leaves.
class Undo {
public:
    explicit Undo(std::vector<py::array> arrays, const std::vector<py::object>& objects = {})
        : arrays_(std::move(arrays)) {
        std::size_t size = 0;
        for (const py::array& array : arrays_) {
            if (!(array.flags() & (py::array::c_style | py::array::f_style)))
                throw std::invalid_argument("bytes are kept of contiguous arrays");
            parts_.push_back({static_cast<std::byte*>(const_cast<void*>(array.data())), std::size_t(array.nbytes())});
            size += parts_.back().size;
        }
        kept_.reset(new std::byte[size]);
        std::byte* to = kept_.get();
        for (const Part& part : parts_) {
            if (part.size > 0) std::memcpy(to, part.data, part.size);
            to += part.size;
        }
        for (const py::object& object : objects) {
            const py::dict attributes = object.attr("__dict__");
            attributes_.emplace_back(attributes, attributes.attr("copy")());
        }
    }

    void restore() const noexcept {
        const std::byte* from = kept_.get();
        for (std::size_t i = 0; i < parts_.size(); ++i) {
            const auto& [data, size] = parts_[i];
            // What was resized in the meantime is no longer there.
            if (size > 0 && arrays_[i].data() == data && std::size_t(arrays_[i].nbytes()) == size)
                std::memcpy(data, from, size);
            from += size;
        }
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        for (const auto& [attributes, kept] : attributes_) {
            // Keys that are there need no memory; those that came since may stay.
            PyObject *key, *attribute;
            for (Py_ssize_t at = 0; PyDict_Next(kept.ptr(), &at, &key, &attribute);)
                if (PyDict_SetItem(attributes.ptr(), key, attribute) != 0) PyErr_Clear();
        }
        PyErr_Restore(type, value, traceback);
    }

private:
    struct Part {
        std::byte* data;
        std::size_t size;
    };

    std::vector<py::array> arrays_;
    std::vector<Part> parts_;
    std::unique_ptr<std::byte[]> kept_;
    std::vector<std::pair<py::dict, py::dict>> attributes_;
};

/// Copies of whole arrays that cannot fail any more.
class Copies {
public:
    using Pairs = std::vector<std::pair<py::array, py::array>>;

    Copies() = default;

    explicit Copies(const Pairs& pairs) {
        constexpr int contiguous = py::array::c_style | py::array::f_style;
        for (const auto& [to, from] : pairs) {
            if (!to.writeable() || to.nbytes() != from.nbytes() || !(to.flags() & from.flags() & contiguous))
                throw py::value_error("an array was made read-only or resized, and cannot be written");
            arrays_.push_back(to);
            arrays_.push_back(from);
        }
    }

    void make() const noexcept {
        for (std::size_t i = 0; i < arrays_.size(); i += 2)
            if (arrays_[i].nbytes() > 0)
                std::memcpy(const_cast<void*>(arrays_[i].data()), arrays_[i + 1].data(),
                            std::size_t(arrays_[i].nbytes()));
    }

private:
    std::vector<py::array> arrays_;
};

/// Lets the making of an object raise MemoryError: pybind11 does not look at what the allocation of an instance
/// returned.
inline void check_memory(const py::handle& type) {
    reinterpret_cast<PyTypeObject*>(type.ptr())->tp_new = [](PyTypeObject* cls, PyObject*, PyObject*) -> PyObject* {
        PyObject* const self = cls->tp_alloc(cls, 0);
        if (self) reinterpret_cast<py::detail::instance*>(self)->allocate_layout();
        return self;
    };
}

inline void bind_whole(py::module_& m) {
    struct Held {};
    struct Let {
        int depth = 0;
    };
    Signals::set_up();
    py::class_<Held> held(m, "Held", "A block that signals wait for: their handlers run at its end.");
    held.def(py::init<>())
        .def("__enter__", [](const Held&) { Signals::hold(); })
        .def(
            "__exit__", [](const Held&, const py::object&, const py::object&, const py::object&) { Signals::let_go(); },
            py::arg("kind"), py::arg("error"), py::arg("traceback"));
    py::class_<Let> let(m, "Let", "A block within one of `Held` in which handlers run as ever.");
    let.def(py::init<>())
        .def("__enter__", [](Let& block) { block.depth = Signals::pause(); })
        .def(
            "__exit__",
            [](const Let& block, const py::object&, const py::object&, const py::object&) {
                Signals::resume(block.depth);
            },
            py::arg("kind"), py::arg("error"), py::arg("traceback"));
    py::class_<Undo> undo(m, "Undo", "A block whose errors put bytes of arrays and attributes of objects back.");
    undo.def(py::init<std::vector<py::array>, const std::vector<py::object>&>(), py::arg("arrays"),
             py::arg("objects") = std::vector<py::object>())
        .def("__enter__", [](const Undo&) {})
        .def(
            "__exit__",
            [](const Undo& block, const py::object& error, const py::object&, const py::object&) {
                if (!error.is_none()) block.restore();
            },
            py::arg("kind"), py::arg("error"), py::arg("traceback"));
    for (const py::handle& type : std::initializer_list<py::handle>{held, let, undo}) check_memory(type);
}

}  // namespace schuss
