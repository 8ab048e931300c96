#include "core/plan.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "core/isa.hpp"
#include "core/parallel.hpp"

namespace schuss {
namespace {

/// A thread gets at least this many elements: less is done sooner than a sleeping thread wakes up.
constexpr Index grain = 16384;

/// Of the sweeps over matrices, the one that writes.
constexpr int last_sweep = -1;

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
      hyper_(at(groups), std::vector<double>(max_hyper + 4)),
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
    per_tensor_.assign(n, 1);
    call_.reserve(n);

    for (std::size_t i = 0; i < n; ++i) {
        const View& view = bound_[i];
        const Dtype compute = computes_in_double(view) ? Dtype::float64 : Dtype::float32;
        Tensor& tensor = tensor_[i];
        tensor.p = {view.data, nullptr, view.dtype};
        native_[i] = view.dtype == compute;
        remember(view.data, view.elements() * item_size(view.dtype));
        tensor.stream = streams[i];
        tensor.rows = view.shape.size() > 1 ? double(view.shape[0]) : 0;
        tensor.row = view.elements() / std::max<Index>(1, view.shape.size() > 1 ? view.shape[0] : 1);
        tensor.stage = &stage_;
        tensor.matrix_rows = 1;
        tensor.columns = std::max<Index>(1, view.elements());
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

    unit_ = units(compiled.scope == Scope::row);
    if (compiled.scope == Scope::all) unit_ = {std::vector<Index>(n, 0), std::vector<Index>(n, 1), 1};
    remember(reinterpret_cast<const std::byte*>(scalars), unit_.count * compiled.scalars * Index(sizeof *scalars));
    remember(reinterpret_cast<const std::byte*>(counts), Index((n + 1) * sizeof *counts));
    sort_intervals();
    cut_ = cut(unit_);
    static_cast<Units&>(by_tensor_) = units(false);
    by_tensor_.cut = cut(by_tensor_);

    sizes_.assign(at(unit_.count), 0.0);
    for (std::size_t i = 0; i < n && compiled.scope != Scope::all; ++i)
        for (Index unit = 0; unit < unit_.of[i]; ++unit)
            sizes_[at(unit_.first[i] + unit)] = double(bound_[i].elements() / unit_.of[i]);
    partials_.assign(at(cut_.partials * compiled.partial_stride), 0.0);
    sums_.assign(at(unit_.count * compiled.sums), 0.0);
    variant_of_.assign(n, variant_);
}

/// Tensors, or their entries along the first axis, numbered in the caller's order.
Plan::Units Plan::units(bool rows) const {
    Units result;
    for (const View& view : bound_) {
        result.first.push_back(result.count);
        result.of.push_back(rows && view.shape.size() > 1 ? view.shape[0] : 1);
        result.count += result.of.back();
    }
    return result;
}

/// Cuts every tensor into chunks of one size, or of whole rows where several fit.
Plan::Cut Plan::cut(const Units& units) const {
    Cut result{{}, std::vector<Index>(bound_.size()), std::vector<Index>(bound_.size())};
    for (const Index i : order_) {
        const Index size = bound_[at(i)].elements();
        const Index row = units.of[at(i)] > 0 ? size / units.of[at(i)] : size;
        const bool whole = row < size && row <= chunk_size;
        const Index step = whole ? chunk_size / row * row : chunk_size;
        result.first[at(i)] = Index(result.chunk.size());
        for (Index first = 0; first < size;) {
            const Index row_number = first / row;
            const Index end = std::min(first + step, whole ? size : (row_number + 1) * row);
            const Index unit = units.first[at(i)] + row_number;
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
    if (options.by_rows && by_row_.count == 0) {
        Survey by_row;
        static_cast<Units&>(by_row) = units(true);
        by_row.cut = cut(by_row);
        by_row_ = std::move(by_row);
        selected_.clear();
    }
    if (selected_ == active_ && selected_threads_ == threads_allowed(options)) return;
    selected_.clear();  // where an allocation fails, half a choice must not pass for a whole one in the next step

    cut_tiles();
    Index elements = 0;
    for (std::size_t i = 0; i < bound_.size(); ++i) elements += active_[i] ? bound_[i].elements() : 0;
    const int threads = threads_for(elements, options);
    const Compiled& compiled = rule();
    if (compiled.scope == Scope::all) sizes_.front() = double(elements);
    for (Survey* const survey : {&by_tensor_, &by_row_}) {
        survey->run.clear(false);
        for (const Index i : order_)
            if (active_[at(i)] && survey->count > 0) append(survey->run, survey->cut, i, 0, survey->cut.count[at(i)]);
    }

    // Without sums chunks are free of one another. With them a unit belongs to one thread unless it is a good part of a
    // thread's work: so there are few shared units, and each of them can pay for the threads' meetings.
    const bool meets = compiled.sums > 0 && threads > 1;
    const Index limit = std::max(2 * chunk_size, elements / (8 * threads));
    own_.clear(compiled.sums > 0);
    shared_.clear();
    for (const Index i : order_) {
        if (!active_[at(i)]) continue;
        const Index chunks = cut_.count[at(i)], units = compiled.across ? 1 : unit_.of[at(i)];
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
    selected_threads_ = threads_allowed(options);
    selected_ = active_;
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
        if (layout_first_.empty()) {
            std::vector<std::size_t> first{0};
            for (const View& each : bound_) first.push_back(first.back() + operands * 2 * (each.shape.size() + 1));
            layout_numbers_.assign(first.back(), 0);
            layout_first_ = std::move(first);
        }
        layout.shape = layout_numbers_.data() + layout_first_[at(tensor)] + at(operand) * room;
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
    return schuss::threads_allowed(options.threads);
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

void Plan::make_calls(const Options& options) {
    const Compiled& compiled = rule();
    call_.clear();
    const double sign = options.sign * (stage_.prepares ? 1 : stage_.prescale);
    const bool anything = stage_.prepares || stage_.spread != 0 || stage_.average != 0 || !row_factors_.empty();
    int group = -1;
    double t = -1, factor = 1;
    for (const Index i : order_) {
        if (!active_[at(i)]) continue;
        // Rules with sums over all tensors have one clock, the optimizer's; elsewhere every tensor has its own.
        const double own = double((compiled.scope == Scope::all ? counts_[bound_.size()] : counts_[i]) + 1);
        // (A factor that is NaN is none that the call before could have.)
        if (group_of_[at(i)] != group || own != t || !(per_tensor_[at(i)] == factor)) {
            group = group_of_[at(i)];
            t = own;
            factor = per_tensor_[at(i)];
            const std::vector<double>& hyper = hyper_[at(group)];
            const double* const around = hyper.data() + compiled.hypers;
            const std::uint64_t seed = compiled.seed < 0 ? 0 : std::uint64_t(hyper[at(compiled.seed)]);
            call_.push_back(
                {t, sign * factor, hyper.data(), given_.data(), seed, around[0], around[1], around[2], around[3]});
        }
        Tensor& tensor = tensor_[at(i)];
        const Call& call = call_.back();
        tensor.call = &call;
        const Dtype compute = computes_in_double(bound_[at(i)]) ? Dtype::float64 : Dtype::float32;
        const auto direct = [compute](const Operand& operand) { return !operand.layout && operand.dtype == compute; };
        const bool staged = anything || call.l2 != 0 || call.l1 != 0 || call.decay != 0 || call.shrink != 0;
        tensor.plain = native_[at(i)] && !staged && !tensor.bounded && compiled.operands.draws == 0 && direct(tensor.g);
        for (int s = 0; s < compiled.operands.inputs; ++s) tensor.plain = tensor.plain && direct(tensor.slot[s]);
    }
}

void Plan::set_box(Index tensor, double lower, double upper) {
    Tensor& t = tensor_[at(tensor)];
    t.bounded = true;
    t.lower = lower;
    t.upper = upper;
}

void Plan::set_decay(Index tensor, bool decays, const View* anchor) {
    Tensor& t = tensor_[at(tensor)];
    t.decays = decays;
    if (anchor) t.anchor = {anchor->data, nullptr, anchor->dtype};
}

void Plan::set_averages(const std::vector<View>& averages) {
    for (std::size_t i = 0; i < std::min(averages.size(), tensor_.size()); ++i) {
        const View& average = averages[i];
        tensor_[i].average = {average.data, nullptr, average.dtype};
        remember(average.data, average.elements() * item_size(average.dtype));
    }
    sort_intervals();
}

void Plan::sort_intervals() {
    std::sort(interval_.begin(), interval_.end(), [](Interval a, Interval b) { return a.low < b.low; });
}

void Plan::begin(const Options& options, double prescale) {
    select(options);
    stage_.prescale = prescale;
    if (factored_) {
        std::fill(per_tensor_.begin(), per_tensor_.end(), 1.0);
        for (Tensor& tensor : tensor_) tensor.row_scale = nullptr;
        row_factors_.clear();
        factored_ = false;
    }
    if (!stage_.centred) return;
    stage_.prepares = false;  // the means are those of the gradient as it came
    means_ = norms(options, Norm::sum, 1, 1, false);
    stage_.prepares = true;
    for (std::size_t i = 0; i < tensor_.size(); ++i) {
        if (tensor_[i].rows == 0) continue;
        double* const mean = means_.data() + by_row_.first[i];
        for (Index row = 0; row < by_row_.of[i]; ++row) mean[row] = prescale * mean[row] / double(tensor_[i].row);
        tensor_[i].row_mean = mean;
    }
}

std::vector<double> Plan::norms(const Options& options, Norm norm, double power, double scale, bool weights) {
    const AllStages& stages = *isa().stages;
    const Survey& of = survey(options);
    survey_partials_.resize(at(of.cut.partials));
    const Run& run = of.run;
    over_chunks(run, options, [&](Index begin, Index end, int is_double) {
        const auto measure = is_double ? stages.float64.measure : stages.float32.measure;
        Tensor copy;
        for (Index c = begin; c < end;) {
            const Chunk& first = run.chunk[at(c)];
            const Tensor* tensor = &tensor_[at(first.tensor)];
            if (weights) {
                copy.g = tensor->p;
                copy.stage = nullptr;
                tensor = &copy;
            }
            if (first.row < first.size) {
                for (Index row = 0; row * first.row < first.size; ++row)
                    measure(*tensor, norm, power, first.first + row * first.row, first.row, scale,
                            &survey_partials_[at(first.partial + row)]);
                ++c;
                continue;
            }
            Index size = 0;
            for (; c < end && run.chunk[at(c)].unit == first.unit; ++c) size += run.chunk[at(c)].size;
            measure(*tensor, norm, power, first.first, size, scale, &survey_partials_[at(first.partial)]);
        }
    });
    std::vector<double> units(at(of.count), 0.0);
    for (const Chunk& chunk : run.chunk)
        for (Index row = 0; row * chunk.row < chunk.size; ++row) {
            double& unit = units[at(chunk.unit + row)];
            const double partial = survey_partials_[at(chunk.partial + row)];
            if (norm == Norm::largest)
                unit = partial > unit || partial != partial ? partial : unit;
            else
                unit += partial;
        }
    return units;
}

/// Adds units up tensor by tensor, in the caller's order.
double Plan::total(const Survey& survey, const std::vector<double>& units) const {
    double total = 0;
    for (std::size_t i = 0; i < bound_.size(); ++i) {
        if (!active_[i]) continue;
        double of_tensor = 0;
        for (Index unit = 0; unit < survey.of[i]; ++unit) of_tensor += units[at(survey.first[i] + unit)];
        total += of_tensor;
    }
    return total;
}

Outcome Plan::measure(const Options& options) {
    const Survey& of = survey(options);
    Outcome outcome;
    outcome.measured = true;
    const struct Restored {
        bool& flag;
        bool value;
        ~Restored() { flag = value; }
    } prepares{stage_.prepares, std::exchange(stage_.prepares, false)};  // a limit would hide infinity
    scale_ = 1;
    squares_ = norms(options, Norm::squares, 2, scale_, false);
    double sum = total(of, squares_);
    if (!std::isfinite(sum) && of.run.floats < Index(of.run.chunk.size())) {
        // Finite doubles may have infinite squares: 2^-600 brings every one of them into range.
        scale_ = 0x1p-600;
        squares_ = norms(options, Norm::squares, 2, scale_, false);
        sum = total(of, squares_);
    }
    scale_ /= std::abs(stage_.prescale);
    outcome.norm = std::sqrt(sum) / scale_;
    const bool given_finite = std::all_of(given_.begin(), given_.end(), [](double x) { return std::isfinite(x); });
    if (!std::isfinite(sum) || !given_finite) {
        for (std::size_t i = 0; i < bound_.size() && outcome.nonfinite_tensor < 0; ++i)
            for (Index unit = 0; active_[i] && unit < of.of[i]; ++unit)
                if (!std::isfinite(squares_[at(of.first[i] + unit)])) outcome.nonfinite_tensor = Index(i);
        if (options.nonfinite == Nonfinite::raise) outcome.status = Outcome::Status::nonfinite;
        if (options.nonfinite == Nonfinite::skip) outcome.status = Outcome::Status::skipped;
    }
    return outcome;
}

void Plan::set_factors(const Options& options, const std::vector<double>& factors) {
    const Survey& of = survey(options);
    if (factors.size() != 1 && factors.size() != at(of.count))
        throw std::invalid_argument("there must be one factor, or one for every unit");
    const bool by_rows = options.by_rows && factors.size() != 1;
    factored_ = true;
    if (by_rows) row_factors_ = factors;
    for (std::size_t i = 0; i < tensor_.size(); ++i) {
        if (by_rows && tensor_[i].rows != 0)
            tensor_[i].row_scale = row_factors_.data() + of.first[i];
        else if (of.of[i] > 0)
            per_tensor_[i] = factors.size() == 1 ? factors.front() : factors[at(of.first[i])];
    }
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

void Plan::step(const Options& options) {
    const Compiled& compiled = rule();
    make_calls(options);

    if (compiled.pass[0]) over_tiles(options, last_sweep, 0);
    const AllStages& stages = *isa().stages;
    const auto job = [&](const Run& run, int sweep, int is_double) {
        const void* const typed = is_double ? static_cast<const void*>(&stages.float64) : &stages.float32;
        return Job{tensor_.data(),   run.chunk.data(), typed, sizes_.data(), sums_.data(),
                   partials_.data(), scalars_,         sweep, nullptr,       0};
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
    if (compiled.whole[0])
        over_chunks(own_, options, [&](Index begin, Index end, int is_double) {
            compiled.whole[is_double](job(own_, 0, is_double), begin, end);
        });

    bool first = true;
    for (std::size_t i = 0; i < bound_.size(); ++i) {
        if (!active_[i]) continue;
        const int is_double = computes_in_double(bound_[i]);
        const bool commits = compiled.scalars > 0 && unit_.of[i] > 0 && (compiled.scope != Scope::all || first);
        if (commits)
            compiled.commit[is_double](job(own_, 0, is_double), *tensor_[i].call, unit_.first[i],
                                       unit_.first[i] + unit_.of[i]);
        first = false;
        ++counts_[i];
    }
    ++counts_[bound_.size()];
}

// ---- matrices ----------------------------------------------------------------------------------------------------

const Compiled& Plan::rule_of(Index tensor) const {
    return isa().rules[rule_]->variant[variant_of_[at(tensor)]];
}

void Plan::set_matrix(Index tensor, bool matrix, Index rows, Index columns) {
    const Rule& compiled = *isa().rules[rule_];
    const View& view = bound_.at(at(tensor));
    if (rows < 1 || columns < 1 || (view.elements() > 0 && view.elements() % (rows * columns) != 0))
        throw std::invalid_argument("the tensor is not made of such matrices");
    tensor_[at(tensor)].matrix_rows = rows;
    tensor_[at(tensor)].columns = columns;
    const unsigned flags = rule().flags | (compiled.shaped && matrix ? 1U << (compiled.flag_count - 1) : 0U);
    for (int v = 0; v < compiled.count; ++v)
        if (compiled.variant[v].flags == flags) variant_of_[at(tensor)] = at(v);
    tiles_of_.clear();
    selected_.clear();
}

/// Cuts matrices into tiles of whole rows where these are short, and lists those of the active tensors.
void Plan::cut_tiles() {
    if (!rule().pass[0]) return;
    if (tiles_of_.empty()) {
        std::vector<std::vector<Tile>> tiles(bound_.size());
        Index row_partials = 0, column_partials = 0;
        for (std::size_t i = 0; i < bound_.size(); ++i) {
            const Tensor& tensor = tensor_[i];
            const Index width = std::min(tensor.columns, chunk_size), across = (tensor.columns + width - 1) / width;
            const Index height = std::max<Index>(4 * chunk_size / width, tile_rows);
            const Index all_rows = bound_[i].elements() / tensor.columns;
            for (Index row = 0; row < all_rows;) {
                const Index end = std::min(row + height, (row / tensor.matrix_rows + 1) * tensor.matrix_rows);
                for (Index k = 0; k < across; ++k) {
                    const Index columns = std::min(width, tensor.columns - k * width);
                    tiles[i].push_back({Index(i), row * tensor.columns + k * width, end - row, columns,
                                        row_partials + row * across + k, across, column_partials});
                    column_partials += columns;
                }
                row = end;
            }
            row_partials += all_rows * across;
        }
        tiles_of_ = std::move(tiles);
        row_partials_ = row_partials;
        column_partials_ = column_partials;
    }
    tile_.clear();
    tile_before_.assign(1, 0);
    for (const Index i : order_)
        for (const Tile& tile : tiles_of_[at(i)]) {
            if (!active_[at(i)]) break;
            tile_.push_back(tile);
            tile_before_.push_back(tile_before_.back() + tile.rows * tile.columns);
        }
}

/// Runs a sweep over the tiles of the active tensors, each with the sweeps that it has.
void Plan::over_tiles(const Options& options, int sweep, int terms) {
    const Index tiles = Index(tile_.size()), elements = tile_before_.back();
    if (tiles == 0) return;
    const AllStages& stages = *isa().stages;
    parallel(threads_for(elements, options), options.flush_subnormals, [&](int thread, int of) {
        const auto edge = [&](int k) {
            if (k == of) return tiles;
            const auto found = std::lower_bound(tile_before_.begin(), tile_before_.end(), elements * k / of);
            return std::min(Index(found - tile_before_.begin()), tiles);
        };
        const auto kernel_of = [&](Index tile) {
            const Index tensor = tile_[at(tile)].tensor;
            return std::pair(&rule_of(tensor), computes_in_double(bound_[at(tensor)]));
        };
        for (Index begin = edge(thread), end, last = edge(thread + 1); begin < last; begin = end) {
            const auto [compiled, is_double] = kernel_of(begin);
            for (end = begin + 1; end < last && kernel_of(end) == std::pair(compiled, is_double);) ++end;
            if (sweep >= compiled->passes) continue;
            const void* const typed = is_double ? static_cast<const void*>(&stages.float64) : &stages.float32;
            const int own = sweep == last_sweep ? compiled->passes : sweep;
            const Job job{tensor_.data(),      nullptr, typed, nullptr, nullptr, partials_.data(), nullptr, own,
                          column_sums_.data(), terms};
            compiled->pass[is_double](job, tile_.data() + begin, tile_.data() + end);
        }
    });
}

/// Adds the tiles' sums up, in their order, which no number of threads changes.
void Plan::add_up(int number, Index terms) {
    for (std::size_t i = 0; i < bound_.size(); ++i) {
        const Compiled& compiled = rule_of(Index(i));
        if (!active_[i] || number >= compiled.passes) continue;
        const Fold& fold = compiled.fold[number];
        Folded& folded = folded_[i];
        folded.terms = fold.terms;
        const Tensor& tensor = tensor_[i];
        const Index rows = bound_[i].elements() / tensor.columns;
        const Index columns = rows / tensor.matrix_rows * tensor.columns;
        folded.rows.assign(at(fold.terms * rows), 0.0);
        folded.columns.assign(at(fold.columns ? fold.terms * columns : 0), 0.0);
        const auto join = [&](double& sum, double part) {
            if (fold.largest)
                sum = part > sum || part != part ? part : sum;
            else
                sum += part;
        };
        for (const Tile& tile : tiles_of_[i]) {
            const Index row = tile.first / tensor.columns, column = tile.first % tensor.columns;
            for (Index k = 0; k < fold.terms; ++k) {
                for (Index r = 0; r < tile.rows; ++r)
                    join(folded.rows[at(k * rows + row + r)],
                         partials_[at((tile.row_partial + r * tile.row_stride) * terms + k)]);
                if (!fold.columns) continue;
                double* const to =
                    &folded.columns[at(k * columns + row / tensor.matrix_rows * tensor.columns + column)];
                const double* const from = &column_sums_[at(tile.column_partial * terms + k * tile.columns)];
                for (Index j = 0; j < tile.columns; ++j) join(to[j], from[j]);
            }
        }
    }
}

int Plan::passes() const {
    int most = 0;
    for (std::size_t i = 0; i < bound_.size(); ++i)
        if (active_[i]) most = std::max(most, rule_of(Index(i)).passes);
    return most;
}

void Plan::pass(const Options& options, int number) {
    if (number == 0) make_calls(options);
    int terms = 0;
    bool columns = false;
    for (std::size_t i = 0; i < bound_.size(); ++i) {
        const Fold& fold = rule_of(Index(i)).fold[number];
        terms = std::max(terms, fold.terms);
        columns = columns || fold.columns;
    }
    partials_.resize(std::max(partials_.size(), at(terms * row_partials_)));
    if (columns) column_sums_.resize(std::max(column_sums_.size(), at(terms * column_partials_)));
    folded_.resize(bound_.size());
    over_tiles(options, number, terms);
    add_up(number, terms);  // also where there is nothing to add: the sums before are another sweep's
}

void Plan::set_work(Index tensor, int slot, std::byte* data) {
    const Dtype compute = computes_in_double(bound_.at(at(tensor))) ? Dtype::float64 : Dtype::float32;
    tensor_[at(tensor)].slot[rule().operands.first_work() + slot] = {data, nullptr, compute};
}

void Plan::set_numbers(Index tensor, const std::vector<double>& numbers) {
    std::copy_n(numbers.begin(), std::min(numbers.size(), at(max_numbers)), tensor_.at(at(tensor)).number);
}

}  // namespace schuss
