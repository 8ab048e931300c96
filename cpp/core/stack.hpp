/// Several gradients of one nesting, the arrays that are made of them, and the tools over both.
#pragma once

#include <cstdint>
#include <vector>

#include "core/plan.hpp"
#include "core/tools.hpp"

namespace schuss {

class Stack {
public:
    /// `results` are written, in their memory order; `layers` arrays are read for each of them.
    Stack(std::vector<View> results, int layers);
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    int layers() const { return layers_; }
    Index tensors() const { return Index(result_.size()); }
    const View& result(Index tensor) const { return result_[std::size_t(tensor)]; }
    /// Real numbers that a sweep reads.
    Index read() const { return before_.back() * layers_; }

    /// Gives a layer its array, of the result's shape, dtype and memory order; or of any strides (in bytes, in the
    /// order of the shape).
    void bind(int layer, Index tensor, std::byte* data);
    void bind(int layer, Index tensor, std::byte* data, const Index* strides);

    // `threads` is 0 for the package's number.
    void combine(const std::vector<double>& weights, double total, int threads);
    void vote(const std::vector<double>& weights, int threads);
    void sorted_mean(int begin, int end, int threads);
    void drop(const Dropping& dropping, int threads);
    std::vector<double> residuals(const std::vector<double>& weights, double total, int threads);
    /// Between gradients i and j < i, row by row.
    std::vector<double> distances(int threads);

private:
    struct Piece {
        Index tensor, first, size;
    };

    Operand& operand(int layer, Index tensor) { return operand_[std::size_t(tensor * layers_ + layer)]; }
    Layers layers_of(const Piece& piece) const { return {operand_.data() + piece.tensor * layers_, layers_}; }
    Operand target(const Piece& piece) const;
    int threads_for(Index elements, int threads) const;
    template <class Body>
    void over_pieces(std::size_t begin, std::size_t end, int threads, std::size_t room, const Body& body);
    template <class Body>
    std::vector<double> sums(std::size_t width, int threads, std::size_t room, const Body& body);

    int layers_;
    std::vector<View> result_;
    std::vector<Operand> operand_;  ///< tensor by tensor, its layers side by side
    std::vector<Layout> layout_;
    std::vector<std::vector<Index>> layout_numbers_;
    std::vector<Piece> piece_;
    std::vector<Index> before_;  ///< elements before each piece
};

}  // namespace schuss
