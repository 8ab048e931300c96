/// Rules that see whole matrices: sweeps over tiles, with work in between that is Python's, then one that writes.
#pragma once

#include "kernels/table.hpp"

namespace schuss {
namespace {

constexpr const char* kind = "matrix";
constexpr Scope kind_scope = Scope::element;

}  // namespace
}  // namespace schuss
