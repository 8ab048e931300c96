/// Fuzz target: the bytes are numbers, which are stored in 16 bits and read again on every instruction set and must be
/// what a formula says. Before the first input all 2^16 patterns of both types are, with the numbers half-way between
/// any two and their neighbours.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/isa.hpp"
#include "core/registry.hpp"

namespace fuzz {
namespace {

using namespace schuss;

struct Narrow {
    Dtype dtype;
    const char* name;
    int mantissa, bias;
};

constexpr Narrow types[] = {{Dtype::float16, "float16", 10, 15}, {Dtype::bfloat16, "bfloat16", 7, 127}};

/// What a pattern stands for.
double value(std::uint16_t bits, const Narrow& type) {
    const int fraction = bits & ((1 << type.mantissa) - 1), exponent = (bits & 0x7fff) >> type.mantissa;
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 2 * type.bias + 1)
        return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
    const int implied = exponent > 0 ? 1 << type.mantissa : 0;
    return sign * std::ldexp(fraction + implied, std::max(exponent, 1) - type.bias - type.mantissa);
}

/// The nearest number of a type, the even one of two.
double nearest(double x, const Narrow& type) {
    if (x == 0 || !std::isfinite(x)) return x;
    const int unit = std::max(std::ilogb(x), 1 - type.bias) - type.mantissa;
    const double rounded = std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
    const double beyond = std::ldexp(1, type.bias + 1);
    return std::abs(rounded) < beyond ? rounded : std::copysign(std::numeric_limits<double>::infinity(), x);
}

bool same(double a, double b) {
    return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

[[noreturn]] void fail(const InstructionSet& set, const Narrow& type, const char* what, double x, double found) {
    std::fprintf(stderr, "storage: %s on %s: %a is %s as %a\n", type.name, set.name, x, what, found);
    std::abort();
}

/// Brings some numbers into a 16-bit array and out of it again, as a step of a rule that does nothing.
template <class T>
void check(const InstructionSet& set, const Stages<T>& stages, const Narrow& type, const std::vector<T>& numbers) {
    const Stage stage;
    Call call{};
    call.gradient_scale = 1;
    std::vector<std::uint16_t> stored(numbers.size());
    std::vector<T> gradient(numbers.size());
    Tensor tensor{};
    tensor.call = &call;
    tensor.stage = &stage;
    tensor.p = {reinterpret_cast<std::byte*>(stored.data()), nullptr, type.dtype};
    tensor.g = {reinterpret_cast<std::byte*>(gradient.data()), nullptr,
                sizeof(T) == 4 ? Dtype::float32 : Dtype::float64};
    const Operands none{};
    const auto over_blocks = [&](const auto& visit) {
        Block<T> block;
        for (std::size_t first = 0; first < numbers.size(); first += block_size) {
            const int size = int(std::min<std::size_t>(block_size, numbers.size() - first));
            stages.load(tensor, none, std::int64_t(first), size, block);
            visit(block, first, size);
        }
    };
    over_blocks([&](Block<T>& block, std::size_t first, int size) {
        std::memcpy(block.p, numbers.data() + first, std::size_t(size) * sizeof(T));
        stages.store(tensor, none, std::int64_t(first), size, block);
    });
    for (std::size_t i = 0; i < numbers.size(); ++i)
        if (!same(value(stored[i], type), nearest(numbers[i], type)))
            fail(set, type, "stored", numbers[i], value(stored[i], type));
    over_blocks([&](Block<T>& block, std::size_t first, int size) {
        for (int i = 0; i < size; ++i)
            if (!same(block.p[i], value(stored[first + std::size_t(i)], type)))
                fail(set, type, "read", value(stored[first + std::size_t(i)], type), block.p[i]);
    });
}

template <class T>
void check_everywhere(const std::vector<T>& numbers) {
    for (const InstructionSet& set : registry()) {
        const std::vector<std::string> runnable = instruction_sets();
        if (std::find(runnable.begin(), runnable.end(), set.name) == runnable.end()) continue;
        for (const Narrow& type : types) {
            if constexpr (sizeof(T) == 4)
                check(set, set.stages->float32, type, numbers);
            else
                check(set, set.stages->float64, type, numbers);
        }
    }
}

/// Every number of both types, what is half-way to the next one, and what lies beside that.
template <class T>
std::vector<T> all_numbers() {
    std::vector<T> all;
    const T infinity = std::numeric_limits<T>::infinity();
    for (const Narrow& type : types)
        for (unsigned bits = 0; bits < 0x10000; ++bits) {
            const double x = value(std::uint16_t(bits), type), next = value(std::uint16_t(bits + 1), type);
            const T half_way = T(x + (next - x) / 2);
            all.insert(all.end(),
                       {T(x), half_way, std::nextafter(half_way, infinity), std::nextafter(half_way, -infinity)});
        }
    return all;
}

template <class T>
std::vector<T> numbers_of(const std::uint8_t* data, std::size_t size) {
    std::vector<T> numbers(size / sizeof(T));
    if (!numbers.empty()) std::memcpy(numbers.data(), data, numbers.size() * sizeof(T));
    return numbers;
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    [[maybe_unused]] static const bool all = [] {
        fuzz::check_everywhere(fuzz::all_numbers<float>());
        fuzz::check_everywhere(fuzz::all_numbers<double>());
        return true;
    }();
    fuzz::check_everywhere(fuzz::numbers_of<float>(data, size));
    fuzz::check_everywhere(fuzz::numbers_of<double>(data, size));
    return 0;
}
