/// The names a rule declares: hyper-parameters, slots, inputs, flags.
#pragma once

namespace schuss {
namespace {

/// Stands in a list of slots for one that the construction flags leave out.
constexpr const char* absent = nullptr;

struct Names {
    static constexpr int capacity = 24;
    const char* name[capacity] = {};
    int count = 0;

    template <class... Name>
    consteval Names(Name... names) : name{names...}, count(sizeof...(names)) {}
};

}  // namespace
}  // namespace schuss
