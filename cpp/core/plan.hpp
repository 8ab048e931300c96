/// A plan: validated parameters and state cut into chunks once, and the step over them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/kernel.hpp"

namespace schuss {

using Index = std::int64_t;

/// An array as its owner describes it.
struct View {
    std::byte* data = nullptr;
    Dtype dtype = Dtype::float32;
    bool complex = false;               ///< pairs of `dtype`
    bool f_order = false;               ///< contiguous in Fortran's order and not in C's
    std::vector<Index> shape, strides;  ///< strides in bytes

    Index elements() const;  ///< real ones: a complex number counts as two
};

Index item_size(Dtype dtype);

enum class Nonfinite { propagate, raise, skip };

struct Options {
    double sign = 1;       ///< -1 to ascend
    bool by_rows = false;  ///< norms are those of rows, not of tensors
    Nonfinite nonfinite = Nonfinite::propagate;
    bool flush_subnormals = false;
    int threads = 0;  ///< 0: the package's
};

struct Outcome {
    enum class Status { done, skipped, nonfinite } status = Status::done;
    bool measured = false;        ///< were the gradients read before the step?
    double norm = 0;              ///< of all gradients, before clipping
    Index nonfinite_tensor = -1;  ///< the first whose gradient is not finite
};

class Plan {
public:
    /// `state[slot][tensor]` are the rule's element slots after its inputs; a null pointer where it keeps none.
    /// `streams[tensor]` chooses the normal numbers that a rule draws. `scalars` holds the values of one unit side by
    /// side; `counts` the steps of each tensor and, last, of the optimizer.
    Plan(int rule, unsigned flags, std::vector<View> parameters, std::vector<int> group_of, int groups,
         const std::vector<std::uint64_t>& streams, const std::vector<std::vector<View>>& state, double* scalars,
         std::int64_t* counts);

    const Compiled& rule() const;
    Index groups() const { return Index(hyper_.size()); }
    Index tensors() const { return Index(bound_.size()); }
    const View& parameter(Index tensor) const { return bound_[std::size_t(tensor)]; }

    /// For rules over matrices: whether a tensor is stepped as such, and the rows and columns of each of the matrices
    /// that lie in it one after the other.
    void set_matrix(Index tensor, bool matrix, Index rows, Index columns);

    Plan(const Plan&) = delete;  // tensors point to the stage
    Plan& operator=(const Plan&) = delete;

    /// The hyper-parameters of a group: the rule's, then l2, l1, the rate of decay and the proximal threshold.
    void set_hyper(int group, const std::vector<double>& values);

    /// What surrounds the rule in the next steps; `prepares` and `centred` decide what norms are.
    void set_stage(const Stage& stage) { stage_ = stage; }
    void set_box(Index tensor, double lower, double upper);
    void set_noise(Index tensor, std::uint64_t stream) { tensor_[std::size_t(tensor)].noise_stream = stream; }
    /// Where a tensor decays to, if at all: an array of its shape and memory order, or null for 0.
    void set_decay(Index tensor, bool decays, const View* anchor);
    /// The arrays that running averages of the tensors are kept in; without data where there is none. Set once.
    void set_averages(const std::vector<View>& averages);

    /// The numbers that come with the next step.
    void set_given(const std::vector<double>& values) { std::copy(values.begin(), values.end(), given_.begin()); }

    /// Gives a tensor its gradient (operand 0) or an input (operand 1, 2, ...), of the parameter's shape and memory
    /// order.
    void bind(Index tensor, int operand, std::byte* data, Dtype dtype);
    /// The same for an array of any strides (in bytes, in the order of the shape).
    void bind(Index tensor, int operand, std::byte* data, Dtype dtype, const Index* strides);
    void set_active(Index tensor, bool active) { active_[std::size_t(tensor)] = active; }
    bool active(Index tensor) const { return active_[std::size_t(tensor)]; }

    /// Keeps memory from gradients and inputs.
    void protect(const std::byte* data, Index bytes) {
        remember(data, bytes);
        sort_intervals();
    }

    /// Does [low, high) touch a parameter, a state array, an average or other memory that is protected?
    bool overlaps(const std::byte* low, const std::byte* high) const;

    /// Chooses what the next step runs over, and takes the means of rows where gradients are centred. The first of
    /// three parts of a step, of which only the last one writes.
    void begin(const Options& options, double prescale);
    /// Reads all gradients: their norm, and whether they are finite.
    Outcome measure(const Options& options);
    /// The sums of squares that `measure` found, per unit (a row or a tensor): of the gradients as they came, times
    /// `scale` twice.
    const std::vector<double>& squares(double& scale) const {
        scale = scale_;
        return squares_;
    }
    /// The same for any norm, of the prepared gradients or of the weights.
    std::vector<double> norms(const Options& options, Norm norm, double power, double scale, bool weights);
    /// Units of every tensor.
    Index rows(const Options& options, Index tensor) const { return survey(options).of[std::size_t(tensor)]; }
    /// Multiplies the gradients of the next step: one factor, or one for every unit.
    void set_factors(const Options& options, const std::vector<double>& factors);
    /// Steps the active tensors.
    void step(const Options& options);

    /// The sweeps over matrices before that, with work in between: how many there are, one of them, the arrays (of the
    /// compute type, in the parameter's memory order) and numbers that the work is done on, and what rows and columns
    /// add up to.
    int passes() const;
    void pass(const Options& options, int number);
    void set_work(Index tensor, int slot, std::byte* data);
    void set_numbers(Index tensor, const std::vector<double>& numbers);
    struct Folded {
        Index terms = 0;
        std::vector<double> rows, columns;  ///< all of the first term, then those of the next
    };
    const Folded& folded(Index tensor) const { return folded_.at(std::size_t(tensor)); }

private:
    struct Interval {
        const std::byte *low, *high;
    };
    /// Keeps an array's memory from gradients and inputs.
    void remember(const std::byte* data, Index bytes) {
        if (data && bytes > 0) interval_.push_back({data, data + bytes});
    }
    void sort_intervals();
    /// All tensors cut into chunks, in the order in which they run, and where each tensor's are.
    struct Cut {
        std::vector<Chunk> chunk;
        std::vector<Index> first, count;
        Index partials = 0;  ///< one per row where a chunk holds several, else one per chunk
    };
    /// Chunks that are run in one go.
    struct Run {
        std::vector<Chunk> chunk;
        std::vector<Index> before;  ///< elements before each of them
        Index floats = 0;           ///< how many of them compute in float; the rest in double
        bool whole_units = false;   ///< threads are to get whole units, or whole tensors where rows are added up
        void clear(bool whole_units);
    };

    /// What a sum runs over: `of[tensor]` units from number `first[tensor]` on.
    struct Units {
        std::vector<Index> first, of;
        Index count = 0;
    };
    /// Units of gradients that norms are taken of.
    struct Survey : Units {
        Cut cut;
        Run run;  ///< all active chunks
    };

    Units units(bool rows) const;
    Cut cut(const Units& units) const;
    const Survey& survey(const Options& options) const { return options.by_rows ? by_row_ : by_tensor_; }
    double total(const Survey& survey, const std::vector<double>& units) const;
    void append(Run& run, const Cut& cut, Index tensor, Index begin, Index end) const;
    void select(const Options& options);
    static Index threads_allowed(const Options& options);
    static int threads_for(Index elements, const Options& options);
    template <class Body>
    void over_chunks(const Run& run, const Options& options, const Body& body) const;
    void make_calls(const Options& options);
    void combine(int sweep, int sums_before);
    const Compiled& rule_of(Index tensor) const;
    void cut_tiles();
    void over_tiles(const Options& options, int sweep, int terms);
    void add_up(int number, Index terms);

    int rule_;
    std::size_t variant_ = 0;
    std::vector<View> bound_;
    std::vector<int> group_of_;
    std::vector<std::vector<double>> hyper_;
    std::vector<double> given_;
    double* scalars_;
    std::int64_t* counts_;

    std::vector<Tensor> tensor_;
    std::vector<char> active_, native_;  ///< native: parameter and state have the compute type
    std::vector<Index> order_;           ///< tensors sorted by compute type, then group: the order of the chunks
    Cut cut_;
    Survey by_tensor_, by_row_;  ///< the latter only where a step asks for it
    Run own_;                    ///< units that one thread steps, all sweeps of one after the other
    std::vector<Run> shared_;  ///< large units (tensors where rows are added up), one run each, which all threads step
                               ///< sweep by sweep
    std::vector<char> selected_;
    Index selected_threads_ = 0;  ///< the active tensors and the threads allowed, for which the runs were made
    Units unit_;                  ///< of the rule's sums

    std::vector<std::size_t> variant_of_;      ///< per tensor, of rules over matrices
    std::vector<std::vector<Tile>> tiles_of_;  ///< per tensor; empty until the first step
    std::vector<Tile> tile_;                   ///< of the active tensors
    std::vector<Index> tile_before_;           ///< elements before each of them
    Index row_partials_ = 0, column_partials_ = 0;
    std::vector<double> column_sums_;
    std::vector<Folded> folded_;

    Stage stage_;
    std::vector<double> squares_, factors_, means_, row_factors_;
    std::vector<double> per_tensor_;  ///< what each tensor's gradient is multiplied with
    double scale_ = 1;
    bool factored_ = false;

    std::vector<Layout> layout_;  ///< per tensor: of the gradient and of each input
    std::vector<Index> layout_numbers_;
    std::vector<std::size_t> layout_first_;  ///< per tensor: where its layouts' numbers are
    std::vector<Call> call_;
    std::vector<double> sizes_, sums_, partials_, survey_partials_;
    std::vector<Interval> interval_;
};

}  // namespace schuss
