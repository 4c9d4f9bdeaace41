#include "dispatch.hpp"

#include <atomic>
#include <stdexcept>

namespace tercet {

extern const KernelTable portable_kernels;
#ifdef TERCET_X86
extern const KernelTable avx2_kernels;
extern const KernelTable avx512_kernels;
#endif

namespace {

std::vector<const KernelTable*> runnable_tables() {
    std::vector<const KernelTable*> tables;
#ifdef TERCET_X86
    __builtin_cpu_init();
    // The builtin also asks the operating system whether it saves the wide registers.
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        tables.push_back(&avx512_kernels);
    }
    if (__builtin_cpu_supports("avx2")) {
        tables.push_back(&avx2_kernels);
    }
#endif
    tables.push_back(&portable_kernels);
    return tables;
}

std::atomic<const KernelTable*>& current() noexcept {
    static std::atomic<const KernelTable*> table{runnable_tables().front()};
    return table;
}

}  // namespace

const KernelTable& kernels() noexcept { return *current().load(std::memory_order_acquire); }

void set_isa(std::string_view name) {
    std::string choices;
    for (const KernelTable* table : runnable_tables()) {
        if (name == table->name) {
            current().store(table, std::memory_order_release);
            return;
        }
        choices += choices.empty() ? "" : ", ";
        choices += table->name;
    }
    throw std::invalid_argument("isa '" + std::string(name) +
                                "' is not one of those this processor runs: " + choices);
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const KernelTable* table : runnable_tables()) {
        names.emplace_back(table->name);
    }
    return names;
}

}  // namespace tercet
