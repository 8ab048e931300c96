/// The interface of the tools: loops over several arrays of one shape, compiled once per instruction set. Plain data
/// and function pointers only, as in kernel.hpp.
#pragma once

#include "core/kernel.hpp"

namespace schuss {

/// The same tensor of several gradients.
struct Layers {
    const Operand* of;
    int count;
};

/// A comparator of a sorting network: the smaller value goes to row `low`, the larger to row `high`.
struct Exchange {
    int low, high;
};

struct Dropping {
    std::uint64_t key;
    std::uint32_t threshold;  ///< an element is dropped where its word is less
    double scale;             ///< of those kept
    int parts;                ///< real numbers per element: 2 where it is complex
};

/// Every tool works on elements [first, first + size) of a tensor, one chunk at most, and does not depend on how the
/// tensor is cut. Where both types stand, the tool computes in float or in double; else in double.
struct Tools {
    /// to = (sum of weight * gradient) / total; a gradient of weight 0 is not read.
    void (*combine)(const Layers&, const double* weights, double total, const Operand& to, std::int64_t first,
                    std::int64_t size);
    /// The sign of (weights of the positive) - (weights of the negative).
    void (*vote)(const Layers&, const double* weights, const Operand& to, std::int64_t first, std::int64_t size);
    /// The sums of squares of (gradient - what `combine` would write, before it is rounded), one per gradient. `room`
    /// holds `lanes` numbers per sum.
    void (*residuals)(const Layers&, const double* weights, double total, std::int64_t first, std::int64_t size,
                      double* room, double* sums);
    /// The sums of squares of (gradient i - gradient j), for every i in [begin, end) and every j < i, in this order.
    /// `room` holds `block` numbers per gradient, then `lanes` per sum.
    void (*distances)(const Layers&, int begin, int end, std::int64_t first, std::int64_t size, int block, double* room,
                      double* sums);
    /// The mean of the values that are in places [begin, end) of the ascending order. `room` holds `block` numbers per
    /// gradient.
    void (*sorted_mean[2])(const Layers&, const Exchange* network, std::int64_t exchanges, int begin, int end,
                           const Operand& to, std::int64_t first, std::int64_t size, int block, double* room);
    void (*drop[2])(const Operand& from, const Dropping&, const Operand& to, std::int64_t first, std::int64_t size);
};

}  // namespace schuss
