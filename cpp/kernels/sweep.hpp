/// How any rule runs over memory: the chain of its sweeps, one non-inlined loop per sweep and type, blocks through
/// scratch where a stage is asked for. Compiled once per instruction set, in the unnamed namespace, without globals.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/kernel.hpp"
#include "kernels/lanes.hpp"
#include "rules/names.hpp"
#include "rules/sweeps.hpp"

namespace schuss {
namespace {

using Index = std::int64_t;

// ---- what a rule declares ----------------------------------------------------------------------------------------

template <class Rule>
consteval Names inputs_of() {
    if constexpr (requires { Rule::inputs; }) return Rule::inputs;
    return Names{};
}

template <class Rule>
consteval Names draws_of() {
    if constexpr (requires { Rule::draws; }) return Rule::draws;
    return Names{};
}

template <class Rule>
consteval Names given_of() {
    if constexpr (requires { Rule::given; }) return Rule::given;
    return Names{};
}

template <class Rule>
consteval Names work_of() {
    if constexpr (requires { Rule::work; }) return Rule::work;
    return Names{};
}

template <class Rule>
consteval Names rows_of() {
    if constexpr (requires { Rule::rows; }) return Rule::rows;
    return Names{};
}

template <class Rule>
consteval Names columns_of() {
    if constexpr (requires { Rule::columns; }) return Rule::columns;
    return Names{};
}

template <class Rule>
consteval Names numbers_of() {
    if constexpr (requires { Rule::numbers; }) return Rule::numbers;
    return Names{};
}

template <class Rule>
consteval Names scalars_of() {
    if constexpr (requires { Rule::scalars; }) return Rule::scalars;
    return Names{};
}

template <class Rule>
constexpr Scope scope_of(Scope kind) {
    if constexpr (requires { Rule::scope; }) return Rule::scope;
    return kind == Scope::element && scalars_of<Rule>().count > 0 ? Scope::tensor : kind;
}

template <class Rule>
constexpr Operands operands_of = [] {
    Operands all{inputs_of<Rule>().count, draws_of<Rule>().count,   work_of<Rule>().count,
                 rows_of<Rule>().count,   columns_of<Rule>().count, 0};
    all.slots = all.first_state() + Rule::state.count;
    return all;
}();
template <class Rule>
constexpr int slot_count = operands_of<Rule>.slots;

/// The name of an input, a draw, what comes from the work between sweeps, or a slot of the state.
template <class Rule>
consteval const char* slot_name(int slot) {
    constexpr Operands operands = operands_of<Rule>;
    if (slot < operands.inputs) return inputs_of<Rule>().name[slot];
    if (slot < operands.first_work()) return draws_of<Rule>().name[slot - operands.inputs];
    if (slot < operands.first_row()) return work_of<Rule>().name[slot - operands.first_work()];
    if (slot < operands.first_column()) return rows_of<Rule>().name[slot - operands.first_row()];
    if (slot < operands.first_state()) return columns_of<Rule>().name[slot - operands.first_column()];
    return Rule::state.name[slot - operands.first_state()];
}

/// Which hyper-parameter is the seed; one must be where a rule draws.
template <class Rule>
consteval int seed_of() {
    for (int i = 0; i < Rule::hyper.count; ++i)
        if (std::string_view(Rule::hyper.name[i]) == "seed") return i;
    return -1;
}

// ---- the chain of sweeps -----------------------------------------------------------------------------------------

template <class Rule, class T>
inline auto start(const Call& call, double* scalar) {
    return [&]<std::size_t... H, std::size_t... G, std::size_t... S>(
               std::index_sequence<H...>, std::index_sequence<G...>, std::index_sequence<S...>) {
        return Rule::template at<T>(call.t, call.hyper[H]..., call.given[G]..., scalar[S]...);
    }(std::make_index_sequence<Rule::hyper.count>{}, std::make_index_sequence<given_of<Rule>().count>{},
           std::make_index_sequence<scalars_of<Rule>().count>{});
}

template <class Stage>
constexpr bool is_sum = requires(Stage stage) { stage.read; };
template <class Stage>
constexpr bool is_across = requires(Stage stage) { stage.terms; };

template <class T, class Read, std::size_t... S>
auto terms_of(const Read& read, std::index_sequence<S...>)
    -> decltype(read(std::declval<T&>(), T(), (void(S), std::declval<T&>())...));

/// The number of sums that a sweep reads.
template <class Rule, class T, class Stage>
consteval int read_count() {
    using Slots = std::make_index_sequence<slot_count<Rule>>;
    if constexpr (is_sum<Stage>) return decltype(terms_of<T>(std::declval<Stage>().read, Slots{}))::count;
    return 0;
}

/// What follows, made from sums and, where it asks for it, the number of what they run over.
template <int count, class Next>
inline auto give(const Next& next, const double* sums, double number) {
    return [&]<std::size_t... S>(std::index_sequence<S...>) {
        if constexpr (requires { next(sums[S]..., number); })
            return next(sums[S]..., number);
        else
            return next(sums[S]...);
    }(std::make_index_sequence<count>{});
}

/// What a unit's sums lead to: the next stage, or the sum across rows that is to come before it.
template <class Rule, class T, class Stage>
inline auto conclude(const Stage& stage, const double* sums, double size) {
    return give<read_count<Rule, T, Stage>()>(stage.next, sums, size);
}

/// The number of sums across the rows of a tensor after a sweep.
template <class Rule, class T, class Stage>
consteval int across_count() {
    if constexpr (is_sum<Stage>) {
        using Next = decltype(conclude<Rule, T>(std::declval<Stage>(), nullptr, 0.0));
        if constexpr (is_across<Next>) return decltype(Next::terms)::count;
    }
    return 0;
}

/// The numbers that a unit keeps of a sweep: its sums; those across rows and the number of rows.
template <class Rule, class T, class Stage>
consteval int sum_count() {
    constexpr int across = across_count<Rule, T, Stage>();
    return read_count<Rule, T, Stage>() + (across > 0 ? across + 1 : 0);
}

/// The stage after a sum.
template <class Rule, class T, class Stage>
inline auto proceed(const Stage& stage, const double* sums, double size) {
    const auto next = conclude<Rule, T>(stage, sums, size);
    constexpr int count = across_count<Rule, T, Stage>();
    if constexpr (count > 0) {
        const double* const totals = sums + read_count<Rule, T, Stage>();
        return give<count>(next.next, totals, totals[count]);
    } else {
        return next;
    }
}

/// The k-th stage of the chain, made from the sums of those before.
template <class Rule, class T, int k, class Stage>
inline auto reach(const Stage& stage, const double* sums, double size) {
    if constexpr (k == 0)
        return stage;
    else
        return reach<Rule, T, k - 1>(proceed<Rule, T>(stage, sums, size), sums + sum_count<Rule, T, Stage>(), size);
}

template <class Rule, class T>
using First = decltype(start<Rule, T>(std::declval<const Call&>(), nullptr));
template <class Rule, class T, int k>
using StageAt = decltype(reach<Rule, T, k>(std::declval<First<Rule, T>>(), nullptr, 0.0));

template <class Rule, class T, int k = 0>
consteval int sweep_count() {
    if constexpr (is_sum<StageAt<Rule, T, k>>)
        return sweep_count<Rule, T, k + 1>();
    else
        return k + 1;
}

/// The number of sums of the first k sweeps, and of all.
template <class Rule, class T, int k>
constexpr int sums_before = []<int... K>(std::integer_sequence<int, K...>) {
    return (0 + ... + sum_count<Rule, T, StageAt<Rule, T, K>>());
}(std::make_integer_sequence<int, k>{});
template <class Rule, class T>
constexpr int total_sums = sums_before<Rule, T, sweep_count<Rule, T>()>;

/// Are the rows of a tensor added up after some sweep?
template <class Rule, class T>
constexpr bool adds_across = []<int... K>(std::integer_sequence<int, K...>) {
    return (false || ... || (across_count<Rule, T, StageAt<Rule, T, K>>() > 0));
}(std::make_integer_sequence<int, sweep_count<Rule, T>()>{});

/// Where the partial sums of the next chunk are: the same for all sweeps, since threads may be in different ones.
template <class Rule, class T>
constexpr int partial_stride = []<int... K>(std::integer_sequence<int, K...>) {
    int most = 0;
    ((most = read_count<Rule, T, StageAt<Rule, T, K>>() > most ? read_count<Rule, T, StageAt<Rule, T, K>>() : most),
     ...);
    return most;
}(std::make_integer_sequence<int, sweep_count<Rule, T>()>{});

// ---- the loops ---------------------------------------------------------------------------------------------------

template <class T>
struct Slots {
    T* slot[max_slots];
};

/// The element of a slot, or a stand-in that no formula touches where the flags leave the slot out.
template <class Rule, class T, int slot>
inline T& element(const Slots<T>& slots, Index i, T& nothing) {
    if constexpr (slot_name<Rule>(slot) == absent)
        return nothing;
    else
        return slots.slot[slot][i];
}

template <class Rule, class T, class Body, std::size_t... S>
[[gnu::noinline]] void write_loop(const Body body, const T scale, T* const p, const T* const g,
                                  [[maybe_unused]] const Slots<T> slots, const Index size, std::index_sequence<S...>) {
#pragma omp simd
    for (Index i = 0; i < size; ++i) {
        [[maybe_unused]] T nothing{};
        body(p[i], scale * g[i], element<Rule, T, S>(slots, i, nothing)...);
    }
}

template <class Rule, class T, class Read, int N, std::size_t... S, std::size_t... K>
[[gnu::noinline]] void read_loop(const Read read, const T scale, T* const p, const T* const g,
                                 [[maybe_unused]] const Slots<T> slots, const Index size, double (&terms)[N][read_size],
                                 std::index_sequence<S...>, std::index_sequence<K...>) {
#pragma omp simd
    for (Index i = 0; i < size; ++i) {
        [[maybe_unused]] T nothing{};
        const Terms<N> term = read(p[i], scale * g[i], element<Rule, T, S>(slots, i, nothing)...);
        ((terms[K][i] = term.term[K]), ...);
    }
}

template <class T>
inline T* native(const Operand& operand, Index first) {
    return operand.data ? reinterpret_cast<T*>(operand.data) + first : nullptr;
}

template <class Rule, class T>
inline Slots<T> native_slots(const Tensor& tensor, Index first) {
    Slots<T> slots;
    for (int s = 0; s < slot_count<Rule>; ++s) slots.slot[s] = native<T>(tensor.slot[s], first);
    return slots;
}

/// Calls `visit(p, g, slots, scale, size)` on blocks that went through the stages.
template <class Rule, class T, class Visit>
inline void staged(const Stages<T>& stages, const Tensor& tensor, Index first, Index size, bool writes,
                   const Visit& visit) {
    Block<T> block;
    for (Index done = 0; done < size; done += block_size) {
        const int n = int(size - done < block_size ? size - done : block_size);
        stages.load(tensor, operands_of<Rule>, first + done, n, block);
        Slots<T> slots;
        for (int s = 0; s < slot_count<Rule>; ++s) slots.slot[s] = block.slot[s];
        visit(block.p, block.g, slots, block.gradient_scale, n);
        if (writes) stages.store(tensor, operands_of<Rule>, first + done, n, block);
    }
}

template <class Rule, class T, class Body>
inline void write(const Stages<T>& stages, const Body& body, const Tensor& tensor, Index first, Index size) {
    constexpr auto every_slot = std::make_index_sequence<slot_count<Rule>>{};
    const auto loop = [&](T* p, const T* g, const Slots<T>& slots, T scale, Index n) {
        write_loop<Rule, T>(body, scale, p, g, slots, n, every_slot);
    };
    if (!tensor.plain) return staged<Rule, T>(stages, tensor, first, size, true, loop);

    const T scale = T(tensor.call->gradient_scale);
    const auto run = [&](Index from, Index n) {
        loop(native<T>(tensor.p, from), native<T>(tensor.g, from), native_slots<Rule, T>(tensor, from), scale, n);
    };
    // Stores that straddle two cache lines cost up to 2.3x: start the long loop on the parameter's line.
    constexpr Index line = 64 / sizeof(T);
    const Index head = Index(-(reinterpret_cast<std::uintptr_t>(native<T>(tensor.p, first)) / sizeof(T))) & (line - 1);
    if (head == 0 || size < 4 * line) return run(first, size);
    run(first, head);
    run(first + head, size - head);
}

template <class Rule, class T, class Read>
inline void read(const Stages<T>& stages, const Read& reader, const Tensor& tensor, Index first, Index size,
                 double* partial) {
    constexpr auto every_slot = std::make_index_sequence<slot_count<Rule>>{};
    constexpr int N = decltype(terms_of<T>(reader, every_slot))::count;
    alignas(64) double lane[N][lanes] = {};
    alignas(64) double terms[N][read_size];
    const auto loop = [&](T* p, const T* g, const Slots<T>& slots, T scale, Index n) {
        read_loop<Rule, T>(reader, scale, p, g, slots, n, terms, every_slot, std::make_index_sequence<N>{});
        for (int k = 0; k < N; ++k) stages.sum(terms[k], int(n), lane[k]);
    };
    if (tensor.plain) {
        const T scale = T(tensor.call->gradient_scale);
        for (Index done = 0; done < size; done += read_size) {
            const Index from = first + done, n = size - done < read_size ? size - done : read_size;
            loop(native<T>(tensor.p, from), native<T>(tensor.g, from), native_slots<Rule, T>(tensor, from), scale, n);
        }
    } else {
        staged<Rule, T>(stages, tensor, first, size, false, loop);
    }
    for (int k = 0; k < N; ++k) partial[k] = sum_of(lane[k]);
}

// ---- what core calls ---------------------------------------------------------------------------------------------

template <class Rule>
inline void copy_scalars(const double* from, double* to) {
    for (int s = 0; s < scalars_of<Rule>().count; ++s) to[s] = from[s];
}

/// One sweep over one chunk, of one unit.
template <class Rule, class T, class Stage>
inline void step_chunk(const Job& job, const Stage& stage, const Chunk& chunk) {
    const Stages<T>& stages = *static_cast<const Stages<T>*>(job.stages);
    const Tensor& tensor = job.tensors[chunk.tensor];
    if constexpr (is_sum<Stage>)
        read<Rule, T>(stages, stage.read, tensor, chunk.first, chunk.size,
                      job.partials + chunk.partial * partial_stride<Rule, T>);
    else
        write<Rule, T>(stages, stage, tensor, chunk.first, chunk.size);
}

/// The rest of the sweeps over the chunks [first, last) of one unit.
template <class Rule, class T, class Stage>
inline void chain(const Job& job, const Stage& stage, const Chunk* first, const Chunk* last, double* sums) {
    for (const Chunk* chunk = first; chunk < last; ++chunk) step_chunk<Rule, T>(job, stage, *chunk);
    if constexpr (is_sum<Stage>) {
        constexpr int count = sum_count<Rule, T, Stage>();
        for (int j = 0; j < count; ++j) {
            sums[j] = 0;
            for (const Chunk* chunk = first; chunk < last; ++chunk)
                sums[j] += job.partials[chunk->partial * partial_stride<Rule, T> + j];
        }
        chain<Rule, T>(job, proceed<Rule, T>(stage, sums, job.sizes[first->unit]), first, last, sums + count);
    }
}

/// Calls `visit` with each row of a chunk that holds several, else with the chunk.
template <class Visit>
inline void each_row(const Chunk& chunk, const Visit& visit) {
    Chunk row = chunk;
    row.size = row.row;
    for (; row.first < chunk.first + chunk.size; row.first += row.row, ++row.unit, ++row.partial) visit(row);
}

/// Adds the partial sums of the k-th sweep over chunks [first, last), in their order, to the sums of their units.
template <class Rule, class T, int k>
inline void add_partials(const Job& job, const Chunk* first, const Chunk* last) {
    for (const Chunk* chunk = first; chunk < last; ++chunk) {
        each_row(*chunk, [&](const Chunk& row) {
            const bool begins = chunk == first || chunk[-1].unit != row.unit;
            double* const sums = job.sums + row.unit * total_sums<Rule, T> + sums_before<Rule, T, k>;
            const double* const partial = job.partials + row.partial * partial_stride<Rule, T>;
            for (int j = 0; j < read_count<Rule, T, StageAt<Rule, T, k>>(); ++j)
                sums[j] = (begins ? 0 : sums[j]) + partial[j];
        });
    }
}

/// The k-th sweep over chunks [first, last) of one call.
template <class Rule, class T, int k, class Stage>
inline void run(const Job& job, const Stage& first_stage, double* scalar, const Chunk* first, const Chunk* last) {
    for (const Chunk* chunk = first; chunk < last; ++chunk) {
        each_row(*chunk, [&](const Chunk& row) {
            copy_scalars<Rule>(job.scalars + row.unit * scalars_of<Rule>().count, scalar);
            const double* const sums = job.sums + row.unit * total_sums<Rule, T>;
            step_chunk<Rule, T>(job, reach<Rule, T, k>(first_stage, sums, job.sizes[row.unit]), row);
        });
    }
}

/// What comes after the k-th sweep over the chunks [first, last) of a tensor: its units' sums, and those across its
/// rows, in lanes as all sums, for every row to find them beside its own.
template <class Rule, class T, int k, class Stage>
inline void add_up(const Job& job, const Stage& first_stage, double* scalar, const Chunk* first, const Chunk* last) {
    add_partials<Rule, T, k>(job, first, last);
    using Summed = StageAt<Rule, T, k>;
    if constexpr (constexpr int count = across_count<Rule, T, Summed>(); count > 0) {
        const Index begin = first->unit, end = last[-1].unit + last[-1].size / last[-1].row;
        constexpr int own = sums_before<Rule, T, k>, across = own + read_count<Rule, T, Summed>();
        double lane[count][lanes] = {}, total[count + 1] = {};
        total[count] = job.tensors[first->tensor].rows;
        for (Index unit = begin, i = 0; unit < end; ++unit, ++i) {
            copy_scalars<Rule>(job.scalars + unit * scalars_of<Rule>().count, scalar);
            const double* const sums = job.sums + unit * total_sums<Rule, T>;
            const auto stage = reach<Rule, T, k>(first_stage, sums, job.sizes[unit]);
            const auto terms = conclude<Rule, T>(stage, sums + own, job.sizes[unit]).terms;
            for (int j = 0; j < count; ++j) lane[j][i % lanes] += terms.term[j];
            if ((i + 1) % chunk_size != 0 && unit + 1 != end) continue;
            for (int j = 0; j < count; ++j) {
                total[j] += sum_of(lane[j]);
                for (double& each : lane[j]) each = 0;
            }
        }
        for (Index unit = begin; unit < end; ++unit)
            for (int j = 0; j <= count; ++j) job.sums[unit * total_sums<Rule, T> + across + j] = total[j];
    }
}

/// All sweeps of the units that chunks [begin, end) make up.
template <class Rule, class T>
void whole(const Job& job, Index begin, Index end) {
    constexpr int sums = total_sums<Rule, T>, scalars = scalars_of<Rule>().count;
    // Is the preamble the same for all units of a call? (Scalars of rows may be used between sweeps only.)
    constexpr bool one_preamble = scalars == 0 || scope_of<Rule>(Scope::element) == Scope::row;
    double scalar[scalars + 1];  // a copy: every chunk of the unit sees the values before the step

    const auto chunk = [&](Index c) -> const Chunk& { return job.chunks[c]; };
    const auto alike = [&](Index a, Index b) {
        return job.tensors[chunk(a).tensor].call == job.tensors[chunk(b).tensor].call &&
               (one_preamble || chunk(a).unit == chunk(b).unit);
    };
    // Rows are free of one another, unless they are added up.
    const auto together = [&](Index a, Index b) {
        return adds_across<Rule, T> ? chunk(a).tensor == chunk(b).tensor : chunk(a).unit == chunk(b).unit;
    };
    for (Index c = begin, last; c < end; c = last) {
        for (last = c + 1; last < end && alike(c, last);) ++last;
        copy_scalars<Rule>(job.scalars + chunk(c).unit * scalars, scalar);
        const auto first_stage = start<Rule, T>(*job.tensors[chunk(c).tensor].call, scalar);
        if constexpr (sums == 0) {
            for (; c < last; ++c) step_chunk<Rule, T>(job, first_stage, chunk(c));
        } else {
            for (Index i = c, next; i < last; i = next) {
                for (next = i + 1; next < last && together(next, i);) ++next;
                const Chunk *const from = &chunk(i), *const to = from + (next - i);
                if constexpr (adds_across<Rule, T>) {
                    [&]<int... K>(std::integer_sequence<int, K...>) {
                        ((run<Rule, T, K>(job, first_stage, scalar, from, to),
                          add_up<Rule, T, K>(job, first_stage, scalar, from, to)),
                         ...);
                    }(std::make_integer_sequence<int, sweep_count<Rule, T>()>{});
                } else {
                    const auto step_unit = [&](const Chunk* from, const Chunk* to) {
                        copy_scalars<Rule>(job.scalars + from->unit * scalars, scalar);
                        chain<Rule, T>(job, first_stage, from, to, job.sums + from->unit * sums);
                    };
                    if (from->row == from->size)
                        step_unit(from, to);
                    else
                        each_row(*from, [&](const Chunk& row) { step_unit(&row, &row + 1); });
                }
            }
        }
    }
}

/// Calls `visit` with a sweep's number as a template argument.
template <class Rule, class T, class Visit>
inline void with_sweep(int sweep, const Visit& visit) {
    [&]<int... K>(std::integer_sequence<int, K...>) {
        ((sweep == K ? visit.template operator()<K>() : void()), ...);
    }(std::make_integer_sequence<int, sweep_count<Rule, T>()>{});
}

/// One sweep over chunks [begin, end) of units that several threads share.
template <class Rule, class T>
void sweep(const Job& job, Index begin, Index end) {
    with_sweep<Rule, T>(job.sweep, [&]<int k>() {
        for (const Chunk* chunk = job.chunks + begin; chunk < job.chunks + end; ++chunk) {
            double scalar[scalars_of<Rule>().count + 1];
            copy_scalars<Rule>(job.scalars + chunk->unit * scalars_of<Rule>().count, scalar);
            const auto first_stage = start<Rule, T>(*job.tensors[chunk->tensor].call, scalar);
            run<Rule, T, k>(job, first_stage, scalar, chunk, chunk + 1);
        }
    });
}

/// The additions after a sweep over the chunks [begin, end) of a tensor.
template <class Rule, class T>
void combine(const Job& job, Index begin, Index end) {
    with_sweep<Rule, T>(job.sweep, [&]<int k>() {
        const Chunk *const first = job.chunks + begin, *const last = job.chunks + end;
        double scalar[scalars_of<Rule>().count + 1];
        copy_scalars<Rule>(job.scalars + first->unit * scalars_of<Rule>().count, scalar);
        const auto first_stage = start<Rule, T>(*job.tensors[first->tensor].call, scalar);
        add_up<Rule, T, k>(job, first_stage, scalar, first, last);
    });
}

template <class Rule, class T>
void commit(const Job& job, const Call& call, Index begin, Index end) {
    constexpr int last = sweep_count<Rule, T>() - 1;
    constexpr int scalars = scalars_of<Rule>().count;
    if constexpr (scalars > 0) {
        double scalar[scalars];
        copy_scalars<Rule>(job.scalars + begin * scalars, scalar);
        const auto first_stage = start<Rule, T>(call, scalar);
        for (Index unit = begin; unit < end; ++unit) {
            if (unit > begin) copy_scalars<Rule>(job.scalars + unit * scalars, scalar);
            (void)reach<Rule, T, last>(first_stage, job.sums + unit * total_sums<Rule, T>, job.sizes[unit]);
            copy_scalars<Rule>(scalar, job.scalars + unit * scalars);
        }
    }
}

}  // namespace
}  // namespace schuss
