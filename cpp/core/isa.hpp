/// Which instruction sets this machine can run, and which of them is in use.
#pragma once

#include <string>
#include <vector>

#include "core/kernel.hpp"

namespace schuss {

/// Names of the sets that this build holds and the processor and the operating system support, baseline first.
std::vector<std::string> instruction_sets();

/// Chooses a set by name; throws std::invalid_argument for one this machine cannot run.
void use_isa(const std::string& name);

const InstructionSet& isa();

}  // namespace schuss
