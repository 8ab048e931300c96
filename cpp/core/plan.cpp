#include "core/plan.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/isa.hpp"
#include "core/parallel.hpp"

namespace schuss {
namespace {

/// A thread gets at least this many elements: less is done sooner than a sleeping thread wakes up.
constexpr Index grain = 16384;

bool computes_in_double(const View& parameter) {
    return parameter.dtype == Dtype::float64;
}

std::size_t at(Index i) {
    return std::size_t(i);
}

}  // namespace

Index item_size(Dtype dtype) {
    switch (dtype) {
        case Dtype::float64: return 8;
        case Dtype::float32: return 4;
        case Dtype::float16:
        case Dtype::bfloat16: return 2;
    }
    return 0;
}

Index View::elements() const {
    return std::accumulate(shape.begin(), shape.end(), Index(complex ? 2 : 1), std::multiplies<>());
}

Plan::Plan(int rule, unsigned flags, std::vector<View> parameters, std::vector<int> group_of, int groups,
           const std::vector<std::uint64_t>& streams, const std::vector<std::vector<View>>& state, double* scalars,
           std::int64_t* counts)
    : rule_(rule),
      bound_(std::move(parameters)),
      group_of_(std::move(group_of)),
      hyper_(at(groups), std::vector<double>(max_hyper + 2)),
      given_(max_given),
      scalars_(scalars),
      counts_(counts) {
    const Rule& compiled_rule = *isa().rules[rule];
    while (variant_ < at(compiled_rule.count) && compiled_rule.variant[variant_].flags != flags) ++variant_;
    if (variant_ == at(compiled_rule.count))
        throw std::invalid_argument(std::string(compiled_rule.name) + " has no kernel for these construction flags");
    const Compiled& compiled = this->rule();

    const std::size_t n = bound_.size();
    const std::size_t operands = at(1 + compiled.operands.inputs);
    tensor_.assign(n, Tensor{});
    active_.assign(n, true);
    native_.assign(n, true);
    layout_.assign(n * operands, Layout{});
    first_unit_.assign(n, 0);
    units_of_.assign(n, 1);
    call_.reserve(n);

    const auto remember = [this](const std::byte* data, Index bytes) {
        if (data && bytes > 0) interval_.push_back({data, data + bytes});
    };
    for (std::size_t i = 0; i < n; ++i) {
        const View& view = bound_[i];
        const Dtype compute = computes_in_double(view) ? Dtype::float64 : Dtype::float32;
        Tensor& tensor = tensor_[i];
        tensor.p = {view.data, nullptr, view.dtype};
        native_[i] = view.dtype == compute;
        remember(view.data, view.elements() * item_size(view.dtype));
        tensor.stream = streams[i];
        tensor.rows = view.shape.size() > 1 ? double(view.shape[0]) : 0;
        for (int s = compiled.operands.first_state(); s < compiled.operands.slots; ++s) {
            const View& slot = state[at(s - compiled.operands.first_state())][i];
            tensor.slot[s] = {slot.data, nullptr, slot.dtype};
            if (!slot.data) continue;
            if (slot.elements() != view.elements()) throw std::invalid_argument("a state array has another size");
            native_[i] = native_[i] && slot.dtype == compute;
            remember(slot.data, slot.elements() * item_size(slot.dtype));
        }
    }

    order_.resize(n);
    std::iota(order_.begin(), order_.end(), Index(0));
    std::stable_sort(order_.begin(), order_.end(), [this](Index a, Index b) {
        const auto key = [this](Index i) { return std::pair(computes_in_double(bound_[at(i)]), group_of_[at(i)]); };
        return key(a) < key(b);
    });

    // Units are numbered in the caller's order, chunks in the order in which they run.
    units_ = compiled.scope == Scope::all ? 1 : 0;
    for (std::size_t i = 0; i < n; ++i) {
        const View& view = bound_[i];
        if (compiled.scope == Scope::row && view.shape.size() > 1) units_of_[i] = view.shape[0];
        first_unit_[i] = compiled.scope == Scope::all ? 0 : units_;
        if (compiled.scope != Scope::all) units_ += units_of_[i];
    }
    remember(reinterpret_cast<const std::byte*>(scalars), units_ * compiled.scalars * Index(sizeof *scalars));
    remember(reinterpret_cast<const std::byte*>(counts), Index((n + 1) * sizeof *counts));
    std::sort(interval_.begin(), interval_.end(), [](Interval a, Interval b) { return a.low < b.low; });
    cut_ = cut(compiled.scope == Scope::row);
    if (compiled.scope == Scope::row) even_cut_ = cut(false);

    sizes_.assign(at(units_), 0.0);
    for (std::size_t i = 0; i < n && compiled.scope != Scope::all; ++i)
        for (Index unit = 0; unit < units_of_[i]; ++unit)
            sizes_[at(first_unit_[i] + unit)] = double(bound_[i].elements() / units_of_[i]);
    partials_.assign(at(cut_.partials * compiled.partial_stride), 0.0);
    sums_.assign(at(units_ * compiled.sums), 0.0);
}

/// Cuts every tensor into chunks of one size, or of whole rows where several fit.
Plan::Cut Plan::cut(bool rows) {
    Cut result{{}, std::vector<Index>(bound_.size()), std::vector<Index>(bound_.size())};
    for (const Index i : order_) {
        const Index size = bound_[at(i)].elements();
        const Index row = rows && units_of_[at(i)] > 0 ? size / units_of_[at(i)] : size;
        const bool whole = row < size && row <= chunk_size;
        const Index step = whole ? chunk_size / row * row : chunk_size;
        result.first[at(i)] = Index(result.chunk.size());
        for (Index first = 0; first < size;) {
            const Index row_number = first / row;
            const Index end = std::min(first + step, whole ? size : (row_number + 1) * row);
            const Index unit = first_unit_[at(i)] + row_number;
            result.chunk.push_back({i, first, end - first, whole ? row : end - first, unit, result.partials});
            result.partials += whole ? (end - first) / row : 1;
            first = end;
        }
        result.count[at(i)] = Index(result.chunk.size()) - result.first[at(i)];
    }
    return result;
}

void Plan::Run::clear(bool whole) {
    chunk.clear();
    before.assign(1, 0);
    floats = 0;
    whole_units = whole;
}

/// Adds chunks [begin, end) of a tensor to a run.
void Plan::append(Run& run, const Cut& cut, Index tensor, Index begin, Index end) const {
    for (Index c = cut.first[at(tensor)] + begin; c < cut.first[at(tensor)] + end; ++c) {
        run.chunk.push_back(cut.chunk[at(c)]);
        run.before.push_back(run.before.back() + run.chunk.back().size);
        run.floats += !computes_in_double(bound_[at(tensor)]);
    }
}

/// Shares the chunks of the active tensors out, unless the step before had the same ones.
void Plan::select(const Options& options) {
    if (selected_ == active_ && selected_threads_ == threads_allowed(options)) return;
    selected_ = active_;
    selected_threads_ = threads_allowed(options);

    Index elements = 0;
    for (std::size_t i = 0; i < bound_.size(); ++i) elements += active_[i] ? bound_[i].elements() : 0;
    const int threads = threads_for(elements, options);
    const Compiled& compiled = rule();
    if (compiled.scope == Scope::all) sizes_.front() = double(elements);
    const Cut& even = even_cut_.first.empty() ? cut_ : even_cut_;
    even_.clear(false);
    for (const Index i : order_)
        if (active_[at(i)]) append(even_, even, i, 0, even.count[at(i)]);

    // Without sums chunks are free of one another. With them a unit belongs to one thread unless it is a good part of a
    // thread's work: so there are few shared units, and each of them can pay for the threads' meetings.
    const bool meets = compiled.sums > 0 && threads > 1;
    const Index limit = std::max(2 * chunk_size, elements / (8 * threads));
    own_.clear(compiled.sums > 0);
    shared_.clear();
    for (const Index i : order_) {
        if (!active_[at(i)]) continue;
        const Index chunks = cut_.count[at(i)], units = compiled.across ? 1 : units_of_[at(i)];
        if (compiled.scope == Scope::all) {
            if (shared_.empty()) shared_.emplace_back().clear(false);
            append(shared_.front(), cut_, i, 0, chunks);
        } else if (!meets || bound_[at(i)].elements() <= limit * units) {
            append(own_, cut_, i, 0, chunks);
        } else {
            const Index per_unit = chunks / units;
            for (Index c = 0; c < chunks; c += per_unit) {
                shared_.emplace_back().clear(false);
                append(shared_.back(), cut_, i, c, c + per_unit);
            }
        }
    }
}

const Compiled& Plan::rule() const {
    return isa().rules[rule_]->variant[variant_];
}

void Plan::set_hyper(int group, const std::vector<double>& values) {
    std::copy(values.begin(), values.end(), hyper_.at(at(group)).begin());
}

void Plan::bind(Index tensor, int operand, std::byte* data, Dtype dtype) {
    Tensor& t = tensor_[at(tensor)];
    (operand == 0 ? t.g : t.slot[operand - 1]) = {data, nullptr, dtype};
}

void Plan::bind(Index tensor, int operand, std::byte* data, Dtype dtype, const Index* strides) {
    const View& view = bound_[at(tensor)];
    const std::size_t ndim = view.shape.size(), operands = at(1 + rule().operands.inputs);
    const std::size_t room = 2 * (ndim + 1);
    Layout& layout = layout_[at(tensor) * operands + at(operand)];
    if (!layout.shape) {
        // Memory for all layouts, once, when the first array with strides of its own comes.
        if (layout_numbers_.empty()) {
            std::size_t total = 0;
            for (const View& each : bound_) total += operands * 2 * (each.shape.size() + 1);
            layout_numbers_.assign(total, 0);
        }
        std::size_t offset = 0;
        for (Index i = 0; i < tensor; ++i) offset += operands * 2 * (bound_[at(i)].shape.size() + 1);
        layout.shape = layout_numbers_.data() + offset + at(operand) * room;
        layout.strides = layout.shape + ndim + 1;
    }
    Index* const shape_out = const_cast<Index*>(layout.shape);
    Index* const strides_out = const_cast<Index*>(layout.strides);
    for (std::size_t d = 0; d < ndim; ++d) {
        const std::size_t from = view.f_order ? ndim - 1 - d : d;
        shape_out[d] = view.shape[from];
        strides_out[d] = strides[from];
    }
    layout.ndim = int(ndim);
    if (view.complex) {
        shape_out[ndim] = 2;
        strides_out[ndim] = item_size(dtype);
        ++layout.ndim;
    }
    Tensor& t = tensor_[at(tensor)];
    (operand == 0 ? t.g : t.slot[operand - 1]) = {data, &layout, dtype};
}

bool Plan::overlaps(const std::byte* low, const std::byte* high) const {
    // The intervals are disjoint and sorted: the first that ends after `low` decides.
    const auto first = std::partition_point(interval_.begin(), interval_.end(),
                                            [low](const Interval& each) { return each.high <= low; });
    return first != interval_.end() && first->low < high;
}

Index Plan::threads_allowed(const Options& options) {
    return options.threads > 0 ? options.threads : num_threads();
}

int Plan::threads_for(Index elements, const Options& options) {
    return int(std::clamp<Index>(elements / grain, 1, threads_allowed(options)));
}

/// Calls `body(begin, end, is_double)` on the threads of this step, each with some consecutive chunks.
template <class Body>
void Plan::over_chunks(const Run& run, const Options& options, const Body& body) const {
    const Index chunks = Index(run.chunk.size()), elements = run.before.back();
    if (chunks == 0) return;
    const auto together = [&run, across = rule().across](Index a, Index b) {
        const Chunk &one = run.chunk[at(a)], &other = run.chunk[at(b)];
        return across ? one.tensor == other.tensor : one.unit == other.unit;
    };
    parallel(threads_for(elements, options), options.flush_subnormals, [&](int thread, int of) {
        const auto edge = [&](int k) {
            if (k == of) return chunks;
            const auto found = std::lower_bound(run.before.begin(), run.before.end(), elements * k / of);
            Index c = std::min(Index(found - run.before.begin()), chunks);
            while (run.whole_units && c > 0 && c < chunks && together(c, c - 1)) ++c;
            return c;
        };
        const Index begin = edge(thread), end = edge(thread + 1);
        if (begin < std::min(end, run.floats)) body(begin, std::min(end, run.floats), 0);
        if (std::max(begin, run.floats) < end) body(std::max(begin, run.floats), end, 1);
    });
}

void Plan::make_calls(const Options& options, double gradient_scale) {
    const Compiled& compiled = rule();
    call_.clear();
    int group = -1;
    double t = -1;
    for (const Index i : order_) {
        if (!active_[at(i)]) continue;
        // Rules with sums over all tensors have one clock, the optimizer's; elsewhere every tensor has its own.
        const double own = double((compiled.scope == Scope::all ? counts_[bound_.size()] : counts_[i]) + 1);
        if (group_of_[at(i)] != group || own != t) {
            group = group_of_[at(i)];
            t = own;
            const std::vector<double>& hyper = hyper_[at(group)];
            const double l2 = hyper[at(compiled.hypers)], l1 = hyper[at(compiled.hypers) + 1];
            const std::uint64_t seed = compiled.seed < 0 ? 0 : std::uint64_t(hyper[at(compiled.seed)]);
            call_.push_back({t, gradient_scale, hyper.data(), given_.data(), seed, l2, l1, options.lower, options.upper,
                             l2 != 0 || l1 != 0, options.bounded});
        }
        Tensor& tensor = tensor_[at(i)];
        const Call& call = call_.back();
        tensor.call = &call;
        const Dtype compute = computes_in_double(bound_[at(i)]) ? Dtype::float64 : Dtype::float32;
        const auto direct = [compute](const Operand& operand) { return !operand.layout && operand.dtype == compute; };
        tensor.plain =
            native_[at(i)] && !call.regularised && !call.bounded && compiled.operands.draws == 0 && direct(tensor.g);
        for (int s = 0; s < compiled.operands.inputs; ++s) tensor.plain = tensor.plain && direct(tensor.slot[s]);
    }
}

double Plan::sum_of_squares(const Cut& cut, const Options& options, double scale) {
    const AllStages& stages = *isa().stages;
    over_chunks(even_, options, [&](Index begin, Index end, int is_double) {
        const auto squares = is_double ? stages.float64.squares : stages.float32.squares;
        for (Index c = begin; c < end;) {
            const Chunk& first = even_.chunk[at(c)];
            Index size = 0;
            for (; c < end && even_.chunk[at(c)].tensor == first.tensor; ++c) size += even_.chunk[at(c)].size;
            squares(tensor_[at(first.tensor)].g, first.first, size, scale, &squares_[at(first.partial)]);
        }
    });
    double total = 0;
    for (std::size_t i = 0; i < bound_.size(); ++i) {
        if (!active_[i]) continue;
        double of_tensor = 0;
        for (Index c = 0; c < cut.count[i]; ++c) of_tensor += squares_[at(cut.chunk[at(cut.first[i] + c)].partial)];
        total += of_tensor;
    }
    return total;
}

/// Reads all gradients: their norm, and whether they are finite.
Outcome Plan::measure(const Options& options) {
    const Cut& cut = even_cut_.first.empty() ? cut_ : even_cut_;
    squares_.resize(cut.chunk.size());
    Outcome outcome;
    outcome.measured = true;
    double scale = 1, total = sum_of_squares(cut, options, scale);
    if (!std::isfinite(total) && even_.floats < Index(even_.chunk.size())) {
        // Finite doubles may have infinite squares: 2^-600 brings every one of them into range.
        scale = 0x1p-600;
        total = sum_of_squares(cut, options, scale);
    }
    outcome.norm = std::sqrt(total) / scale;
    const bool given_finite = std::all_of(given_.begin(), given_.end(), [](double x) { return std::isfinite(x); });
    if (!std::isfinite(total) || !given_finite) {
        for (std::size_t i = 0; i < bound_.size() && outcome.nonfinite_tensor < 0; ++i)
            for (Index c = 0; active_[i] && c < cut.count[i]; ++c)
                if (!std::isfinite(squares_[at(cut.chunk[at(cut.first[i] + c)].partial)]))
                    outcome.nonfinite_tensor = Index(i);
        if (options.nonfinite == Nonfinite::raise) outcome.status = Outcome::Status::nonfinite;
        if (options.nonfinite == Nonfinite::skip) outcome.status = Outcome::Status::skipped;
    }
    if (options.max_norm >= 0 && !(outcome.norm <= options.max_norm))
        outcome.clip = options.max_norm * scale / std::sqrt(total);
    return outcome;
}

/// Adds the partial sums of all tensors, in the caller's order, which no number of threads changes.
void Plan::combine(int sweep, int sums_before) {
    const Compiled& compiled = rule();
    for (Index j = 0; j < compiled.sums_of[sweep]; ++j) {
        double total = 0;
        for (std::size_t i = 0; i < bound_.size(); ++i) {
            if (!active_[i] || cut_.count[i] == 0) continue;
            double of_tensor = 0;
            for (Index c = cut_.first[i]; c < cut_.first[i] + cut_.count[i]; ++c)
                of_tensor += partials_[at(cut_.chunk[at(c)].partial * compiled.partial_stride + j)];
            total += of_tensor;
        }
        sums_[at(sums_before + j)] = total;
    }
}

Outcome Plan::step(const Options& options) {
    const Compiled& compiled = rule();
    select(options);
    Outcome outcome;
    if (options.max_norm >= 0 || options.nonfinite != Nonfinite::propagate) {
        outcome = measure(options);
        if (outcome.status != Outcome::Status::done) return outcome;
    }
    make_calls(options, options.sign * outcome.clip);

    const AllStages& stages = *isa().stages;
    const auto job = [&](const Run& run, int sweep, int is_double) {
        const void* const typed = is_double ? static_cast<const void*>(&stages.float64) : &stages.float32;
        return Job{tensor_.data(), run.chunk.data(), typed,    sizes_.data(),
                   sums_.data(),   partials_.data(), scalars_, sweep};
    };
    for (const Run& run : shared_) {
        int sums_before = 0;
        for (int sweep = 0; sweep < compiled.sweeps; ++sweep) {
            over_chunks(run, options, [&](Index begin, Index end, int is_double) {
                compiled.sweep[is_double](job(run, sweep, is_double), begin, end);
            });
            if (sweep + 1 == compiled.sweeps) continue;
            if (compiled.scope == Scope::all) {
                combine(sweep, sums_before);
                sums_before += compiled.sums_of[sweep];
            } else {
                const int is_double = run.floats == 0;
                compiled.combine[is_double](job(run, sweep, is_double), 0, Index(run.chunk.size()));
            }
        }
    }
    over_chunks(own_, options, [&](Index begin, Index end, int is_double) {
        compiled.whole[is_double](job(own_, 0, is_double), begin, end);
    });

    bool first = true;
    for (std::size_t i = 0; i < bound_.size(); ++i) {
        if (!active_[i]) continue;
        const int is_double = computes_in_double(bound_[i]);
        const bool commits = compiled.scalars > 0 && (compiled.scope != Scope::all || first);
        if (commits)
            compiled.commit[is_double](job(own_, 0, is_double), *tensor_[i].call, first_unit_[i],
                                       first_unit_[i] + (compiled.scope == Scope::all ? 1 : units_of_[i]));
        first = false;
        ++counts_[i];
    }
    ++counts_[bound_.size()];
    return outcome;
}

}  // namespace schuss
