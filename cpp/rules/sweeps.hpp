/// How a rule with sums is written: any number of sweeps, of which only the last one writes.
///
///     return sum([=](T p, T g, T m) { return Terms{dot(p, p), dot(g, g)}; },       // a sweep that reads
///                [=](double pp, double gg) {                                       // between two sweeps, in double
///                    return [=](T& p, T g, T& m) { ... };                          // the last sweep, which writes
///                });
///
/// What a sum runs over is the rule's folder: a tensor in layerwise/ (a row, where the rule says `scope = Scope::row`),
/// all tensors in global/. Between two sweeps the rows of a tensor may be added up:
///
///     [=](double pp, double gg, double size) {                                         // of a row
///         return across(Terms{pp, gg},                                                 // what to add
///                       [=](double pp_all, double gg_all, double rows) { ... });       // the tensor's sums; as above
///     }
///
/// The last argument need not be there: `size` is the number of elements that the sums run over; `rows` the number of
/// rows, 0 where the tensor has no rows to choose from, being a vector or a number.
///
/// A rule in matrix/ may stop between two sweeps for work on whole matrices, which is Python's: after a sweep that
/// writes an array for it, or one that adds up rows and columns. `next` gets the rule's `numbers` that have come from
/// the work so far.
///
///     return look([=](T p, T g, T u, T m) { return b * m + c * g; },         // goes to the first array of `work`
///                 [=] { return [=](T& p, T g, T u, T& m) { ... }; });        // u is what the work has made of it
///
///     return fold<Over::columns>([=](T p, T g, T r, T c) { return Terms{dot(g, g)}; }, [=](double x) { ... });
#pragma once

#include "core/kernel.hpp"

namespace schuss {
namespace {

template <int N>
struct Terms {
    static constexpr int count = N;
    double term[N];

    template <class... Term>
    Terms(Term... terms) : term{terms...} {}
};
template <class... Term>
Terms(Term...) -> Terms<sizeof...(Term)>;

template <class Read, class Next>
struct Sum {
    Read read;
    Next next;
};

template <class Read, class Next>
inline Sum<Read, Next> sum(Read read, Next next) {
    return {read, next};
}

template <int N, class Next>
struct Across {
    Terms<N> terms;
    Next next;
};

template <int N, class Next>
inline Across<N, Next> across(Terms<N> terms, Next next) {
    return {terms, next};
}

template <class T, int N>
struct Values {
    static constexpr int count = N;
    T value[N];
};
/// What a sweep writes to several arrays.
template <class T, class... More>
inline Values<T, 1 + sizeof...(More)> values(T first, More... more) {
    return {{first, more...}};
}

template <int first_, class Body, class Next>
struct Look {
    static constexpr int first = first_;
    Body body;
    Next next;
};

/// A sweep that writes to the arrays of `work` from the one of that number on.
template <int first = 0, class Body, class Next>
inline Look<first, Body, Next> look(Body body, Next next) {
    return {body, next};
}

enum class Over : std::uint8_t {
    rows,            ///< sums of every row
    columns,         ///< of every row and every column
    columns_largest  ///< the largest term of every row and every column
};

template <Over over_, class Body, class Next>
struct Folding {
    static constexpr Over over = over_;
    Body body;
    Next next;
};

template <Over over, class Body, class Next>
inline Folding<over, Body, Next> fold(Body body, Next next) {
    return {body, next};
}

}  // namespace
}  // namespace schuss
