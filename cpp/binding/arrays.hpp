/// NumPy arrays seen from C++: what they are, and the sentences for those that cannot be used.
#pragma once

#include <pybind11/numpy.h>

#include <string>

#include "core/plan.hpp"

namespace schuss {

namespace py = pybind11;

/// An error message's start: `Adam: params[3]`.
using Who = std::string;

inline const py::detail::PyArray_Proxy& fields(PyObject* array) {
    return *py::detail::array_proxy(array);
}

inline bool is_array(PyObject* object) {
    return PyObject_TypeCheck(object, py::detail::npy_api::get().PyArray_Type_);
}

inline bool is_exact_array(PyObject* object) {
    return Py_TYPE(object) == py::detail::npy_api::get().PyArray_Type_;
}

/// The memory's dtype: `known` is false for anything but native floating and complex arrays.
struct ArrayType {
    bool known = false, complex = false;
    Dtype dtype = Dtype::float32;
};

inline ArrayType type_of(PyObject* array, bool uint16_is_bfloat16) {
    using npy = py::detail::npy_api;
    const auto* descr = py::detail::array_descriptor_proxy(fields(array).descr);
    if (descr->byteorder == '>') return {};
    switch (descr->type_num) {
        case npy::NPY_FLOAT_: return {true, false, Dtype::float32};
        case npy::NPY_DOUBLE_: return {true, false, Dtype::float64};
        case npy::NPY_CFLOAT_: return {true, true, Dtype::float32};
        case npy::NPY_CDOUBLE_: return {true, true, Dtype::float64};
        case 23: return {true, false, Dtype::float16};
        case npy::NPY_USHORT_: return {uint16_is_bfloat16, false, Dtype::bfloat16};
        default: break;
    }
    // ml_dtypes registers bfloat16 with a number of its own; neither buffer protocol nor typestr tells what it is.
    constexpr int first_user_type = 256;
    if (descr->type_num >= first_user_type) {
        const std::string name = reinterpret_cast<PyTypeObject*>(descr->typeobj)->tp_name;
        if (name == "bfloat16" || name == "ml_dtypes.bfloat16") return {true, false, Dtype::bfloat16};
    }
    return {};
}

inline std::string text(const py::handle& object) {
    return py::str(object);
}

inline std::string type_name(PyObject* object) {
    return Py_TYPE(object)->tp_name;
}

inline void require_array(PyObject* object, const Who& who) {
    if (PyCallable_Check(object) && !PyType_Check(object))
        throw py::type_error(who + " is a " + type_name(object) +
                             ", not a NumPy array; call it, and pass what it returns");
    if (!is_array(object))
        throw py::type_error(who + " is a " + type_name(object) + ", not a NumPy array; pass numpy.asarray of it");
    if (!is_exact_array(object) && py::hasattr(object, "mask"))
        throw py::type_error(who + " is a masked array, and its mask would be ignored; pass its .data");
}

[[noreturn]] inline void refuse_dtype(PyObject* array, const Who& who, const char* what = "stepped") {
    const auto* descr = py::detail::array_descriptor_proxy(fields(array).descr);
    const std::string dtype = text(py::handle(fields(array).descr));
    if (descr->byteorder == '>')
        throw py::type_error(who + " has dtype " + dtype +
                             ", which is not in this machine's byte order; pass it as .astype(" +
                             text(py::handle(fields(array).descr).attr("newbyteorder")("=")) + ")");
    const std::string hint = descr->type_num == py::detail::npy_api::NPY_USHORT_
                                 ? "; say dtype=\"bfloat16\" if these are the bits of bfloat16"
                                 : "; pass float64, float32, float16, bfloat16, complex128 or complex64";
    throw py::type_error(who + " has dtype " + dtype + ", which cannot be " + what + hint);
}

/// A parameter: checked for everything that updating it in place needs.
inline View view_of_parameter(PyObject* object, bool uint16_is_bfloat16, const Who& who) {
    require_array(object, who);
    const auto& a = fields(object);
    const ArrayType type = type_of(object, uint16_is_bfloat16);
    if (!type.known) refuse_dtype(object, who);
    const py::handle array(object);
    const bool c = a.flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_;
    const bool f = a.flags & py::detail::npy_api::NPY_ARRAY_F_CONTIGUOUS_;
    if (!c && !f)
        throw py::buffer_error(who + " is a strided view (shape " + text(array.attr("shape")) + ", strides " +
                               text(array.attr("strides")) +
                               ") and cannot be updated in place; pass a contiguous array");
    if (!(a.flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
        throw py::buffer_error(who + " is read-only and cannot be updated in place; pass a writeable array");
    if (!(a.flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
        throw py::buffer_error(who + " is not aligned to its item size; pass an aligned array (a copy is)");
    View view;
    view.data = reinterpret_cast<std::byte*>(a.data);
    view.dtype = type.dtype;
    view.complex = type.complex;
    view.f_order = f && !c;
    view.shape.assign(a.dimensions, a.dimensions + a.nd);
    view.strides.assign(a.strides, a.strides + a.nd);
    return view;
}

}  // namespace schuss
