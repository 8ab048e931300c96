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

}  // namespace
}  // namespace schuss
