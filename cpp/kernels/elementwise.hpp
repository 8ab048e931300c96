/// Rules of one sweep: each element is stepped by itself.
#pragma once

#include "kernels/table.hpp"

namespace schuss {
namespace {

constexpr const char* kind = "elementwise";
constexpr Scope kind_scope = Scope::element;

}  // namespace
}  // namespace schuss
