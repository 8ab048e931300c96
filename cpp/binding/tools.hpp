/// What Python sees of the tools.
#pragma once

#include <pybind11/pybind11.h>

namespace schuss {

void bind_tools(pybind11::module_& m);

}  // namespace schuss
