/// How a rule with sums is written: any number of sweeps, of which only the last one writes.
///
///     return sum([=](T p, T g, T m) { return Terms{dot(p, p), dot(g, g)}; },       // a sweep that reads
///                [=](double pp, double gg) {                                       // between two sweeps, in double
///                    return [=](T& p, T g, T& m) { ... };                          // the last sweep, which writes
///                });
///
/// What a sum runs over is the rule's folder: a tensor in layerwise/ (a row, where the rule says `scope = Scope::row`),
/// all tensors in global/.
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

}  // namespace
}  // namespace schuss
