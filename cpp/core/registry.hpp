/// Every rule of every instruction set this build holds, baseline first; written by cmake/rules.cmake.
#pragma once

#include <vector>

#include "core/kernel.hpp"

namespace schuss {

const std::vector<InstructionSet>& registry();
int rule_count();

}  // namespace schuss
