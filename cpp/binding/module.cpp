/// All that Python sees of the compiled part: rules, instruction sets, threads, and plans.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>

#include "binding/arrays.hpp"
#include "binding/gil.hpp"
#include "binding/guard.hpp"
#include "binding/tools.hpp"
#include "binding/tree.hpp"
#include "binding/whole.hpp"
#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "core/plan.hpp"
#include "core/registry.hpp"

namespace schuss {
namespace {

/// A plan bound to Python's arrays: holds them, checks them at every step, and reads gradients from the same nesting.
class Binding {
public:
    Binding(std::string owner, std::shared_ptr<Guard> guard, int rule, unsigned flags, const py::object& tree,
            std::vector<std::string> paths, std::vector<py::object> parameters, std::vector<int> group_of, int groups,
            const std::vector<std::uint64_t>& streams, const std::vector<std::vector<py::object>>& state,
            const py::array_t<double>& scalars, const py::array_t<std::int64_t>& counts, bool uint16_is_bfloat16)
        : owner_(std::move(owner)),
          guard_(std::move(guard)),
          tree_(tree),
          paths_(std::move(paths)),
          parameters_(std::move(parameters)),
          state_(state),
          scalars_(scalars),
          counts_(counts),
          uint16_is_bfloat16_(uint16_is_bfloat16),
          plan_(rule, flags, views(), std::move(group_of), groups, streams, state_views(), scalars_.mutable_data(),
                counts_.mutable_data()) {
        free_.resize(std::size_t(plan_.tensors() * (1 + plan_.rule().operands.inputs)));
        for (Index i = 0; i < plan_.tensors(); ++i)
            all_elements_ += plan_.parameter(i).elements() * (1 + plan_.rule().operands.inputs);
        always_holds_leaves_ = has_no_gil || all_elements_ > short_step || tree_.runs_code();
        for (Index i = 0; i < plan_.tensors(); ++i)
            if (plan_.rule().scope == Scope::row && plan_.parameter(i).f_order)
                throw py::buffer_error(who("params", i) +
                                       " is in Fortran order, but its rows must lie side by side; pass a C-contiguous "
                                       "array");
    }

    int step(const py::handle& gradients, const py::typing::Tuple<py::object, py::ellipsis>& inputs,
             const std::vector<double>& given, double scale) {
        const Inside inside(*guard_, true);
        return step_within(gradients, inputs, given, scale, py::none(), py::none());
    }

    /// The same for a caller who is inside already, as one is with more to do around the step.
    int step_within(const py::handle& gradients, const py::typing::Tuple<py::object, py::ellipsis>& inputs,
                    const std::vector<double>& given, double scale, const py::object& factors, const py::object& work) {
        if (!suspended_.empty()) throw std::runtime_error(owner_ + ": " + suspended_);
        plan_.set_given(given);
        const Index n = plan_.tensors();
        elements_ = 0;
        // Where other code runs before the step ends, it may take the gradients out of their tree.
        const Held held(leaves_held_), work_held(work_held_);
        holds_leaves_ = always_holds_leaves_ || !factors.is_none() || !work.is_none();
        scalars_held_.clear();
        for (Index i = 0; i < n; ++i) {
            plan_.set_active(i, true);
            check_parameter(i);
        }
        read(gradients, 0, "grads");
        for (std::size_t k = 0; k < inputs.size(); ++k) read(inputs[k], int(k) + 1, plan_.rule().slot[k]);
        if (elements_ == 0 && !any_active()) return 0;

        const std::int64_t steps_before = *counts_.data(n);
        Outcome outcome;
        Copies results;
        py::object undo, finish = py::none();
        const bool reads = options_.nonfinite != Nonfinite::propagate || !factors.is_none();
        without_gil(elements_, [&] {
            plan_.begin(options_, scale);
            if (reads) outcome = plan_.measure(options_);
            if (outcome.status == Outcome::Status::done && factors.is_none() && work.is_none()) plan_.step(options_);
        });
        if (outcome.status == Outcome::Status::done && !(factors.is_none() && work.is_none())) {
            deciding_ = true;
            const Decided decided(*this);
            if (!factors.is_none())
                plan_.set_factors(options_, factors(outcome.norm, std::abs(scale)).cast<std::vector<double>>());
            if (!work.is_none()) {
                work(0);
                for (int k = 0; k < plan_.passes(); ++k) {
                    without_gil(elements_, [&] { plan_.pass(options_, k); });
                    work(k + 1);
                }
                const auto [copies, kept, after] = work(-1).cast<Results>();
                results = Copies(copies);
                undo = kept;
                finish = after;
            }
            without_gil(elements_, [&] { plan_.step(options_); });
            results.make();
            if (!finish.is_none()) {
                const Undo& before = undo.cast<const Undo&>();
                try {
                    finish();
                } catch (...) {
                    before.restore();
                    throw;
                }
            }
        }
        nonfinite_tensor_ = outcome.nonfinite_tensor;
        std::int64_t* const skips = skips_.mutable_data();  // in all, and in a row
        if (outcome.status == Outcome::Status::nonfinite) return refused;
        if (outcome.status == Outcome::Status::skipped) {
            if (most_skips_ >= 0 && skips[1] >= most_skips_) return refused;
            ++skips[0];
            ++skips[1];
        } else {
            skips[1] = 0;
        }
        // That of a step that was refused stays unknown.
        const std::lock_guard lock(outcome_mutex_);
        outcome_ = {outcome, steps_before, outcome_.number + 1};
        return int(outcome.status);
    }

    /// Counts skipped steps in an array of two, in all and in a row; more in a row than `most` are refused.
    void count_skips(const py::array_t<std::int64_t>& skips, std::int64_t most) {
        if (skips.size() != 2) throw std::invalid_argument("there must be two counts");
        skips_ = skips;
        skips_.mutable_data();  // which must be writeable
        most_skips_ = most;
    }

    /// For `factors`, which `step` calls: what the gradients' norms are made of.
    std::pair<py::array_t<double>, double> squares() const {
        require_deciding();
        double scale = 1;
        const std::vector<double>& found = plan_.squares(scale);
        return {py::array_t<double>(py::ssize_t(found.size()), found.data()), scale};
    }

    py::array_t<double> norms(int norm, double power, double scale, bool weights) {
        require_deciding();
        std::vector<double> found;
        without_gil(elements_, [&] { found = plan_.norms(options_, Norm(norm), power, scale, weights); });
        return py::array_t<double>(py::ssize_t(found.size()), found.data());
    }

    std::vector<Index> rows() const {
        require_deciding();
        std::vector<Index> all;
        for (Index i = 0; i < plan_.tensors(); ++i) all.push_back(plan_.rows(options_, i));
        return all;
    }

    std::vector<bool> active() const {
        require_deciding();
        std::vector<bool> all;
        for (Index i = 0; i < plan_.tensors(); ++i) all.push_back(plan_.active(i));
        return all;
    }

    /// For `work`, which `step` calls with the number of sweeps done: the arrays and numbers of a tensor.
    void set_work(Index tensor, int slot, const py::array& array) {
        require_deciding();
        work_held_.push_back(array);
        plan_.set_work(tensor, slot, static_cast<std::byte*>(const_cast<void*>(array.data())));
    }

    void set_numbers(Index tensor, const std::vector<double>& numbers) {
        require_deciding();
        plan_.set_numbers(tensor, numbers);
    }

    /// What rows and columns added up to in the last sweep, one row of the results per term.
    std::pair<py::array_t<double>, py::array_t<double>> folded(Index tensor) const {
        require_deciding();
        const Plan::Folded& found = plan_.folded(tensor);
        const auto array = [&](const std::vector<double>& values) {
            const py::ssize_t terms = std::max<py::ssize_t>(1, py::ssize_t(found.terms));
            return py::array_t<double>({terms, py::ssize_t(values.size()) / terms}, values.data());
        };
        return {array(found.rows), array(found.columns)};
    }

    void protect(const std::vector<py::array>& arrays) {
        for (const py::array& array : arrays) {
            held_.push_back(array);
            plan_.protect(static_cast<const std::byte*>(array.data()), Index(array.nbytes()));
        }
    }

    void set_matrix(Index tensor, bool matrix, Index rows, Index columns) {
        plan_.set_matrix(tensor, matrix, rows, columns);
    }

    /// What a step takes besides gradients, or else why steps are refused, ready to be set.
    struct Values {
        py::object owner;
        std::vector<std::vector<double>> hyper;
        Stage stage;
        std::optional<std::string> suspended;
    };

    static Values values(const py::object& plan, std::vector<std::vector<double>> hyper, double limit, bool centred,
                         double spread, std::uint64_t noise_seed, bool cautious, double average) {
        Stage stage;
        stage.limit = limit;
        stage.centred = centred;
        stage.prepares = centred || std::isfinite(limit);
        stage.spread = spread;
        stage.noise_seed = noise_seed;
        stage.cautious = cautious;
        stage.average = average;
        return {plan, std::move(hyper), stage, {}};
    }

    /// Lets steps be refused, for the reason given, until an empty one is.
    static Values suspended(const py::object& plan, std::string reason) { return {plan, {}, {}, std::move(reason)}; }

    /// Sets them at once. (Making an object asks for memory where pybind11 cannot raise.)
    static void set_values(const py::object& plan, std::vector<std::vector<double>> hyper, double limit, bool centred,
                           double spread, std::uint64_t noise_seed, bool cautious, double average) {
        Values all = values(plan, std::move(hyper), limit, centred, spread, noise_seed, cautious, average);
        publish({}, {&all});
    }

    /// Copies arrays into others, and sets the values of plans: all, or nothing.
    static void publish(const Copies::Pairs& pairs, const std::vector<Values*>& values) {
        for (const Values* each : values) {
            const auto& binding = each->owner.cast<Binding&>();
            if (!each->suspended && Index(each->hyper.size()) != binding.plan_.groups())
                throw std::invalid_argument("there must be values for every group");
        }
        const Copies copies(pairs);
        copies.make();
        for (Values* each : values) {
            auto& binding = each->owner.cast<Binding&>();
            if (each->suspended) {
                binding.suspended_.swap(*each->suspended);
                continue;
            }
            for (std::size_t k = 0; k < each->hyper.size(); ++k) binding.plan_.set_hyper(int(k), each->hyper[k]);
            binding.plan_.set_stage(each->stage);
        }
    }

    void set_box(Index tensor, double lower, double upper) { plan_.set_box(tensor, lower, upper); }

    void set_noise(Index tensor, std::uint64_t stream) { plan_.set_noise(tensor, stream); }

    void set_decay(Index tensor, bool decays, const py::object& anchor) {
        held_.push_back(anchor);
        const View view = anchor.is_none() ? View{} : view_of_parameter(anchor.ptr(), false, who("toward", tensor));
        plan_.set_decay(tensor, decays, anchor.is_none() ? nullptr : &view);
    }

    void set_averages(const std::vector<py::object>& averages) {
        averages_ = averages;
        std::vector<View> views;
        for (std::size_t i = 0; i < averages_.size(); ++i)
            views.push_back(view_of_parameter(averages_[i].ptr(), true, who("average", Index(i))));
        plan_.set_averages(views);
    }

    void set_options(double sign, bool by_rows, int nonfinite, bool flush_subnormals, int threads) {
        options_ = {sign, by_rows, Nonfinite(nonfinite), flush_subnormals, threads};
    }

    py::typing::Dict<py::str, py::object> outcome() const {
        using namespace py::literals;
        Done done;
        {
            const std::lock_guard lock(outcome_mutex_);
            done = outcome_;
        }
        return py::dict("measured"_a = done.outcome.measured, "norm"_a = done.outcome.norm,
                        "nonfinite_tensor"_a = nonfinite_tensor_.load(), "step"_a = done.step, "number"_a = done.number,
                        "skipped"_a = done.outcome.status == Outcome::Status::skipped);
    }

private:
    /// What `work(-1)` returns.
    using Results = std::tuple<Copies::Pairs, py::object, py::object>;

    static constexpr int refused = int(Outcome::Status::nonfinite);

    struct Extent {
        const std::byte *low = nullptr, *high = nullptr;
    };

    /// For arrays of a few numbers, where calling memcmp costs more than the comparison.
    template <class Number>
    static bool same(const std::vector<Index>& ours, const Number* theirs) {
        for (std::size_t d = 0; d < ours.size(); ++d)
            if (ours[d] != theirs[d]) return false;
        return true;
    }

    Who who(const char* what, Index i) const { return owner_ + ": " + what + paths_[std::size_t(i)]; }

    std::vector<View> views() const {
        std::vector<View> all;
        for (std::size_t i = 0; i < parameters_.size(); ++i)
            all.push_back(view_of_parameter(parameters_[i].ptr(), uint16_is_bfloat16_, who("params", Index(i))));
        refuse_overlaps(all);
        return all;
    }

    void refuse_overlaps(const std::vector<View>& all) const {
        std::vector<std::size_t> order;
        for (std::size_t i = 0; i < all.size(); ++i)
            if (all[i].elements() > 0) order.push_back(i);
        std::sort(order.begin(), order.end(), [&](auto a, auto b) { return all[a].data < all[b].data; });
        for (std::size_t k = 1; k < order.size(); ++k) {
            const View& before = all[order[k - 1]];
            if (before.data + before.elements() * item_size(before.dtype) <= all[order[k]].data) continue;
            const auto [first, second] = std::minmax(order[k - 1], order[k]);
            throw py::value_error(who("params", Index(first)) + " and params" + paths_[second] +
                                  " share memory; pass arrays that do not overlap");
        }
    }

    std::vector<std::vector<View>> state_views() const {
        std::vector<std::vector<View>> all;
        for (const auto& slot : state_) {
            auto& views = all.emplace_back();
            for (const py::object& array : slot)
                views.push_back(array.is_none() ? View{} : view_of_parameter(array.ptr(), true, owner_ + ": state"));
        }
        return all;
    }

    /// An array can be resized or frozen behind our back, at any time between two steps.
    void check_parameter(Index i) const {
        PyObject* const object = parameters_[std::size_t(i)].ptr();
        const View& bound = plan_.parameter(i);
        const auto& a = fields(object);
        const bool unmoved = reinterpret_cast<std::byte*>(a.data) == bound.data &&
                             std::size_t(a.nd) == bound.shape.size() && same(bound.shape, a.dimensions) &&
                             same(bound.strides, a.strides);
        const ArrayType type = type_of(object, uint16_is_bfloat16_);
        if (!unmoved || !type.known || type.dtype != bound.dtype || type.complex != bound.complex)
            throw py::buffer_error(who("params", i) +
                                   " was moved, resized or retyped since the optimizer was made; call rebind(params)");
        if (!(a.flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
            throw py::buffer_error(who("params", i) + " has become read-only; make it writeable again");
    }

    void read(const py::handle& object, int operand, const char* name) {
        tree_.walk(
            object.ptr(), (owner_ + ": " + name).c_str(),
            [&](Index i, PyObject* leaf) { bind(i, operand, leaf, name); },
            [&](Index i) {
                if (operand > 0 && plan_.active(i))
                    throw py::value_error(who(name, i) + " is None, but its gradient is not; pass both or neither");
                plan_.set_active(i, false);
            });
    }

    void bind(Index i, int operand, PyObject* object, const char* name) {
        if (operand > 0 && !plan_.active(i)) return;
        const View& parameter = plan_.parameter(i);
        py::object held;
        if (!is_exact_array(object)) {
            // Arithmetic on 0-d arrays yields NumPy scalars; they live until the end of the step.
            if (parameter.shape.empty() && py::isinstance(object, py::module_::import("numpy").attr("generic"))) {
                held = py::module_::import("numpy").attr("asarray")(py::handle(object));
                scalars_held_.push_back(held);
                object = held.ptr();
            }
            require_array(object, who(name, i));
        }
        if (holds_leaves_) leaves_held_.push_back(py::reinterpret_borrow<py::object>(object));
        const auto& a = fields(object);
        if (std::size_t(a.nd) != parameter.shape.size() || !same(parameter.shape, a.dimensions))
            throw py::value_error(who(name, i) + " has shape " + text(py::handle(object).attr("shape")) +
                                  ", but its parameter has shape " + text(parameters_[std::size_t(i)].attr("shape")));
        const ArrayType type = type_of(object, uint16_is_bfloat16_);
        if (!type.known) refuse_dtype(object, who(name, i));
        if (type.complex != parameter.complex)
            throw py::type_error(who(name, i) + " has dtype " + text(py::handle(object).attr("dtype")) +
                                 ", but its parameter has dtype " + text(parameters_[std::size_t(i)].attr("dtype")) +
                                 "; both must be real or both complex");
        auto* const data = reinterpret_cast<std::byte*>(a.data);
        const Index size = parameter.elements();
        using npy = py::detail::npy_api;
        const int in_order =
            npy::NPY_ARRAY_ALIGNED_ | (parameter.f_order ? npy::NPY_ARRAY_F_CONTIGUOUS_ : npy::NPY_ARRAY_C_CONTIGUOUS_);
        const bool direct = (a.flags & in_order) == in_order;
        if (size > 0) {
            const std::byte *low = data, *high = data + (type.complex ? 2 : 1) * item_size(type.dtype);
            for (int d = 0; d < a.nd; ++d) (a.strides[d] < 0 ? low : high) += (a.dimensions[d] - 1) * a.strides[d];
            // What a plan holds never moves: memory that was free of it once is free of it.
            Extent& known = free_[std::size_t(i * (1 + plan_.rule().operands.inputs) + operand)];
            const bool checked = known.low == low && known.high == high;
            if (!checked && plan_.overlaps(low, high))
                throw py::value_error(who(name, i) +
                                      " shares memory with a parameter or its state; pass a copy of the gradient");
            known = {low, high};
        }
        if (direct)
            plan_.bind(i, operand, data, type.dtype);
        else
            plan_.bind(i, operand, data, type.dtype, reinterpret_cast<const Index*>(a.strides));
        elements_ += size;
    }

    /// Lets go of what a step has held.
    struct Held {
        std::vector<py::object>& objects;
        explicit Held(std::vector<py::object>& of) : objects(of) {}
        ~Held() { objects.clear(); }
        Held(const Held&) = delete;
        Held& operator=(const Held&) = delete;
    };

    /// Ends what `step` allows to be asked while it waits for factors.
    struct Decided {
        Binding& binding;
        explicit Decided(Binding& of) : binding(of) {}
        ~Decided() { binding.deciding_ = false; }
        Decided(const Decided&) = delete;
        Decided& operator=(const Decided&) = delete;
    };

    void require_deciding() const {
        if (!deciding_) throw std::runtime_error(owner_ + ": norms are taken within a step only");
    }

    bool any_active() const {
        for (Index i = 0; i < plan_.tensors(); ++i)
            if (plan_.active(i)) return true;
        return false;
    }

    std::string owner_;
    std::shared_ptr<Guard> guard_;
    Tree tree_;
    std::vector<std::string> paths_;
    std::vector<py::object> parameters_, scalars_held_, leaves_held_, work_held_;
    std::vector<std::vector<py::object>> state_;
    py::array_t<double> scalars_;
    py::array_t<std::int64_t> counts_, skips_{2};
    std::int64_t most_skips_ = -1;
    bool uint16_is_bfloat16_;
    std::vector<Extent> free_;  ///< memory of a gradient or input that was found to overlap nothing of the plan
    std::vector<py::object> held_, averages_;
    Index elements_ = 0, all_elements_ = 0;  ///< read by the step, and by one of all tensors
    bool deciding_ = false, holds_leaves_ = false, always_holds_leaves_ = false;
    Options options_;
    struct Done {
        Outcome outcome;
        std::int64_t step = -1, number = 0;  ///< steps before the one with this outcome; outcomes so far
    } outcome_;
    mutable std::mutex outcome_mutex_;          ///< who asks for it need not be inside
    std::atomic<Index> nonfinite_tensor_ = -1;  ///< of the last step that was refused
    std::string suspended_;
    Plan plan_;
};

const char* scope_name(Scope scope) {
    switch (scope) {
        case Scope::element: return "element";
        case Scope::row: return "row";
        case Scope::tensor: return "tensor";
        case Scope::all: return "all";
    }
    return "";
}

py::list names(const char* const* name, int count) {
    py::list all;
    for (int i = 0; i < count; ++i) all.append(name[i] ? py::object(py::str(name[i])) : py::none());
    return all;
}

/// What the rules declare, for the classes to be checked against.
py::typing::Dict<py::str, py::object> rules() {
    using namespace py::literals;
    py::typing::Dict<py::str, py::object> all;
    for (int r = 0; r < rule_count(); ++r) {
        const Rule& rule = *registry().front().rules[r];
        py::dict kernels;
        const unsigned matrix = rule.shaped ? 1U << (rule.flag_count - 1) : 0U;
        for (int v = 0; v < rule.count; ++v) {
            const Compiled& each = rule.variant[v];
            if (matrix != 0 && (each.flags & matrix) != 0) continue;
            // A tensor that is stepped as a matrix may have other slots: all are listed, and which of them either has.
            const Compiled* other = &each;
            for (int w = 0; w < rule.count; ++w)
                if (rule.variant[w].flags == (each.flags | matrix)) other = &rule.variant[w];
            const Operands& operands = each.operands;
            const char* slot[max_slots];
            for (int s = 0; s < operands.slots; ++s) slot[s] = each.slot[s] ? each.slot[s] : other->slot[s];
            const int state = operands.slots - operands.first_state();
            kernels[py::int_(each.flags)] = py::dict(
                "kind"_a = each.kind, "scope"_a = scope_name(each.scope), "hyper"_a = names(each.hyper, each.hypers),
                "given"_a = names(each.given, each.givens), "inputs"_a = names(slot, operands.inputs),
                "draws"_a = names(slot + operands.inputs, operands.draws),
                "work"_a = names(slot + operands.first_work(), operands.work),
                "rows"_a = names(slot + operands.first_row(), operands.rows),
                "columns"_a = names(slot + operands.first_column(), operands.columns),
                "state"_a = names(slot + operands.first_state(), state),
                "plain"_a = names(each.slot + operands.first_state(), state),
                "matrix"_a = names(other->slot + operands.first_state(), state),
                "scalars"_a = names(each.scalar, each.scalars), "sweeps"_a = other->sweeps,
                "passes"_a = py::make_tuple(each.passes, other->passes));
        }
        all[rule.name] = py::dict("index"_a = r, "flags"_a = names(rule.flag, rule.flag_count - rule.shaped),
                                  "shaped"_a = rule.shaped, "kernels"_a = kernels);
    }
    return all;
}

}  // namespace
}  // namespace schuss

// What threadpoolctl finds the extension by, and calls (python/schuss/_runtime.py).
extern "C" {
#if defined(_WIN32)
__declspec(dllexport) int schuss_num_threads();
__declspec(dllexport) void schuss_limit_threads(int threads);
#else
[[gnu::visibility("default")]] int schuss_num_threads();
[[gnu::visibility("default")]] void schuss_limit_threads(int threads);
#endif
}

int schuss_num_threads() {
    return schuss::num_threads();
}

void schuss_limit_threads(int threads) {
    schuss::limit_threads(threads);
}

PYBIND11_MODULE(_main_core, m, pybind11::mod_gil_not_used()) {
    using namespace schuss;
    m.doc() = "The compiled part of schuss: rules, instruction sets, threads, and plans.";
    m.attr("__version__") = SCHUSS_VERSION;
    m.attr("free_threaded") = has_no_gil;
    restart_after_fork();
    count_forks();
    wait_at_fork();  // before the pool is locked: what comes later here is called first at a fork
    wait_at_exit();

    m.def("rules", &rules, "What every compiled rule declares, by name.");
    m.def("instruction_sets", &instruction_sets, "The instruction sets this machine runs, baseline first.");
    m.def("use_isa", &use_isa, py::arg("name"), "Choose an instruction set.");
    m.def("isa", [] { return std::string(isa().name); }, "The instruction set in use.");
    m.def("set_num_threads", &set_num_threads, py::arg("threads"), "Set the default number of threads.");
    m.def("num_threads", &num_threads, "The default number of threads.");

    py::class_<Guard, std::shared_ptr<Guard>> guard(m, "Guard",
                                                    "A context manager that lets one thread in and refuses others.");
    check_memory(guard);
    guard.def(py::init<std::string>(), py::arg("owner"))
        .def(py::init<std::string, const Guard&>(), py::arg("owner"), py::arg("wrapped"))
        .def("__enter__", [](Guard& guard) { guard.enter(); })
        .def(
            "__exit__", [](Guard& guard, const py::object&, const py::object&, const py::object&) { guard.leave(); },
            py::arg("kind"), py::arg("error"), py::arg("traceback"));

    py::class_<Binding> plan(m, "Plan", "Arrays validated once and stepped in place.");
    check_memory(plan);
    py::class_<Binding::Values> values(
        m, "Values",
        "What a step of a plan takes, every group's hyper-parameters and what surrounds the "
        "rule, or else why steps are refused, for `publish` to set.");
    values
        .def(py::init(&Binding::values), py::arg("plan"), py::arg("hyper"), py::arg("limit"), py::arg("centred"),
             py::arg("spread"), py::arg("noise_seed"), py::arg("cautious"), py::arg("average"))
        .def(py::init(&Binding::suspended), py::arg("plan"), py::arg("suspended"));
    check_memory(values);
    m.def("publish", &Binding::publish, py::arg("pairs"), py::arg("values"),
          "Copy the second array of every pair into the first, and set values of plans: all, or nothing; for who is "
          "inside their guards.");
    plan.def(py::init<std::string, std::shared_ptr<Guard>, int, unsigned, const py::object&, std::vector<std::string>,
                      std::vector<py::object>, std::vector<int>, int, const std::vector<std::uint64_t>&,
                      const std::vector<std::vector<py::object>>&, const py::array_t<double>&,
                      const py::array_t<std::int64_t>&, bool>(),
             py::arg("owner"), py::arg("guard"), py::arg("rule"), py::arg("flags"), py::arg("tree"), py::arg("paths"),
             py::arg("parameters"), py::arg("group_of"), py::arg("groups"), py::arg("streams"), py::arg("state"),
             py::arg("scalars").noconvert(), py::arg("counts").noconvert(), py::arg("uint16_is_bfloat16"))
        .def("step", &Binding::step, py::arg("gradients"), py::arg("inputs"), py::arg("given"), py::arg("scale"),
             "Step once; 0 done, 1 skipped, 2 refused for a non-finite gradient.")
        .def(
            "step_within", &Binding::step_within, py::arg("gradients"), py::arg("inputs"), py::arg("given"),
            py::arg("scale"), py::arg("factors"), py::arg("work"),
            "The same for who is inside the guard already. "
            "`work(-1)`, before the last sweep, returns what is written when the step is done, pairs of arrays, and an "
            "`Undo` and a function that is called then, or None and None.")
        .def("set_values", &Binding::set_values, py::arg("hyper"), py::arg("limit"), py::arg("centred"),
             py::arg("spread"), py::arg("noise_seed"), py::arg("cautious"), py::arg("average"),
             "Set what a step takes, as `Values` says.")
        .def("count_skips", &Binding::count_skips, py::arg("skips").noconvert(), py::arg("most"),
             "Count skipped steps, in all and in a row, and refuse more in a row than that; -1 for any number.")
        .def("protect", &Binding::protect, py::arg("arrays"), "Refuse gradients over these arrays.")
        .def("set_matrix", &Binding::set_matrix, py::arg("tensor"), py::arg("matrix"), py::arg("rows"),
             py::arg("columns"), "Say of which matrices a tensor is made, and whether it is stepped as such.")
        .def("set_work", &Binding::set_work, py::arg("tensor"), py::arg("slot"), py::arg("array").noconvert(),
             "Within a step: give a tensor an array for the work between sweeps.")
        .def("set_numbers", &Binding::set_numbers, py::arg("tensor"), py::arg("numbers"),
             "Within a step: tell a tensor's rule what the work has led to.")
        .def("folded", &Binding::folded, py::arg("tensor"), "Within a step: what rows and columns added up to.")
        .def("squares", &Binding::squares, "Within a step: sums of squares of every unit's gradient, and their scale.")
        .def("norms", &Binding::norms, py::arg("norm"), py::arg("power"), py::arg("scale"), py::arg("weights"),
             "Within a step: the sums of a norm of every unit, of gradients or weights.")
        .def("rows", &Binding::rows, "Within a step: units of every tensor.")
        .def("active", &Binding::active, "Within a step: which tensors have a gradient.")
        .def("set_options", &Binding::set_options, py::arg("sign"), py::arg("by_rows"), py::arg("nonfinite"),
             py::arg("flush_subnormals"), py::arg("threads"), "Set how steps run.")
        .def("set_box", &Binding::set_box, py::arg("tensor"), py::arg("lower"), py::arg("upper"), "Bound a tensor.")
        .def("set_noise", &Binding::set_noise, py::arg("tensor"), py::arg("stream"), "Choose a gradient's noise.")
        .def("set_decay", &Binding::set_decay, py::arg("tensor"), py::arg("decays"), py::arg("anchor"),
             "Say whether a tensor decays, and where to.")
        .def("set_averages", &Binding::set_averages, py::arg("averages"), "Set the arrays that average the tensors.")
        .def("outcome", &Binding::outcome, "What the last step did.");
    bind_tools(m);
    bind_whole(m);
}

/// The module's entry. In another interpreter than the main one, pybind11 would wait for a GIL that its own thread
/// holds.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) return PyInit__main_core();
    PyErr_SetString(PyExc_ImportError,
                    "schuss: it cannot be imported in a sub-interpreter; import it in the main one, or use processes");
    return nullptr;
}
