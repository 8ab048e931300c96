#include "binding/tools.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "binding/arrays.hpp"
#include "binding/gil.hpp"
#include "core/stack.hpp"

namespace schuss {
namespace {

using Arrays = std::vector<py::object>;
using npy = py::detail::npy_api;

/// The memory that an array's elements lie in.
struct Extent {
    const std::byte *low, *high;
};

Extent extent_of(const py::handle& array, const View& view) {
    const auto& a = fields(array.ptr());
    const std::byte* const data = reinterpret_cast<const std::byte*>(a.data);
    if (view.elements() == 0) return {data, data};
    Extent extent{data, data + (view.complex ? 2 : 1) * item_size(view.dtype)};
    for (int d = 0; d < a.nd; ++d)
        (a.strides[d] < 0 ? extent.low : extent.high) += (a.dimensions[d] - 1) * a.strides[d];
    return extent;
}

/// A Stack of Python's arrays, which it holds: checked once, read and written by as many calls as a rule needs.
class ArrayStack {
    template <class Work>
    auto run(const Work& work) {
        return without_gil(stack_.read(), work);
    }

public:
    /// `names[layer]` and `target` are what the error messages call the arrays, before their paths.
    ArrayStack(std::string owner, std::vector<std::string> names, std::string target, std::vector<std::string> paths,
               std::vector<Arrays> arrays, Arrays results)
        : owner_(std::move(owner)),
          target_(std::move(target)),
          names_(std::move(names)),
          paths_(std::move(paths)),
          arrays_(std::move(arrays)),
          results_(std::move(results)),
          stack_(views(), int(arrays_.size())) {
        refuse_overlaps();
        for (std::size_t k = 0; k < arrays_.size(); ++k)
            for (std::size_t i = 0; i < results_.size(); ++i) {
                const auto strides = reinterpret_cast<const Index*>(fields(arrays_[k][i].ptr()).strides);
                std::byte* const data = data_of(arrays_[k][i]);
                if (in_order(k, i))
                    stack_.bind(int(k), Index(i), data);
                else
                    stack_.bind(int(k), Index(i), data, strides);
            }
    }

    void combine(const std::vector<double>& weights, double total, int threads) {
        run([&] { stack_.combine(weights, total, threads); });
    }
    void vote(const std::vector<double>& weights, int threads) {
        run([&] { stack_.vote(weights, threads); });
    }
    void sorted_mean(int begin, int end, int threads) {
        run([&] { stack_.sorted_mean(begin, end, threads); });
    }
    std::vector<double> residuals(const std::vector<double>& weights, double total, int threads) {
        return run([&] { return stack_.residuals(weights, total, threads); });
    }
    std::vector<double> distances(int threads) {
        return run([&] { return stack_.distances(threads); });
    }
    void drop(std::uint64_t key, std::uint32_t threshold, double scale, int threads) {
        const int parts = stack_.result(0).complex ? 2 : 1;
        run([&] { stack_.drop({key, threshold, scale, parts}, threads); });
    }

private:
    std::string named(const std::string& name, std::size_t i) const { return name + paths_[i]; }
    Who who(const std::string& name, std::size_t i) const { return owner_ + ": " + named(name, i); }

    std::vector<View> views() const {
        for (std::size_t k = 0; k < arrays_.size(); ++k)
            for (std::size_t i = 0; i < results_.size(); ++i) {
                PyObject* const object = arrays_[k][i].ptr();
                require_array(object, who(names_[k], i));
                if (py::detail::array_descriptor_proxy(fields(object).descr)->type_num == npy::NPY_USHORT_)
                    throw py::type_error(who(names_[k], i) +
                                         " has dtype uint16; pass the bits of bfloat16 as .view(ml_dtypes.bfloat16)");
                if (!type_of(object, false).known) refuse_dtype(object, who(names_[k], i), "used");
                require_like_first(object, names_[k], i);
            }
        std::vector<View> all;
        for (std::size_t i = 0; i < results_.size(); ++i) {
            require_array(results_[i].ptr(), who(target_, i));
            require_like_first(results_[i].ptr(), target_, i);
            all.push_back(view_of_parameter(results_[i].ptr(), false, who(target_, i)));
        }
        return all;
    }

    void require_like_first(const py::handle& object, const std::string& name, std::size_t i) const {
        const py::object& first = arrays_.front()[i];
        for (const char* what : {"shape", "dtype"})
            if (!object.attr(what).equal(first.attr(what)))
                throw py::value_error(who(name, i) + " has " + what + " " + text(object.attr(what)) + ", but " +
                                      named(names_.front(), i) + " has " + text(first.attr(what)) +
                                      "; pass arrays of one shape and dtype");
    }

    /// Is an array contiguous in the memory order of its result?
    bool in_order(std::size_t k, std::size_t i) const {
        const int wanted = npy::NPY_ARRAY_ALIGNED_ | (stack_.result(Index(i)).f_order ? npy::NPY_ARRAY_F_CONTIGUOUS_
                                                                                      : npy::NPY_ARRAY_C_CONTIGUOUS_);
        return (fields(arrays_[k][i].ptr()).flags & wanted) == wanted;
    }

    /// A result may be one of the arrays that it is made of: a block is written when all of them have been read.
    void refuse_overlaps() const {
        struct Written {
            Extent extent;
            std::size_t tensor;
        };
        std::vector<Written> written;
        for (std::size_t i = 0; i < results_.size(); ++i)
            if (const Extent each = extent_of(results_[i], stack_.result(Index(i))); each.low < each.high)
                written.push_back({each, i});
        std::sort(written.begin(), written.end(),
                  [](const Written& a, const Written& b) { return a.extent.low < b.extent.low; });
        for (std::size_t w = 1; w < written.size(); ++w)
            if (written[w].extent.low < written[w - 1].extent.high) {
                const auto [first, second] = std::minmax(written[w - 1].tensor, written[w].tensor);
                throw py::value_error(who(target_, first) + " and " + named(target_, second) +
                                      " share memory; pass arrays that do not overlap");
            }
        for (std::size_t k = 0; k < arrays_.size(); ++k)
            for (std::size_t i = 0; i < results_.size(); ++i) {
                const Extent read = extent_of(arrays_[k][i], stack_.result(Index(i)));
                const auto found = std::partition_point(
                    written.begin(), written.end(), [&](const Written& each) { return each.extent.high <= read.low; });
                if (found == written.end() || read.high <= found->extent.low || read.low == read.high) continue;
                const bool itself = found->tensor == i && found->extent.low == read.low &&
                                    data_of(arrays_[k][i]) == data_of(results_[i]) && in_order(k, i);
                if (!itself)
                    throw py::value_error(who(target_, found->tensor) + " shares memory with " + named(names_[k], i) +
                                          "; pass an array that does not overlap, or is that very one");
            }
    }

    static std::byte* data_of(const py::handle& array) {
        return reinterpret_cast<std::byte*>(fields(array.ptr()).data);
    }

    std::string owner_, target_;
    std::vector<std::string> names_, paths_;
    std::vector<Arrays> arrays_;
    Arrays results_;
    Stack stack_;
};

}  // namespace

void bind_tools(py::module_& m) {
    py::class_<ArrayStack>(m, "Stack", "Several gradients of one nesting, and the arrays made of them.")
        .def(py::init<std::string, std::vector<std::string>, std::string, std::vector<std::string>, std::vector<Arrays>,
                      Arrays>(),
             py::arg("owner"), py::arg("names"), py::arg("target"), py::arg("paths"), py::arg("arrays"),
             py::arg("results"))
        .def("combine", &ArrayStack::combine, py::arg("weights"), py::arg("total"), py::arg("threads"),
             "Write the weighted sum, divided by `total`.")
        .def("vote", &ArrayStack::vote, py::arg("weights"), py::arg("threads"), "Write the sign of the weighted signs.")
        .def("sorted_mean", &ArrayStack::sorted_mean, py::arg("begin"), py::arg("end"), py::arg("threads"),
             "Write the mean of these places of the ascending order.")
        .def("residuals", &ArrayStack::residuals, py::arg("weights"), py::arg("total"), py::arg("threads"),
             "The squared distance of each gradient from the weighted sum, divided by `total`.")
        .def("distances", &ArrayStack::distances, py::arg("threads"),
             "The squared distances between gradients i and j < i, row by row.")
        .def("drop", &ArrayStack::drop, py::arg("key"), py::arg("threshold"), py::arg("scale"), py::arg("threads"),
             "Write the elements that are kept, times `scale`, and 0 for the others.");
}

}  // namespace schuss
