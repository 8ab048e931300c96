/// What core sees of a rule: a table of its combinations of construction flags.
#pragma once

#include "kernels/sweep.hpp"
#include "kernels/tiles.hpp"

namespace schuss {
namespace {

/// The combinations of a rule's construction flags, while they are collected at compile time.
struct Variants {
    int count = 0, flag_count = 0;
    const char* flag[4] = {};
    Compiled variant[16] = {};
};

template <int count>
struct Table {
    Compiled variant[count];
};

/// The same without the room that was not needed.
template <int count>
constexpr Table<count> trimmed(const Variants& variants) {
    Table<count> table{};
    for (int i = 0; i < count; ++i) table.variant[i] = variants.variant[i];
    return table;
}

constexpr Rule rule_of(const char* name, const Variants& all, const Compiled* table) {
    const bool shaped = all.flag_count > 0 && std::string_view(all.flag[all.flag_count - 1]) == "matrix";
    return {name, all.count, all.flag_count, shaped, {all.flag[0], all.flag[1], all.flag[2], all.flag[3]}, table};
}

/// The sweeps of a rule that sees elements and sums.
template <class Rule>
constexpr void describe_sweeps(Compiled& entry) {
    entry.across = adds_across<Rule, float>;
    static_assert(!adds_across<Rule, float> || scope_of<Rule>(Scope::element) == Scope::row, "no rows to add up");
    entry.sweeps = sweep_count<Rule, float>();
    [&]<int... K>(std::integer_sequence<int, K...>) {
        ((entry.sums_of[K] = sum_count<Rule, float, StageAt<Rule, float, K>>()), ...);
    }(std::make_integer_sequence<int, sweep_count<Rule, float>()>{});
    entry.sums = total_sums<Rule, float>;
    entry.partial_stride = partial_stride<Rule, float>;
    entry.whole[0] = whole<Rule, float>;
    entry.whole[1] = whole<Rule, double>;
    if constexpr (total_sums<Rule, float> > 0) {
        entry.sweep[0] = sweep<Rule, float>;
        entry.sweep[1] = sweep<Rule, double>;
        entry.combine[0] = combine<Rule, float>;
        entry.combine[1] = combine<Rule, double>;
    }
    entry.commit[0] = commit<Rule, float>;
    entry.commit[1] = commit<Rule, double>;
}

/// Those of a rule that sees matrices.
template <class Rule>
constexpr void describe_passes(Compiled& entry) {
    static_assert(scalars_of<Rule>().count == 0,
                  "a rule over matrices has no scalars: what it keeps beside elements is Python's");
    entry.sweeps = 1 + pass_count<Rule, float>;
    entry.passes = pass_count<Rule, float>;
    entry.numbers = numbers_of<Rule>().count;
    [&]<int... K>(std::integer_sequence<int, K...>) {
        ((entry.fold[K] = fold_of<Rule, float, PassAt<Rule, float, K>>()), ...);
    }(std::make_integer_sequence<int, pass_count<Rule, float>>{});
    entry.pass[0] = run_tiles<Rule, float>;
    entry.pass[1] = run_tiles<Rule, double>;
}

template <class Rule>
constexpr Compiled describe(const char* kind, Scope scope, unsigned flags) {
    Compiled entry{};
    entry.kind = kind;
    entry.flags = flags;
    entry.scope = scope_of<Rule>(scope);
    entry.hypers = Rule::hyper.count;
    entry.givens = given_of<Rule>().count;
    entry.operands = operands_of<Rule>;
    entry.seed = seed_of<Rule>();
    static_assert(operands_of<Rule>.draws <= 1, "a rule draws one number per element");
    static_assert(operands_of<Rule>.draws == 0 || seed_of<Rule>() >= 0, "a rule that draws names a seed");
    entry.scalars = scalars_of<Rule>().count;
    for (int i = 0; i < entry.hypers; ++i) entry.hyper[i] = Rule::hyper.name[i];
    for (int i = 0; i < entry.givens; ++i) entry.given[i] = given_of<Rule>().name[i];
    [&]<int... S>(std::integer_sequence<int, S...>) {
        ((entry.slot[S] = slot_name<Rule>(S)), ...);
    }(std::make_integer_sequence<int, slot_count<Rule>>{});
    for (int i = 0; i < entry.scalars; ++i) entry.scalar[i] = scalars_of<Rule>().name[i];
    if constexpr (sees_matrices<Rule>)
        describe_passes<Rule>(entry);
    else
        describe_sweeps<Rule>(entry);
    return entry;
}

template <class Rule>
constexpr bool sensible = [] {
    if constexpr (requires { Rule::sensible; }) return Rule::sensible;
    return true;
}();

/// Adds a rule under one combination of its construction flags, unless the rule says that it makes no sense.
template <class Rule>
constexpr void add(Variants& variants, const char* kind, Scope scope, unsigned flags) {
    if constexpr (requires { Rule::flags; }) {
        variants.flag_count = Rule::flags.count;
        for (int i = 0; i < Rule::flags.count; ++i) variants.flag[i] = Rule::flags.name[i];
    }
    if constexpr (sensible<Rule>) variants.variant[variants.count++] = describe<Rule>(kind, scope, flags);
}

/// Calls `visit` with each of 0 ... 2^flags - 1 as a template argument.
template <int flags, class Visit>
constexpr void every_combination(const Visit& visit) {
    [&]<unsigned... F>(std::integer_sequence<unsigned, F...>) {
        (visit.template operator()<F>(), ...);
    }(std::make_integer_sequence<unsigned, 1u << flags>{});
}

/// All combinations of a rule's construction flags; a rule without flags is the one combination of none.
template <class Rule>
constexpr Variants variants(const char* kind, Scope scope) {
    Variants all;
    add<Rule>(all, kind, scope, 0);
    return all;
}

template <template <bool> class Rule>
constexpr Variants variants(const char* kind, Scope scope) {
    Variants all;
    every_combination<1>([&]<unsigned f>() { add<Rule<(f & 1) != 0>>(all, kind, scope, f); });
    return all;
}

template <template <bool, bool> class Rule>
constexpr Variants variants(const char* kind, Scope scope) {
    Variants all;
    every_combination<2>([&]<unsigned f>() { add<Rule<(f & 1) != 0, (f & 2) != 0>>(all, kind, scope, f); });
    return all;
}

template <template <bool, bool, bool> class Rule>
constexpr Variants variants(const char* kind, Scope scope) {
    Variants all;
    every_combination<3>(
        [&]<unsigned f>() { add<Rule<(f & 1) != 0, (f & 2) != 0, (f & 4) != 0>>(all, kind, scope, f); });
    return all;
}

}  // namespace
}  // namespace schuss
