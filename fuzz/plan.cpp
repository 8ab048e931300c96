/// Fuzz target: bytes become a plan of any rule and some steps of it, which run under several settings. No setting may
/// raise, write beyond an array or into a gradient, or change a bit of the results. Where an allocation fails nothing
/// has changed, and the same step can be tried again.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/isa.hpp"
#include "core/plan.hpp"
#include "core/registry.hpp"
#include "memory.hpp"

namespace {

thread_local long long allocations_left = -1;  ///< until one fails; negative: none does

}  // namespace

// (Clang's sanitizers come with operators of their own that give no way to: there no allocation fails.)
#if !defined(__clang__)

namespace {

void* allocate(std::size_t bytes) {
    if (allocations_left >= 0 && allocations_left-- == 0) return nullptr;
    return std::malloc(std::max<std::size_t>(bytes, 1));
}

}  // namespace

// Of the forms of new and delete the core uses these; the others of the standard library call them.
void* operator new(std::size_t bytes) {
    if (void* const memory = allocate(bytes)) return memory;
    throw std::bad_alloc();
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return allocate(bytes);
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
    std::free(memory);
}

#endif

namespace fuzz {
namespace {

using namespace schuss;

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "plan: %s\n", what.c_str());
    std::abort();
}

/// What an input says, byte by byte; zeros after its end.
class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

    Index below(Index n) {
        Index value = 0;
        for (Index range = 1; range < n; range *= 256) value = value * 256 + byte();
        return value % n;
    }
    /// One in `n`; an input that has ended says no.
    bool one_in(Index n) { return below(n) == n - 1; }
    template <class T, std::size_t count>
    T one_of(const T (&values)[count]) {
        return values[below(Index(count))];
    }

private:
    std::uint8_t byte() { return at_ < end_ ? *at_++ : std::uint8_t(0); }

    const std::uint8_t *at_, *end_;
};

/// A number for a place. Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators.
std::uint64_t mixed(std::uint64_t seed, std::uint64_t place) {
    std::uint64_t x = seed + 0x9e3779b97f4a7c15u * (place + 1);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// ---- numbers
// ---------------------------------------------------------------------------------------------------------

struct Format {
    int mantissa, exponent;  ///< bits
};

Format format(Dtype dtype) {
    switch (dtype) {
        case Dtype::float64: return {52, 11};
        case Dtype::float32: return {23, 8};
        case Dtype::float16: return {10, 5};
        case Dtype::bfloat16: return {7, 8};
    }
    return {};
}

enum class Content : std::uint8_t { tame, subnormal, wild };

std::uint64_t number(std::uint64_t random, Dtype dtype, Content content, bool positive) {
    const auto [mantissa, exponent] = format(dtype);
    const std::uint64_t fraction = (random >> 12) & ((1ull << mantissa) - 1), sign = positive ? 0 : random & 1;
    const std::uint64_t bias = (1ull << (exponent - 1)) - 1;
    std::uint64_t power = bias - 4 + (random >> 1) % 6;
    if (content == Content::subnormal && (random >> 4) % 4 == 0) power = 0;
    if (content == Content::wild && (random >> 4) % 16 == 0) power = (random >> 8) & ((1ull << exponent) - 1);
    return (sign << exponent | power) << mantissa | fraction;
}

void write(std::byte* to, std::uint64_t bits, Dtype dtype) {
    std::memcpy(to, &bits, std::size_t(item_size(dtype)));  // of a little-endian machine the first bytes
}

/// An array's bits, with one pattern for every NaN.
std::vector<std::byte> canonical(std::vector<std::byte> bytes, Dtype dtype) {
    const auto [mantissa, exponent] = format(dtype);
    const std::uint64_t sign = 1ull << (mantissa + exponent), infinity = ((1ull << exponent) - 1) << mantissa;
    const std::size_t item = std::size_t(item_size(dtype));
    for (std::size_t i = 0; i + item <= bytes.size(); i += item) {
        std::uint64_t bits = 0;
        std::memcpy(&bits, bytes.data() + i, item);
        if ((bits & ~sign) > infinity) write(bytes.data() + i, infinity + 1, dtype);
    }
    return bytes;
}

std::vector<std::byte> canonical(std::span<const double> numbers) {
    const auto* const data = reinterpret_cast<const std::byte*>(numbers.data());
    return canonical({data, data + numbers.size_bytes()}, Dtype::float64);
}

// ---- what an input decodes to
// ----------------------------------------------------------------------------------------

constexpr Dtype dtypes[] = {Dtype::float32, Dtype::float64, Dtype::float16, Dtype::bfloat16};
constexpr int most_steps = 3;

/// An array that a step reads: along the axes of `repeated` it may be given strides of 0.
struct Read {
    Dtype dtype;
    unsigned repeated;
};

struct TensorOf {
    View view;  ///< without memory
    int group = 0;
    bool matrix = false;
    Index rows = 1, columns = 1;
    std::vector<Dtype> state;
    std::vector<Read> read;  ///< the gradient, then the inputs
    std::array<bool, most_steps> active{};
    bool decays = false, anchored = false, bounded = false, averaged = false;
    Dtype anchor{}, average{};
    double lower = 0, upper = 0;
};

struct Problem {
    int rule = 0;
    const Compiled* compiled = nullptr;
    std::vector<TensorOf> tensors;
    std::vector<std::vector<double>> hyper;
    std::vector<double> given;
    Options options;
    Stage stage;
    double prescale = 1;
    std::int64_t steps_before = 0;
    int steps = 1;
    bool measures = false, takes_norms = false, weights = false;
    int factors = 0;  ///< none, one for all, one for every unit
    Norm norm{};
    std::uint64_t seed = 0;
    Content content{};
    bool fails = false;  ///< are allocations to fail?
};

const Rule& rule_of(const Problem& problem) {
    return *registry().front().rules[problem.rule];
}

/// The variant that steps a tensor.
const Compiled& variant_of(const Problem& problem, const TensorOf& tensor) {
    const Rule& rule = rule_of(problem);
    const unsigned flags = problem.compiled->flags | (rule.shaped && tensor.matrix ? 1u << (rule.flag_count - 1) : 0u);
    for (int v = 0; v < rule.count; ++v)
        if (rule.variant[v].flags == flags) return rule.variant[v];
    fail(std::string(rule.name) + " has no variant for matrices");
}

/// Do rows of matrices have sums or numbers?
bool sees_rows(const Problem& problem) {
    TensorOf matrix;
    matrix.matrix = true;
    const Compiled& variant = variant_of(problem, matrix);
    return problem.compiled->operands.rows + problem.compiled->operands.columns + variant.operands.rows +
               variant.operands.columns >
           0;
}

std::vector<Index> decode_shape(Bytes& bytes, bool large) {
    const Index ndim = bytes.below(5);
    constexpr Index widths[] = {1, 3, 64, 700, 17000, 33000};
    switch (ndim) {
        case 0: return {};
        case 1: return {large ? 16000 + bytes.below(40000) : bytes.below(301)};
        case 2: {
            const Index width = large ? bytes.one_of(widths) : bytes.below(18);
            return {large ? (35000 + bytes.below(20000)) / width : bytes.below(18), width};
        }
        case 3: {
            const Index first = 1 + bytes.below(3), width = large ? bytes.one_of(widths) : bytes.below(8);
            return {first, large ? 36000 / width / first : bytes.below(8), width};
        }
        default: return {bytes.below(5), bytes.below(5), bytes.below(5), bytes.below(5)};
    }
}

TensorOf decode_tensor(Bytes& bytes, const Problem& problem, bool large) {
    TensorOf tensor;
    tensor.view.dtype = bytes.one_of(dtypes);
    tensor.view.shape = decode_shape(bytes, large);
    const std::vector<Index>& shape = tensor.view.shape;
    tensor.view.complex = bytes.one_in(8);
    const bool long_axes = std::count_if(shape.begin(), shape.end(), [](Index extent) { return extent > 1; }) > 1;
    const Index size = tensor.view.elements();

    if (problem.compiled->pass[0]) {
        tensor.matrix = shape.size() > 1 && size > 0 && !tensor.view.complex && !bytes.one_in(4);
        tensor.columns = std::max<Index>(1, size);
        if (tensor.matrix && sees_rows(problem)) {
            tensor.columns = shape.back();
            tensor.rows = bytes.one_in(4) ? size / shape.back() : shape[shape.size() - 2];
        }
    }
    // Rows must lie side by side where there are any.
    const bool rows = problem.options.by_rows || problem.compiled->scope == Scope::row ||
                      (problem.compiled->pass[0] && sees_rows(problem));
    tensor.view.f_order = long_axes && size > 0 && !rows && bytes.one_in(4);
    tensor.group = int(bytes.below(Index(problem.hyper.size())));

    const Dtype compute = tensor.view.dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
    const Operands& operands = problem.compiled->operands;
    for (int s = operands.first_state(); s < operands.slots; ++s)
        tensor.state.push_back(bytes.one_in(3) ? bytes.one_of(dtypes) : compute);
    for (int k = 0; k <= operands.inputs; ++k)
        tensor.read.push_back(
            {bytes.one_in(3) ? bytes.one_of(dtypes) : compute, bytes.one_in(4) ? unsigned(bytes.below(16)) : 0u});
    for (bool& active : tensor.active) active = !bytes.one_in(8);
    tensor.decays = bytes.one_in(2);
    tensor.anchored = bytes.one_in(2);
    tensor.anchor = bytes.one_of(dtypes);
    tensor.averaged = bytes.one_in(2);
    tensor.average = bytes.one_of(dtypes);
    tensor.bounded = bytes.one_in(8);
    tensor.lower = -0.125 * double(bytes.below(4));
    tensor.upper = tensor.lower + 0.25;
    return tensor;
}

Problem decode(Bytes& bytes) {
    Problem problem;
    problem.rule = int(bytes.below(rule_count()));
    const Rule& rule = rule_of(problem);
    const unsigned matrix = rule.shaped ? 1u << (rule.flag_count - 1) : 0u;
    std::vector<const Compiled*> variants;
    for (int v = 0; v < rule.count; ++v)
        if (!(rule.variant[v].flags & matrix)) variants.push_back(&rule.variant[v]);
    problem.compiled = variants[std::size_t(bytes.below(Index(variants.size())))];

    problem.seed = std::uint64_t(bytes.below(65536));
    constexpr Content contents[] = {Content::tame, Content::subnormal, Content::wild};
    problem.content = bytes.one_of(contents);
    constexpr std::int64_t counts[] = {0, 1, 9, std::int64_t(1) << 24, (std::int64_t(1) << 53) + 1};
    problem.steps_before = bytes.one_of(counts);
    problem.steps = 1 + int(bytes.below(most_steps));

    const bool plain = bytes.one_in(2);
    constexpr double hypers[] = {0, 1e-8, 1e-3, 0.1, 0.5, 0.9, 0.999, 1, 2};
    constexpr double rates[] = {0, 0, 0.01};
    problem.hyper.resize(std::size_t(1 + bytes.below(3)));
    for (auto& values : problem.hyper) {
        for (int h = 0; h < problem.compiled->hypers; ++h)
            values.push_back(h == problem.compiled->seed ? double(bytes.below(256)) * 0x1p40 : bytes.one_of(hypers));
        for (int around = 0; around < 4; ++around) values.push_back(plain ? 0 : bytes.one_of(rates));
    }
    for (int k = 0; k < max_given; ++k)
        problem.given.push_back(k < problem.compiled->givens ? bytes.one_of(hypers) : 0);

    Options& options = problem.options;
    options.sign = bytes.one_in(4) ? -1 : 1;
    options.flush_subnormals = bytes.one_in(4);
    options.nonfinite = Nonfinite(bytes.below(3));
    problem.measures = bytes.one_in(2) || options.nonfinite != Nonfinite::propagate;
    Stage& stage = problem.stage;
    if (!plain) {
        constexpr double limits[] = {std::numeric_limits<double>::infinity(), 0.25}, spreads[] = {0, 0, 0.5},
                         averages[] = {0, 0.1, 1}, prescales[] = {1, 0.5, 0x1p-16};
        options.by_rows = bytes.one_in(3);
        stage.centred = bytes.one_in(4);
        options.by_rows |= stage.centred;
        stage.limit = bytes.one_of(limits);
        stage.prepares = stage.centred || stage.limit < 1;
        stage.spread = bytes.one_of(spreads);
        stage.noise_seed = problem.seed;
        stage.cautious = bytes.one_in(2);
        stage.average = bytes.one_of(averages);
        problem.prescale = bytes.one_of(prescales);
    }
    if (problem.measures) problem.factors = int(bytes.below(3));
    problem.takes_norms = problem.measures && bytes.one_in(2);
    problem.weights = bytes.one_in(2);
    problem.norm = Norm(bytes.below(5));

    bool large = bytes.one_in(8);
    const Index tensors = 1 + bytes.below(5);
    for (Index i = 0; i < tensors; ++i) {
        TensorOf tensor = decode_tensor(bytes, problem, large && bytes.one_in(2));
        if (plain) tensor.bounded = tensor.averaged = false;
        problem.tensors.push_back(std::move(tensor));
    }
    problem.fails = !large && bytes.one_in(4);
    return problem;
}

// ---- arrays with strides
// ---------------------------------------------------------------------------------------------

/// Where elements lie: strides in bytes, and how far the lowest and the highest byte are from the first element.
struct Placed {
    std::vector<Index> strides;
    Index low = 0, high = 0;
};

Placed placed(const std::vector<Index>& shape, std::vector<Index> strides, Index item) {
    Placed result{std::move(strides), 0, item};
    for (std::size_t d = 0; d < shape.size(); ++d) {
        if (shape[d] == 0) return {std::move(result.strides), 0, 0};
        (result.strides[d] < 0 ? result.low : result.high) += (shape[d] - 1) * result.strides[d];
    }
    return result;
}

Placed contiguous(const View& view, Index item) {
    const std::size_t ndim = view.shape.size();
    std::vector<Index> strides(ndim);
    Index stride = item;
    for (std::size_t k = 0; k < ndim; ++k) {
        const std::size_t d = view.f_order ? k : ndim - 1 - k;
        strides[d] = stride;
        stride *= std::max<Index>(view.shape[d], 1);
    }
    return placed(view.shape, std::move(strides), item);
}

/// Axes in any order, with gaps, backwards, repeated, and elements at any byte.
Placed scattered(const View& view, Index item, unsigned repeated, std::uint64_t layout) {
    const std::size_t ndim = view.shape.size();
    std::vector<std::size_t> axes(ndim);
    for (std::size_t d = 0; d < ndim; ++d) axes[d] = d;
    std::sort(axes.begin(), axes.end(), [&](auto a, auto b) { return mixed(layout, a) < mixed(layout, b); });
    std::vector<Index> strides(ndim);
    Index stride = item + Index(layout % 3 == 0);
    for (const std::size_t d : axes) {
        const std::uint64_t random = mixed(layout, 100 + d);
        if (repeated >> d & 1) continue;
        stride *= 1 + Index(random % 2);
        strides[d] = random >> 8 & 1 ? -stride : stride;
        stride *= std::max<Index>(view.shape[d], 1);
    }
    return placed(view.shape, std::move(strides), item);
}

/// Calls `visit(offset, number)` with every element: where it lies, and its number in C order, in which axes of
/// `repeated` do not count.
template <class Visit>
void each_element(const View& view, const std::vector<Index>& strides, unsigned repeated, const Visit& visit) {
    const std::size_t ndim = view.shape.size();
    Index elements = 1;
    for (const Index extent : view.shape) elements *= extent;
    std::vector<Index> index(ndim), step(ndim);
    Index weight = 1;
    for (std::size_t d = ndim; d-- > 0;) {
        step[d] = repeated >> d & 1 ? 0 : weight;
        weight *= view.shape[d];
    }
    for (Index i = 0, offset = 0, number = 0; i < elements; ++i) {
        visit(offset, number);
        for (std::size_t d = ndim; d-- > 0;) {
            offset += strides[d];
            number += step[d];
            if (++index[d] < view.shape[d]) break;
            offset -= index[d] * strides[d];
            number -= index[d] * step[d];
            index[d] = 0;
        }
    }
}

// ---- a run
// -----------------------------------------------------------------------------------------------------------

/// What must not change the results.
struct Setting {
    int threads;
    std::string isa;
    std::uint64_t layout;
    bool fails;
};

struct Found {
    std::string what;
    std::vector<std::byte> bytes;
};

class Execution {
public:
    Execution(const Problem& problem, const Setting& setting)
        : problem_(problem), setting_(setting), options_(problem.options) {
        options_.threads = setting.threads;
        use_isa(setting.isa);
        memory_.reserve(problem.tensors.size() * (4 + max_slots));
        for (const TensorOf& tensor : problem.tensors) {
            const auto anew = [&](Dtype dtype, bool positive) { return filled(tensor.view, dtype, positive); };
            parameters_.push_back(anew(tensor.view.dtype, false));
            const Operands& operands = problem.compiled->operands;
            const Compiled& variant = variant_of(problem, tensor);
            state_.resize(tensor.state.size());
            for (std::size_t s = 0; s < tensor.state.size(); ++s) {
                const bool kept = variant.slot[std::size_t(operands.first_state()) + s] != nullptr;
                state_[s].push_back(kept ? anew(tensor.state[s], true) : View{});
            }
            anchors_.push_back(tensor.anchored ? std::optional(anew(tensor.anchor, false)) : std::nullopt);
            averages_.push_back(tensor.averaged ? anew(tensor.average, false) : View{});
        }
        const Scope scope = problem.compiled->scope;
        std::size_t units = scope == Scope::all ? 1 : 0;
        for (const View& view : parameters_)
            units += scope == Scope::row && view.shape.size() > 1 ? std::size_t(view.shape[0])
                     : scope == Scope::all                        ? 0
                                                                  : 1;
        scalars_.assign(units * std::size_t(problem.compiled->scalars), 0.5);
        counts_.assign(parameters_.size() + 1, problem.steps_before);
    }

    std::vector<Found> run() {
        if (setting_.fails)
            until_it_works([this] { make(); });
        else
            make();
        for (int step = 0; step < problem_.steps; ++step) this->step(step);

        std::vector<Found> all = std::move(found_);
        const auto add = [&](const std::string& what, const View& view) {
            if (view.data) all.push_back({what, canonical(bytes_of(view), view.dtype)});
        };
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            const std::string of = " of tensor " + std::to_string(i);
            add("parameter" + of, parameters_[i]);
            for (std::size_t s = 0; s < state_.size(); ++s) add("slot " + std::to_string(s) + of, state_[s][i]);
            add("average" + of, averages_[i]);
        }
        all.push_back({"scalars", canonical(scalars_)});
        const auto* const counts = reinterpret_cast<const std::byte*>(counts_.data());
        all.push_back({"counts", {counts, counts + counts_.size() * sizeof counts_[0]}});
        require_intact(memory_);
        return all;
    }

private:
    static std::vector<std::byte> bytes_of(const View& view) {
        return {view.data, view.data + view.elements() * item_size(view.dtype)};
    }

    std::uint64_t layout() { return mixed(setting_.layout, arrays_++); }

    void require_intact(const std::vector<fuzz::Array>& arrays) const {
        for (std::size_t k = 0; k < arrays.size(); ++k)
            if (!arrays[k].intact()) fail(name() + ": memory beside array " + std::to_string(k) + " was written");
    }

    std::string name() const { return rule_of(problem_).name; }

    Index parts(const View& view) const { return view.complex ? 2 : 1; }

    void fill(std::byte* data, const View& view, const std::vector<Index>& strides, unsigned repeated, Dtype dtype,
              std::uint64_t seed, bool positive) const {
        const Index item = item_size(dtype);
        each_element(view, strides, repeated, [&](Index offset, Index place) {
            for (Index part = 0; part < parts(view); ++part) {
                const std::uint64_t random = mixed(seed, std::uint64_t(place * parts(view) + part));
                write(data + offset + part * item, number(random, dtype, problem_.content, positive), dtype);
            }
        });
    }

    /// An array of a parameter's shape and memory order, aligned to its items.
    View filled(const View& like, Dtype dtype, bool positive) {
        View view = like;
        view.dtype = dtype;
        const std::size_t item = std::size_t(item_size(dtype));
        const std::uint64_t seed = mixed(problem_.seed, memory_.size());
        memory_.emplace_back(std::size_t(view.elements()) * item, layout() % 16 * item);
        view.data = memory_.back().data();
        view.strides = contiguous(view, Index(item) * parts(view)).strides;
        fill(view.data, view, view.strides, 0, dtype, seed, positive);
        return view;
    }

    void make() {
        std::vector<int> group_of;
        std::vector<std::uint64_t> streams;
        for (const TensorOf& tensor : problem_.tensors) {
            group_of.push_back(tensor.group);
            streams.push_back(7 * streams.size());
        }
        plan_.emplace(problem_.rule, problem_.compiled->flags, parameters_, group_of, int(problem_.hyper.size()),
                      streams, state_, scalars_.data(), counts_.data());
        for (std::size_t g = 0; g < problem_.hyper.size(); ++g) plan_->set_hyper(int(g), problem_.hyper[g]);
        plan_->set_stage(problem_.stage);
        plan_->set_averages(averages_);
        for (std::size_t i = 0; i < problem_.tensors.size(); ++i) {
            const TensorOf& tensor = problem_.tensors[i];
            if (problem_.compiled->pass[0]) plan_->set_matrix(Index(i), tensor.matrix, tensor.rows, tensor.columns);
            if (tensor.bounded) plan_->set_box(Index(i), tensor.lower, tensor.upper);
            plan_->set_noise(Index(i), 3 * i + 1);
            plan_->set_decay(Index(i), tensor.decays, anchors_[i] ? &*anchors_[i] : nullptr);
        }
    }

    /// What one step reads.
    struct Given {
        std::size_t tensor;
        int operand;
        Dtype dtype;
        std::byte* data;
        std::vector<Index> strides;
        bool direct;
    };

    void step(int number) {
        std::vector<fuzz::Array> read;
        std::vector<Given> given;
        std::vector<std::vector<std::byte>> before;
        bool any = false;
        for (std::size_t i = 0; i < problem_.tensors.size(); ++i) {
            const TensorOf& tensor = problem_.tensors[i];
            if (!tensor.active[std::size_t(number)]) continue;
            any = true;
            for (std::size_t k = 0; k < tensor.read.size(); ++k) {
                const auto [dtype, repeated] = tensor.read[k];
                const Index item = item_size(dtype);
                const std::uint64_t choice = layout();
                const bool direct = choice % 2 == 0;
                const Placed at = direct ? contiguous(tensor.view, item * parts(tensor.view))
                                         : scattered(tensor.view, item * parts(tensor.view), repeated, choice >> 8);
                const Index offset = Index(choice >> 4 & 15) * (direct ? item : 1);
                read.emplace_back(std::size_t(at.high - at.low), std::size_t(offset));
                std::byte* const data = read.back().data() - at.low;
                const std::uint64_t seed = mixed(problem_.seed, 1000 * std::uint64_t(number + 1) + 16 * i + k);
                std::memset(read.back().data(), 0, read.back().bytes());
                fill(data, tensor.view, at.strides, repeated, dtype, seed, false);
                given.push_back({i, int(k), dtype, data, at.strides, direct});
                before.push_back(read.back().copy());
            }
        }
        if (!any) return;
        const auto attempt = [&] {
            std::vector<Found> seen = this->attempt(number, given);
            allocations_left = -1;  // what follows is ours
            std::move(seen.begin(), seen.end(), std::back_inserter(found_));
        };
        if (setting_.fails) {
            until_it_works(attempt);
        } else {
            attempt();
        }
        require_intact(read);
        for (std::size_t k = 0; k < read.size(); ++k)
            if (read[k].copy() != before[k]) fail(name() + ": a gradient was written");
    }

    /// As the binding steps; what the work between sweeps sees is a result as well.
    std::vector<Found> attempt(int number, const std::vector<Given>& given) {
        std::vector<Found> seen;
        Plan& plan = *plan_;
        plan.set_given(problem_.given);
        for (std::size_t i = 0; i < problem_.tensors.size(); ++i)
            plan.set_active(Index(i), problem_.tensors[i].active[std::size_t(number)]);
        for (const Given& each : given) {
            if (each.direct)
                plan.bind(Index(each.tensor), each.operand, each.data, each.dtype);
            else
                plan.bind(Index(each.tensor), each.operand, each.data, each.dtype, each.strides.data());
        }
        plan.begin(options_, problem_.prescale);
        if (problem_.measures) {
            const Outcome outcome = plan.measure(options_);
            const double numbers[] = {double(outcome.status), outcome.norm, double(outcome.nonfinite_tensor)};
            seen.push_back({"outcome", canonical(numbers)});
            if (outcome.status != Outcome::Status::done) return seen;
            double scale = 1;
            const std::vector<double> squares = plan.squares(scale);
            seen.push_back({"squares", canonical(squares)});
            if (problem_.takes_norms)
                seen.push_back({"norms", canonical(plan.norms(options_, problem_.norm, 1.5, scale, problem_.weights))});
            if (problem_.factors == 1) plan.set_factors(options_, {0.75});
            if (problem_.factors == 2) {
                Index units = 0;
                for (Index i = 0; i < plan.tensors(); ++i) units += plan.rows(options_, i);
                std::vector<double> factors;
                for (Index u = 0; u < units; ++u) factors.push_back(0.5 + 0.25 * double(u % 3));
                plan.set_factors(options_, factors);
            }
        }
        std::vector<fuzz::Array> work;
        if (problem_.compiled->pass[0]) between(plan, number, work, seen);
        plan.step(options_);
        require_intact(work);
        return seen;
    }

    /// Gives every matrix arrays and numbers, and looks at what the sweeps add up.
    void between(Plan& plan, int number, std::vector<fuzz::Array>& work, std::vector<Found>& seen) {
        for (std::size_t i = 0; i < problem_.tensors.size(); ++i) {
            const TensorOf& tensor = problem_.tensors[i];
            const Index size = tensor.view.elements();
            if (!plan.active(Index(i)) || size == 0 || variant_of(problem_, tensor).passes == 0) continue;
            const Operands& operands = problem_.compiled->operands;
            const Dtype compute = tensor.view.dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
            const int arrays = operands.first_state() - operands.first_work();
            for (int slot = 0; slot < (tensor.matrix ? arrays : operands.work); ++slot) {
                View view;
                view.shape = {slot < operands.work                   ? size
                              : slot < operands.work + operands.rows ? size / tensor.columns
                                                                     : size / tensor.rows};
                const std::size_t item = std::size_t(item_size(compute));
                work.emplace_back(std::size_t(view.shape[0]) * item, layout() % 16 * item);
                const std::uint64_t seed = mixed(problem_.seed, 2000 + 16 * i + std::uint64_t(slot));
                fill(work.back().data(), view, {Index(item)}, 0, compute, seed, true);
                plan.set_work(Index(i), slot, work.back().data());
            }
        }
        for (int pass = 0; pass < plan.passes(); ++pass) {
            plan.pass(options_, pass);
            for (std::size_t i = 0; i < problem_.tensors.size(); ++i) {
                const TensorOf& tensor = problem_.tensors[i];
                if (!plan.active(Index(i)) || pass >= variant_of(problem_, tensor).passes) continue;
                const Plan::Folded& folded = plan.folded(Index(i));
                seen.push_back({"rows' sums", canonical(folded.rows)});
                seen.push_back({"columns' sums", canonical(folded.columns)});
                plan.set_numbers(Index(i), {0.5 + number, 0.25, 1.5, 2});
            }
        }
    }

    std::vector<std::vector<std::byte>> snapshot() const {
        std::vector<std::vector<std::byte>> all;
        for (const fuzz::Array& each : memory_) all.push_back(each.copy());
        const auto add = [&](const auto& numbers) {
            const auto* const data = reinterpret_cast<const std::byte*>(numbers.data());
            all.emplace_back(data, data + numbers.size() * sizeof numbers[0]);
        };
        add(scalars_);
        add(counts_);
        return all;
    }

    /// Lets the first allocation fail, then the second, and so on, until none is left to fail.
    template <class Work>
    void until_it_works(const Work& work) {
        const auto before = snapshot();
        for (long long n = 0;; ++n) {
            const std::uint64_t arrays = arrays_;
            try {
                allocations_left = n;
                work();
                allocations_left = -1;
                return;
            } catch (const std::bad_alloc&) {
                allocations_left = -1;
            }
            arrays_ = arrays;
            if (snapshot() != before) fail(name() + ": a step that failed has changed memory");
        }
    }

    const Problem& problem_;
    const Setting& setting_;
    Options options_;
    std::uint64_t arrays_ = 0;
    std::vector<fuzz::Array> memory_;
    std::vector<View> parameters_, averages_;
    std::vector<std::vector<View>> state_;
    std::vector<std::optional<View>> anchors_;
    std::vector<double> scalars_;
    std::vector<std::int64_t> counts_;
    std::optional<Plan> plan_;
    std::vector<Found> found_;
};

void compare(const Problem& problem, const Setting& setting, const std::vector<Found>& expected,
             const std::vector<Found>& found) {
    const std::string with = std::string(rule_of(problem).name) + " on " + setting.isa + " with " +
                             std::to_string(setting.threads) + " threads: ";
    if (found.size() != expected.size()) fail(with + "another number of results");
    for (std::size_t k = 0; k < found.size(); ++k) {
        if (found[k].bytes == expected[k].bytes) continue;
        const auto [one, other] = std::mismatch(found[k].bytes.begin(), found[k].bytes.end(), expected[k].bytes.begin(),
                                                expected[k].bytes.end());
        fail(with + found[k].what + " differs from byte " + std::to_string(one - found[k].bytes.begin()) + " on");
    }
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace fuzz;
    Bytes bytes(data, size);
    const Problem problem = decode(bytes);
    static const std::vector<std::string> sets = schuss::instruction_sets();
    const Setting first{1, sets.front(), 0, false};
    const std::vector<Found> expected = Execution(problem, first).run();
    for (std::size_t k = 0; k < std::max<std::size_t>(2, sets.size()); ++k) {
        const Setting setting{2 + int(3 * k), sets[k % sets.size()], mixed(problem.seed, 77 + k),
                              problem.fails && k == 0};
        compare(problem, setting, expected, Execution(problem, setting).run());
    }
    return 0;
}
