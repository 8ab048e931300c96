/// How a rule that sees matrices runs over tiles of them: sweeps that write arrays for the work in between or add up
/// rows and columns, then the one that writes. Compiled once per instruction set, in the unnamed namespace, without
/// globals.
#pragma once

#include "kernels/sweep.hpp"
#include "rules/math.hpp"

namespace schuss {
namespace {

/// Does a rule stop between its sweeps for work on whole matrices?
template <class Rule>
constexpr bool sees_matrices = work_of<Rule>().count + rows_of<Rule>().count + columns_of<Rule>().count > 0;

// ---- the chain ---------------------------------------------------------------------------------------------------

template <class Stage>
constexpr bool is_pass = requires(Stage stage) { stage.body; };
template <class Stage>
constexpr bool is_fold = requires { Stage::over; };

/// The k-th stage of the chain, made from the numbers that the work so far has led to.
template <class Rule, int k, class Stage>
inline auto reach_pass(const Stage& stage, const double* number) {
    if constexpr (k == 0)
        return stage;
    else
        return [&]<std::size_t... N>(std::index_sequence<N...>) {
            return reach_pass<Rule, k - 1>(stage.next(number[N]...), number);
        }(std::make_index_sequence<numbers_of<Rule>().count>{});
}

template <class Rule, class T, int k>
using PassAt = decltype(reach_pass<Rule, k>(std::declval<First<Rule, T>>(), nullptr));

template <class Rule, class T, int k = 0>
consteval int count_passes() {
    if constexpr (is_pass<PassAt<Rule, T, k>>)
        return count_passes<Rule, T, k + 1>();
    else
        return k;
}
template <class Rule, class T>
constexpr int pass_count = count_passes<Rule, T>();

template <class T, class Body, std::size_t... S>
auto value_of(const Body& body, std::index_sequence<S...>)
    -> decltype(body(std::declval<T&>(), T(), (void(S), std::declval<T&>())...));

template <class Rule, class T, class Stage>
consteval Fold fold_of() {
    if constexpr (is_fold<Stage>) {
        using Value = decltype(value_of<T>(std::declval<Stage>().body, std::make_index_sequence<slot_count<Rule>>{}));
        return {Value::count, Stage::over != Over::rows, Stage::over == Over::columns_largest};
    }
    return {};
}

// ---- the loops ---------------------------------------------------------------------------------------------------

template <class Rule, class T>
struct RowNumbers {
    T of[operands_of<Rule>.rows + 1];
};

/// An operand's element; of a row's numbers that of the row.
template <class Rule, class T, int slot>
inline T& operand(const Slots<T>& slots, RowNumbers<Rule, T>& row, Index i, T& nothing) {
    constexpr int at = slot - operands_of<Rule>.first_row();
    if constexpr (at >= 0 && at < operands_of<Rule>.rows)
        return row.of[at];
    else
        return element<Rule, T, slot>(slots, i, nothing);
}

/// Pointers to the operands of some elements of one row (of any number of rows, where a rule does not tell them apart).
template <class Rule, class T>
struct Segment {
    T* p;
    const T* g;
    T scale;
    Slots<T> slots;
    RowNumbers<Rule, T> row;
    Index size;
};

/// Calls `visit(i, operands...)` for every element. One loop is compiled for each sweep of a rule and type.
template <class Rule, class T, class Visit, std::size_t... S>
[[gnu::noinline]] void over_segment(const Visit visit, const Segment<Rule, T> at, std::index_sequence<S...>) {
    T* const p = at.p;
    const T* const g = at.g;
    const T scale = at.scale;
    const Slots<T> slots = at.slots;
    [[maybe_unused]] RowNumbers<Rule, T> row = at.row;
    const Index size = at.size;
#pragma omp simd
    for (Index i = 0; i < size; ++i) {
        [[maybe_unused]] T nothing{};
        visit(i, p[i], scale * g[i], operand<Rule, T, S>(slots, row, i, nothing)...);
    }
}

template <class T, int first>
inline void put(const Slots<T>& slots, Index i, T value) {
    slots.slot[first][i] = value;
}

template <class T, int first, int N>
inline void put(const Slots<T>& slots, Index i, const Values<T, N>& values) {
    [&]<int... K>(std::integer_sequence<int, K...>) {
        ((slots.slot[first + K][i] = values.value[K]), ...);
    }(std::make_integer_sequence<int, N>{});
}

template <bool largest>
[[gnu::noinline]] void into_columns(const double* __restrict terms, Index size, double* __restrict columns) {
#pragma omp simd
    for (Index i = 0; i < size; ++i) {
        if constexpr (largest)
            columns[i] = maximum(columns[i], terms[i]);
        else
            columns[i] = columns[i] + terms[i];
    }
}

inline void largest_of(const double* __restrict terms, int size, double* __restrict lane) {
    const int whole = size / lanes * lanes;
    for (int i = 0; i < whole; i += lanes) {
#pragma omp simd
        for (int k = 0; k < lanes; ++k) lane[k] = maximum(lane[k], terms[i + k]);
    }
    for (int i = whole; i < size; ++i) lane[i - whole] = maximum(lane[i - whole], terms[i]);
}

// ---- over a tile -------------------------------------------------------------------------------------------------

/// Calls `visit(segment, done)` with elements [done, done + size) of a row of a tile.
template <class Rule, class T, class Visit>
inline void each_segment(const Stages<T>& stages, const Tensor& tensor, Index first, Index size, bool writes,
                         const Visit& visit) {
    constexpr Operands operands = operands_of<Rule>;
    const Index row = first / tensor.columns, column = first % tensor.columns;
    const Index of_matrix = row / tensor.matrix_rows * tensor.columns;
    RowNumbers<Rule, T> numbers{};
    for (int k = 0; k < operands.rows; ++k)
        if (tensor.slot[operands.first_row() + k].data)
            numbers.of[k] = *native<T>(tensor.slot[operands.first_row() + k], row);
    const auto with_columns = [&](Slots<T>& slots, Index done) {
        for (int k = operands.first_column(); k < operands.first_column() + operands.columns; ++k)
            slots.slot[k] = native<T>(tensor.slot[k], of_matrix + column + done);
    };
    if (!tensor.plain) {
        Block<T> block;
        for (Index done = 0; done < size; done += block_size) {
            const int n = int(size - done < block_size ? size - done : block_size);
            stages.load(tensor, operands, first + done, n, block);
            Segment<Rule, T> at{block.p, block.g, block.gradient_scale, {}, numbers, n};
            for (int s = 0; s < slot_count<Rule>; ++s) at.slots.slot[s] = block.slot[s];
            with_columns(at.slots, done);
            visit(at, done);
            if (writes) stages.store(tensor, operands, first + done, n, block);
        }
        return;
    }
    const auto run = [&](Index done, Index n) {
        Segment<Rule, T> at{native<T>(tensor.p, first + done),
                            native<T>(tensor.g, first + done),
                            T(tensor.call->gradient_scale),
                            native_slots<Rule, T>(tensor, first + done),
                            numbers,
                            n};
        with_columns(at.slots, done);
        visit(at, done);
    };
    // Long loops that write start on the parameter's line.
    constexpr Index line = 64 / sizeof(T);
    const Index head = Index(-(reinterpret_cast<std::uintptr_t>(native<T>(tensor.p, first)) / sizeof(T))) & (line - 1);
    if (!writes || head == 0 || size < 4 * line) return run(0, size);
    run(0, head);
    run(head, size - head);
}

template <class Rule, class T, class Stage>
inline void fold_row(const Stages<T>& stages, const Stage& stage, const Tensor& tensor, Index first, Index size,
                     double* row, double* columns) {
    constexpr Fold fold = fold_of<Rule, T, Stage>();
    constexpr int N = fold.terms;
    constexpr auto every_slot = std::make_index_sequence<slot_count<Rule>>{};
    alignas(64) double lane[N][lanes] = {}, terms[N][read_size];
    const auto keep = [body = stage.body, to = &terms](Index i, auto&&... operands) {
        const Terms<N> term = body(operands...);
        [&]<int... K>(std::integer_sequence<int, K...>) {
            (((*to)[K][i] = term.term[K]), ...);
        }(std::make_integer_sequence<int, N>{});
    };
    each_segment<Rule, T>(stages, tensor, first, size, false, [&](Segment<Rule, T> at, Index done) {
        const Index end = at.size;
        for (Index from = 0; from < end; from += read_size) {
            const Index n = end - from < read_size ? end - from : read_size;
            Segment<Rule, T> part = at;
            part.p += from;
            part.g += from;
            part.size = n;
            for (T*& slot : part.slots.slot) slot = slot ? slot + from : slot;
            over_segment<Rule, T>(keep, part, every_slot);
            for (int k = 0; k < N; ++k) {
                if constexpr (fold.largest)
                    largest_of(terms[k], int(n), lane[k]);
                else
                    stages.sum(terms[k], int(n), lane[k]);
                if constexpr (fold.columns) into_columns<fold.largest>(terms[k], n, columns + k * size + done + from);
            }
        }
    });
    for (int k = 0; k < N; ++k) {
        if constexpr (fold.largest) {
            row[k] = lane[k][0];
            for (const double each : lane[k]) row[k] = maximum(row[k], each);
        } else {
            row[k] = sum_of(lane[k]);
        }
    }
}

template <class Rule, class T, class Stage>
inline void run_tile(const Job& job, const Stage& stage, const Tile& tile) {
    const Stages<T>& stages = *static_cast<const Stages<T>*>(job.stages);
    const Tensor& tensor = job.tensors[tile.tensor];
    [[maybe_unused]] constexpr auto every_slot = std::make_index_sequence<slot_count<Rule>>{};
    if constexpr (is_fold<Stage>) {
        constexpr Fold fold = fold_of<Rule, T, Stage>();
        double* const columns = job.columns + tile.column_partial * job.terms;
        if constexpr (fold.columns)
            for (Index i = 0; i < fold.terms * tile.columns; ++i) columns[i] = 0;
        for (Index r = 0; r < tile.rows; ++r)
            fold_row<Rule, T>(stages, stage, tensor, tile.first + r * tensor.columns, tile.columns,
                              job.partials + (tile.row_partial + r * tile.row_stride) * job.terms, columns);
    } else {
        for (Index r = 0; r < tile.rows; ++r) {
            const Index first = tile.first + r * tensor.columns;
            if constexpr (is_pass<Stage>) {
                constexpr int to = operands_of<Rule>.first_work() + Stage::first;
                each_segment<Rule, T>(stages, tensor, first, tile.columns, false, [&](const auto& at, Index) {
                    const auto write = [body = stage.body, slots = at.slots](Index i, auto&&... operands) {
                        put<T, to>(slots, i, body(operands...));
                    };
                    over_segment<Rule, T>(write, at, every_slot);
                });
            } else {
                const auto write = [body = stage](Index, auto&&... operands) { body(operands...); };
                each_segment<Rule, T>(stages, tensor, first, tile.columns, true,
                                      [&](const auto& at, Index) { over_segment<Rule, T>(write, at, every_slot); });
            }
        }
    }
}

/// One sweep over tiles [begin, end).
template <class Rule, class T>
void run_tiles(const Job& job, const Tile* begin, const Tile* end) {
    for (const Tile *tile = begin, *last; tile < end; tile = last) {
        const Call& call = *job.tensors[tile->tensor].call;
        for (last = tile + 1; last < end && job.tensors[last->tensor].call == &call;) ++last;
        const auto first_stage = start<Rule, T>(call, nullptr);
        [&]<int... K>(std::integer_sequence<int, K...>) {
            const auto over = [&]<int k>() {
                for (const Tile* each = tile; each < last; ++each) {
                    const double* const number = job.tensors[each->tensor].number;
                    run_tile<Rule, T>(job, reach_pass<Rule, k>(first_stage, number), *each);
                }
            };
            ((job.sweep == K ? over.template operator()<K>() : void()), ...);
        }(std::make_integer_sequence<int, pass_count<Rule, T> + 1>{});
    }
}

}  // namespace
}  // namespace schuss
