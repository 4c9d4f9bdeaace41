#include "dispatch.hpp"

#include <atomic>
#include <stdexcept>

#ifdef TERCET_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tercet {

extern const KernelTable portable_kernels;
#ifdef TERCET_X86
extern const KernelTable avx2_kernels;
extern const KernelTable avx512_kernels;
#endif
#ifdef TERCET_AMX
extern const ProductKernels amx_limbs;
#endif

namespace {

#ifdef TERCET_AMX

// Whether the processor multiplies tiles and Linux lets this process use them. It refuses if a
// thread's alternate signal stack is too small for the 8 KB more of registers.
bool tiles_granted() {
    constexpr unsigned tile_and_int8 = 1U << 24 | 1U << 25;
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long tile_data = 18;               // XFEATURE_XTILEDATA
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
           (edx & tile_and_int8) == tile_and_int8 && __builtin_cpu_supports("avx512vbmi") &&
           syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// The AVX-512 kernels, and limbs for products.
KernelTable amx_table(const char* name, bool always) {
    KernelTable table = avx512_kernels;
    table.name = name;
    table.limbs = &amx_limbs;
    table.always_limbs = always;
    return table;
}

#endif

std::vector<const KernelTable*> runnable_tables() {
    std::vector<const KernelTable*> tables;
#ifdef TERCET_X86
    __builtin_cpu_init();
    // The builtin also asks the operating system whether it saves the wide registers.
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
#ifdef TERCET_AMX
        static const bool granted = tiles_granted();
        static const KernelTable amx = amx_table("amx", false);
        static const KernelTable amx_always = amx_table("amx-always", true);
        if (granted) {
            tables.push_back(&amx);
            tables.push_back(&amx_always);
        }
#endif
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
