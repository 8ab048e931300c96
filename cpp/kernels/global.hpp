/// Rules with sums over all tensors: one unit, whose scalar slots belong to the optimizer.
#pragma once

#include "kernels/table.hpp"

namespace schuss {
namespace {

constexpr const char* kind = "global";
constexpr Scope kind_scope = Scope::all;

}  // namespace
}  // namespace schuss
