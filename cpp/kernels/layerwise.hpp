/// Rules with sums per tensor (or per row, where the rule says so): sweeps that read, then one that writes.
#pragma once

#include "kernels/table.hpp"

namespace schuss {
namespace {

constexpr const char* kind = "layerwise";
constexpr Scope kind_scope = Scope::tensor;

}  // namespace
}  // namespace schuss
