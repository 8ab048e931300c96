/// The nesting of lists, tuples and dicts that parameters came in, and the walk over gradients of the same nesting.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/plan.hpp"

namespace schuss {

namespace py = pybind11;

/// Made from Python's description: None for a leaf, a list of descriptions for a sequence, a dict of them for a dict.
class Tree {
public:
    explicit Tree(const py::handle& description, Index first_leaf = 0) : first_(first_leaf), last_(first_leaf + 1) {
        if (description.is_none()) return;
        Index next = first_leaf;
        const auto child = [&](const py::handle& each) {
            children_.emplace_back(each, next);
            next = children_.back().last_;
        };
        if (py::isinstance<py::dict>(description)) {
            kind_ = Kind::mapping;
            for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(description)) {
                keys_.push_back(py::reinterpret_borrow<py::object>(key));
                child(value);
            }
        } else {
            kind_ = Kind::sequence;
            for (const py::handle& each : py::reinterpret_borrow<py::list>(description)) child(each);
        }
        last_ = next;
    }

    /// Is there a dict, whose keys may run code of their own when they are looked up?
    bool runs_code() const {
        return kind_ == Kind::mapping ||
               std::any_of(children_.begin(), children_.end(), [](const Tree& each) { return each.runs_code(); });
    }

    /// Calls `leaf(index, object)` on every leaf, in order; `skip(index)` on those under a None. `name` is what the
    /// error messages call the object, for example "Adam: grads".
    template <class Leaf, class Skip>
    void walk(PyObject* object, const char* name, const Leaf& leaf, const Skip& skip) const {
        if (object == Py_None) {
            for (Index i = first_; i < last_; ++i) skip(i);
            return;
        }
        if (kind_ == Kind::leaf) return leaf(first_, object);
        if (kind_ == Kind::sequence) {
            const bool list = PyList_Check(object), tuple = PyTuple_Check(object);
            if (!list && !tuple) refuse_kind(object, name, "a list or tuple");
            const auto size = std::size_t(list ? PyList_GET_SIZE(object) : PyTuple_GET_SIZE(object));
            if (size != children_.size()) refuse_count(size, name);
            for (std::size_t i = 0; i < size; ++i) {
                const py::object held =
                    list ? item_of_list(object, i)
                         : py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(object, Py_ssize_t(i)));
                PyObject* const each = held.ptr();
                if (children_[i].kind_ == Kind::leaf && each != Py_None)
                    leaf(children_[i].first_, each);
                else
                    children_[i].walk(each, (name + ("[" + std::to_string(i)) + "]").c_str(), leaf, skip);
            }
            return;
        }
        if (!PyDict_Check(object)) refuse_kind(object, name, "a dict");
        for (std::size_t i = 0; i < keys_.size(); ++i) {
            const py::object held = item_of_dict(object, keys_[i].ptr());
            PyObject* const each = held.ptr();
            if (!each)
                throw py::value_error(name + (" has no entry " + quoted(keys_[i])) + "; pass None to skip a tensor");
            if (children_[i].kind_ == Kind::leaf && each != Py_None)
                leaf(children_[i].first_, each);
            else
                children_[i].walk(each, (name + ("[" + quoted(keys_[i])) + "]").c_str(), leaf, skip);
        }
        if (std::size_t(PyDict_GET_SIZE(object)) != keys_.size()) refuse_unknown(object, name);
    }

private:
    enum class Kind { leaf, sequence, mapping };

    // Held, because another thread may take it out: between two of our instructions where there is no GIL, and where
    // there is one, while a key of a dict runs code of its own.
#if PY_VERSION_HEX >= 0x030D0000
    static py::object item_of_list(PyObject* list, std::size_t i) {
        PyObject* const item = PyList_GetItemRef(list, Py_ssize_t(i));
        if (!item) throw py::error_already_set();
        return py::reinterpret_steal<py::object>(item);
    }
    static py::object item_of_dict(PyObject* dict, PyObject* key) {
        PyObject* item = nullptr;
        if (PyDict_GetItemRef(dict, key, &item) < 0) throw py::error_already_set();
        return py::reinterpret_steal<py::object>(item);
    }
#else
    static py::object item_of_list(PyObject* list, std::size_t i) {
        if (Py_ssize_t(i) >= PyList_GET_SIZE(list)) throw py::index_error("list index out of range");
        return py::reinterpret_borrow<py::object>(PyList_GET_ITEM(list, Py_ssize_t(i)));
    }
    static py::object item_of_dict(PyObject* dict, PyObject* key) {
        PyObject* const item = PyDict_GetItemWithError(dict, key);
        if (!item && PyErr_Occurred()) throw py::error_already_set();
        return py::reinterpret_borrow<py::object>(item);
    }
#endif

    static std::string quoted(const py::handle& key) { return py::repr(key); }

    [[noreturn]] static void refuse_kind(PyObject* object, const char* name, const char* wanted) {
        throw py::type_error(name + (" is a " + std::string(Py_TYPE(object)->tp_name)) + ", but params has " + wanted +
                             " there; pass the same nesting as params");
    }

    [[noreturn]] void refuse_count(std::size_t size, const char* name) const {
        throw py::value_error(name + (" has " + std::to_string(size)) + (size == 1 ? " entry" : " entries") +
                              ", but params has " + std::to_string(children_.size()) +
                              " there; pass None to skip a tensor");
    }

    [[noreturn]] void refuse_unknown(PyObject* object, const char* name) const {
        const py::dict now(py::handle(object).attr("copy")());
        for (const auto& [key, value] : now) {
            bool known = false;
            for (const py::object& each : keys_) known = known || each.equal(key);
            if (!known) throw py::value_error(name + ("[" + quoted(key)) + "] names no parameter; leave it out");
        }
        throw py::value_error(name + std::string(" changed while it was read"));
    }

    Kind kind_ = Kind::leaf;
    std::vector<py::object> keys_;
    std::vector<Tree> children_;
    Index first_, last_;
};

}  // namespace schuss
