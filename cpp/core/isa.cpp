#include "core/isa.hpp"

#include <atomic>
#include <cstdint>
#include <stdexcept>

#include "core/registry.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace schuss {
namespace {

#if defined(__x86_64__)

struct Registers {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf) {
    Registers r;
    __get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d);
    return r;
}

/// The register state that the operating system saves and restores (XCR0).
std::uint64_t saved_by_system() {
    constexpr unsigned osxsave = 1u << 27;
    if (!(cpuid(1).c & osxsave)) return 0;
    std::uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return std::uint64_t(high) << 32 | low;
}

constexpr bool has(std::uint64_t value, std::uint64_t mask) {
    return (value & mask) == mask;
}

/// The level of the x86-64 psABI: 1 (baseline), 3 or 4. Level 2 has no build of its own.
int level() {
    const Registers one = cpuid(1), seven = cpuid(7), extended = cpuid(0x80000001u);
    const std::uint64_t saved = saved_by_system();
    constexpr unsigned sse3 = 1u << 0, ssse3 = 1u << 9, fma = 1u << 12, cx16 = 1u << 13, sse41 = 1u << 19,
                       sse42 = 1u << 20, movbe = 1u << 22, popcnt = 1u << 23, avx = 1u << 28, f16c = 1u << 29;
    constexpr unsigned bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
    constexpr unsigned lahf = 1u << 0, lzcnt = 1u << 5;
    constexpr unsigned avx512f = 1u << 16, avx512dq = 1u << 17, avx512cd = 1u << 28, avx512bw = 1u << 30,
                       avx512vl = 1u << 31;
    constexpr std::uint64_t ymm = 0x6, zmm = 0xe6;
    if (!has(one.c, sse3 | ssse3 | fma | cx16 | sse41 | sse42 | movbe | popcnt | avx | f16c) ||
        !has(seven.b, bmi1 | avx2 | bmi2) || !has(extended.c, lahf | lzcnt) || !has(saved, ymm))
        return 1;
    return has(seven.b, avx512f | avx512dq | avx512cd | avx512bw | avx512vl) && has(saved, zmm) ? 4 : 3;
}

bool runs(const std::string& name) {
    const int required = name == "x86_64_v4" ? 4 : name == "x86_64_v3" ? 3 : 1;
    return required <= level();
}

#else

bool runs(const std::string&) {
    return true;
}

#endif

std::atomic<const InstructionSet*> chosen{nullptr};

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet& set : registry())
        if (runs(set.name)) names.emplace_back(set.name);
    return names;
}

void use_isa(const std::string& name) {
    for (const InstructionSet& set : registry())
        if (set.name == name && runs(name)) {
            chosen = &set;
            return;
        }
    std::string known;
    for (const std::string& other : instruction_sets()) known += (known.empty() ? "" : ", ") + other;
    throw std::invalid_argument("schuss: this machine does not run the instruction set '" + name + "'; choose one of " +
                                known);
}

const InstructionSet& isa() {
    if (const InstructionSet* set = chosen) return *set;
    use_isa(instruction_sets().back());
    return *chosen;
}

}  // namespace schuss
