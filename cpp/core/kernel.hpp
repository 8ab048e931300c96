/// The interface between what is compiled once (core) and what is compiled per instruction set (kernels and rules).
/// Plain data and function pointers only: nothing here may become a symbol that two instruction sets share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace schuss {

constexpr int max_hyper = 16;
constexpr int max_slots = 12;  ///< inputs and element slots of one rule
constexpr int max_sums = 8;    ///< sums of all sweeps of one rule
constexpr int max_scalars = 24;
constexpr int max_given = 4;
constexpr int max_passes = 4;   ///< sweeps of a rule over matrices before the one that writes
constexpr int max_numbers = 4;  ///< that come from the work between them, per tensor

/// Elements in a chunk, the unit of work: 64 KiB of float32 per operand, so that the four operands of Adam stay in a
/// 512 KiB L2 between two sweeps, and 1,221 chunks share 20 M elements evenly.
constexpr std::int64_t chunk_size = 16384;
/// Elements that pass through L1 scratch at a time where a stage is asked for. (Measured with AVX2: with blocks of 128,
/// 256, 512 AdamW takes 1.06, 0.96, 0.75 ns an element in float16; with l2 in float32 0.70 with 128 and 0.54 with 512.)
constexpr int block_size = 512;
/// Rows of a tile whose columns are added up: their sums are a 16th of the tile's memory at most.
constexpr int tile_rows = 16;
/// Elements whose terms a sweep that reads computes before it adds them up: 4 KiB of L1 per sum.
constexpr int read_size = 512;
/// Partial sums kept side by side: part of the arithmetic contract, the same on every instruction set.
constexpr int lanes = 16;

enum class Dtype : std::uint8_t { float32, float64, float16, bfloat16 };

/// Where the elements of an array lie that is not contiguous in its parameter's memory order.
struct Layout {
    int ndim;
    const std::int64_t* shape;
    const std::int64_t* strides;  ///< in bytes, outermost first
};

struct Operand {
    std::byte* data;
    const Layout* layout;  ///< null: contiguous in the parameter's memory order
    Dtype dtype;
};

/// The stages of one step, in their order; what they do to one tensor is there.
struct Stage {
    double prescale = 1;                                     ///< what the gradients are multiplied with before all else
    double limit = std::numeric_limits<double>::infinity();  ///< of the absolute value of a gradient's element
    bool centred = false;                                    ///< the mean of every row of a gradient is taken away
    bool prepares = false;  ///< are there a limit or means? Then norms are those of the prepared gradient
    double spread = 0;      ///< standard deviation of the noise in the gradient
    std::uint64_t noise_seed = 0;
    bool cautious = false;  ///< weights decay only where the step moves them the same way
    double average = 0;     ///< the new weights' share of their running average
};

/// What tensors of one group and one step count share.
struct Call {
    double t;
    double gradient_scale;  ///< sign of `maximize`, times the clip's factor, times `prescale` where nothing prepares
    const double* hyper;
    const double* given;  ///< numbers that come with the step, such as the loss
    std::uint64_t seed;   ///< of the normal numbers, where the rule draws some
    double l2, l1, decay, shrink;
};

struct Tensor {
    const Call* call;
    Operand p, g;
    Operand slot[max_slots];  ///< the rule's inputs, its draws, its state; a null pointer where there is no array
    std::uint64_t stream;     ///< of the normal numbers that the rule draws
    double rows;              ///< 0 for a vector and a number
    bool plain;               ///< every operand is contiguous in the compute type and no stage is asked for
    bool decays, bounded;
    const Stage* stage;
    double lower, upper;
    std::uint64_t noise_stream;
    std::int64_t row;                    ///< elements per entry of the first axis; all of a vector
    const double *row_mean, *row_scale;  ///< of the gradient's rows; null: 0 and 1
    Operand anchor, average;             ///< where weights decay to (null: to 0), and their running average
    std::int64_t matrix_rows, columns;   ///< of each of the matrices that lie in the tensor one after the other
    double number[max_numbers];
};

/// Some rows of a matrix, or some elements of one row.
struct Tile {
    std::int64_t tensor, first, rows, columns;
    std::int64_t row_partial, row_stride;  ///< where the sums of the first row go, and how far those of the next are
    std::int64_t column_partial;
};

/// A run of elements of one tensor. Its unit is what a sum runs over: a row, a tensor, or all tensors.
struct Chunk {
    std::int64_t tensor, first, size;
    std::int64_t row;      ///< elements per unit, where a chunk holds several rows; else its size
    std::int64_t unit;     ///< of the first row
    std::int64_t partial;  ///< where the partial sums of the first row go
};

/// Pointers to one block of at most `block_size` elements in the compute type, into the arrays or into scratch.
template <class T>
struct Block {
    T* p;
    const T* g;
    T* slot[max_slots];
    T gradient_scale;
    alignas(64) T scratch[(2 + max_slots) * block_size];
    alignas(64) T before[block_size], room[block_size];  ///< the weights before the rule, where a stage needs them
};

/// What is added up: x, |x|, x^2, |x|^power; of |x| also the largest.
enum class Norm : std::uint8_t { sum, absolute, squares, powers, largest };

/// How a rule's operands follow one another in a tensor's slots: arrays from the caller, blocks of normal numbers,
/// arrays for the work between sweeps, numbers per row and per column that come from it, the state.
struct Operands {
    int inputs, draws, work, rows, columns, slots;

    constexpr int first_work() const { return inputs + draws; }
    constexpr int first_row() const { return first_work() + work; }
    constexpr int first_column() const { return first_row() + rows; }
    constexpr int first_state() const { return first_column() + columns; }
};

/// What a sweep over matrices adds up: so many numbers for every row and, where asked for, for every column.
struct Fold {
    int terms;
    bool columns, largest;  ///< the largest instead of the sum
};

/// The loops that know nothing of rules, compiled once per instruction set and type.
template <class T>
struct Stages {
    void (*load)(const Tensor&, const Operands&, std::int64_t first, int size, Block<T>&);
    void (*store)(const Tensor&, const Operands&, std::int64_t first, int size, Block<T>&);
    void (*sum)(const double* terms, int size, double* lane);
    /// What a norm adds up over each chunk of some elements of a prepared gradient, times a scale, in double.
    void (*measure)(const Tensor&, Norm, double power, std::int64_t first, std::int64_t size, double scale,
                    double* sums);
};

struct Job {
    const Tensor* tensors;
    const Chunk* chunks;
    const void* stages;   ///< Stages<T>
    const double* sizes;  ///< per unit: its elements
    double* sums;      ///< per unit: the sums of all sweeps done so far, each sweep's with those across rows after them
    double* partials;  ///< per chunk or row: the sums of its sweep
    double* scalars;   ///< per unit: the slots with one value per unit
    int sweep;         ///< of shared units, and of matrices
    double* columns;   ///< per tile: what its columns add up to
    int terms;         ///< of the rule that adds up most of them: so far are those of two rows or columns apart
};

/// Runs over chunks [begin, end): all sweeps of the units that these chunks make up, one sweep of shared units, or the
/// additions after it.
using Sweep = void (*)(const Job&, std::int64_t begin, std::int64_t end);
/// Writes the scalar slots of units [begin, end) after the last sweep.
using Commit = void (*)(const Job&, const Call&, std::int64_t begin, std::int64_t end);

/// One sweep over tiles [begin, end).
using Pass = void (*)(const Job&, const Tile* begin, const Tile* end);

enum class Scope : std::uint8_t { element, row, tensor, all };

/// A rule, or one combination of its construction flags, compiled for one instruction set.
struct Compiled {
    const char* kind;
    unsigned flags;  ///< bit i is the value of flag i
    Scope scope;
    bool across;  ///< rows are added up over their tensor: what threads own or share are tensors, not rows
    int hypers, givens, scalars, sweeps, sums;
    Operands operands;
    int seed;               ///< which hyper-parameter seeds the draws
    int sums_of[max_sums];  ///< per sweep
    int partial_stride;     ///< partial sums of a chunk, in any sweep
    const char* hyper[max_hyper];
    const char* given[max_given];
    const char* slot[max_slots];  ///< null: absent under these flags
    const char* scalar[max_scalars];
    /// For float and double; single sweeps, and the additions after them, only where there are sums.
    Sweep whole[2], sweep[2], combine[2];
    Commit commit[2];
    /// Of a rule over matrices, in place of the above: its sweeps, of which the last one writes.
    int passes, numbers;
    Fold fold[max_passes];
    Pass pass[2];
};

struct Rule {
    const char* name;
    int count, flag_count;
    bool shaped;  ///< the last flag is no matter of construction: it says of each tensor whether it is stepped as a
                  ///< matrix
    const char* flag[4];
    const Compiled* variant;  ///< `count` combinations of its construction flags
};

struct AllStages {
    Stages<float> float32;
    Stages<double> float64;
};

struct InstructionSet {
    const char* name;
    const Rule* const* rules;
    const AllStages* stages;
    const struct Tools* tools;  ///< core/tools.hpp
};

}  // namespace schuss
