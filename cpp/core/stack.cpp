#include "core/stack.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/isa.hpp"
#include "core/parallel.hpp"

namespace schuss {
namespace {

/// A thread gets at least this many numbers to read: see plan.cpp.
constexpr Index grain = 16384;
/// Bytes of all rows of a block, which every comparator of a network and every pair reads again: half of L1.
constexpr Index rows_in_cache = 16384;
/// Bytes of partial sums at a time, and of the lanes of a thread.
constexpr std::size_t sums_at_a_time = std::size_t(8) << 20;
constexpr std::size_t line = 64;

int block_of(int layers, std::size_t item) {
    return int(std::clamp<Index>(rows_in_cache / Index(item) / layers / lanes * lanes, 4 * lanes, block_size));
}

/// The comparators of merge exchange that decide which values come to places [begin, end). Knuth (1998), The Art of
/// Computer Programming 3, Algorithm 5.2.2M (Batcher).
std::vector<Exchange> network(int rows, int begin, int end) {
    std::vector<Exchange> all;
    const int top = rows > 1 ? int(std::bit_floor(unsigned(rows - 1))) : 0;
    for (int p = top; p > 0; p /= 2)
        for (int q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
            for (int i = 0; i + d < rows; ++i)
                if ((i & p) == r) all.push_back({i, i + d});
            if (q == p) break;
        }

    std::vector<char> wanted(std::size_t(rows), false);
    std::fill(wanted.begin() + begin, wanted.begin() + end, true);
    std::vector<Exchange> needed;
    for (auto each = all.rbegin(); each != all.rend(); ++each) {
        char &low = wanted[std::size_t(each->low)], &high = wanted[std::size_t(each->high)];
        if (!low && !high) continue;
        low = high = true;
        needed.push_back(*each);
    }
    std::reverse(needed.begin(), needed.end());
    return needed;
}

bool in_double(const Operand& operand) {
    return operand.dtype == Dtype::float64;
}

}  // namespace

Stack::Stack(std::vector<View> results, int layers)
    : layers_(layers),
      result_(std::move(results)),
      operand_(result_.size() * std::size_t(layers)),
      layout_(operand_.size()),
      layout_numbers_(operand_.size()),
      before_{0} {
    for (Index i = 0; i < tensors(); ++i) {
        const Index size = result(i).elements();
        for (Index first = 0; first < size; first += chunk_size) {
            piece_.push_back({i, first, std::min(chunk_size, size - first)});
            before_.push_back(before_.back() + piece_.back().size);
        }
    }
}

void Stack::bind(int layer, Index tensor, std::byte* data) {
    operand(layer, tensor) = {data, nullptr, result(tensor).dtype};
}

void Stack::bind(int layer, Index tensor, std::byte* data, const Index* strides) {
    const View& view = result(tensor);
    const std::size_t which = std::size_t(tensor * layers_ + layer), ndim = view.shape.size();
    std::vector<Index> shape(view.shape), steps(strides, strides + ndim);
    if (view.f_order) {
        std::reverse(shape.begin(), shape.end());
        std::reverse(steps.begin(), steps.end());
    }
    if (view.complex) {
        shape.push_back(2);
        steps.push_back(item_size(view.dtype));
    }
    std::vector<Index>& numbers = layout_numbers_[which];
    numbers = shape;
    numbers.insert(numbers.end(), steps.begin(), steps.end());
    layout_[which] = {int(shape.size()), numbers.data(), numbers.data() + shape.size()};
    operand_[which] = {data, &layout_[which], view.dtype};
}

Operand Stack::target(const Piece& piece) const {
    const View& view = result(piece.tensor);
    return {view.data, nullptr, view.dtype};
}

int Stack::threads_for(Index elements, int threads) const {
    return int(std::clamp<Index>(elements * layers_ / grain, 1, threads_allowed(threads)));
}

/// Calls `body(number, piece, room)` for pieces [begin, end), each thread with some consecutive ones and as many
/// numbers of room as asked for.
template <class Body>
void Stack::over_pieces(std::size_t begin, std::size_t end, int threads, std::size_t room, const Body& body) {
    const Index start = before_[begin], elements = before_[end] - start;
    const int wanted = threads_for(elements, threads);
    const std::size_t stride = (room + line - 1) / line * line;
    std::vector<double> rooms(stride * std::size_t(wanted) + line);
    double* const aligned =
        rooms.data() + (line - reinterpret_cast<std::uintptr_t>(rooms.data()) % line) / sizeof(double);
    parallel(wanted, false, [&](int thread, int of) {
        const auto edge = [&](int k) {
            const auto found = std::lower_bound(before_.begin() + Index(begin), before_.begin() + Index(end),
                                                start + elements * k / of);
            return std::size_t(found - before_.begin());
        };
        const std::size_t last = thread + 1 == of ? end : edge(thread + 1);
        for (std::size_t i = edge(thread); i < last; ++i) body(i, piece_[i], aligned + stride * std::size_t(thread));
    });
}

/// Sums over all elements, `width` of them side by side: chunk by chunk, the chunks of a tensor in order, then the
/// tensors.
template <class Body>
std::vector<double> Stack::sums(std::size_t width, int threads, std::size_t room, const Body& body) {
    std::vector<double> all(width), of_tensor(width), partial;
    const std::size_t pieces = piece_.size();
    const std::size_t at_a_time =
        std::max<std::size_t>(sums_at_a_time / sizeof(double) / std::max<std::size_t>(width, 1),
                              std::size_t(threads_for(before_.back(), threads)));
    partial.resize(std::min(at_a_time, pieces) * width);
    for (std::size_t begin = 0, end; begin < pieces; begin = end) {
        end = std::min(begin + at_a_time, pieces);
        over_pieces(begin, end, threads, room, [&](std::size_t i, const Piece& piece, double* mine) {
            body(piece, mine, partial.data() + (i - begin) * width);
        });
        for (std::size_t i = begin; i < end; ++i) {
            for (std::size_t w = 0; w < width; ++w) of_tensor[w] += partial[(i - begin) * width + w];
            if (i + 1 < pieces && piece_[i + 1].tensor == piece_[i].tensor) continue;
            for (std::size_t w = 0; w < width; ++w) all[w] += of_tensor[w];
            std::fill(of_tensor.begin(), of_tensor.end(), 0.0);
        }
    }
    return all;
}

void Stack::combine(const std::vector<double>& weights, double total, int threads) {
    const Tools& tools = *isa().tools;
    over_pieces(0, piece_.size(), threads, 0, [&](std::size_t, const Piece& piece, double*) {
        tools.combine(layers_of(piece), weights.data(), total, target(piece), piece.first, piece.size);
    });
}

void Stack::vote(const std::vector<double>& weights, int threads) {
    const Tools& tools = *isa().tools;
    over_pieces(0, piece_.size(), threads, 0, [&](std::size_t, const Piece& piece, double*) {
        tools.vote(layers_of(piece), weights.data(), target(piece), piece.first, piece.size);
    });
}

void Stack::sorted_mean(int begin, int end, int threads) {
    const Tools& tools = *isa().tools;
    const std::vector<Exchange> exchanges = network(layers_, begin, end);
    const std::size_t room = std::size_t(layers_) * std::size_t(block_of(layers_, sizeof(float)));
    over_pieces(0, piece_.size(), threads, room, [&](std::size_t, const Piece& piece, double* mine) {
        const Operand to = target(piece);
        const int block = block_of(layers_, in_double(to) ? sizeof(double) : sizeof(float));
        tools.sorted_mean[in_double(to)](layers_of(piece), exchanges.data(), Index(exchanges.size()), begin, end, to,
                                         piece.first, piece.size, block, mine);
    });
}

void Stack::drop(const Dropping& dropping, int threads) {
    const Tools& tools = *isa().tools;
    over_pieces(0, piece_.size(), threads, 0, [&](std::size_t, const Piece& piece, double*) {
        const Operand to = target(piece);
        tools.drop[in_double(to)](*layers_of(piece).of, dropping, to, piece.first, piece.size);
    });
}

std::vector<double> Stack::residuals(const std::vector<double>& weights, double total, int threads) {
    const Tools& tools = *isa().tools;
    const std::size_t width = std::size_t(layers_);
    return sums(width, threads, width * lanes, [&](const Piece& piece, double* mine, double* partial) {
        tools.residuals(layers_of(piece), weights.data(), total, piece.first, piece.size, mine, partial);
    });
}

std::vector<double> Stack::distances(int threads) {
    const Tools& tools = *isa().tools;
    const auto pairs = [](int row) { return std::size_t(row) * std::size_t(row - 1) / 2; };
    const std::size_t most = sums_at_a_time / sizeof(double) / lanes;
    const int block = block_of(layers_, sizeof(double));
    std::vector<double> all;
    for (int begin = 1, end; begin < layers_; begin = end) {
        for (end = begin + 1; end < layers_ && pairs(end + 1) - pairs(begin) <= most;) ++end;
        const std::size_t width = pairs(end) - pairs(begin);
        const std::size_t room = std::size_t(layers_) * std::size_t(block) + width * lanes;
        const auto found = sums(width, threads, room, [&](const Piece& piece, double* mine, double* partial) {
            tools.distances(layers_of(piece), begin, end, piece.first, piece.size, block, mine, partial);
        });
        all.insert(all.end(), found.begin(), found.end());
    }
    return all;
}

}  // namespace schuss
