#include "scratch.hpp"

#include <array>
#include <memory>
#include <new>

namespace tercet {
namespace {

constexpr index_t kept_elements = index_t{1} << 22;  // 32 MB a slot
constexpr std::align_val_t alignment{64};

struct AlignedDelete {
    void operator()(u64* data) const noexcept { ::operator delete[](data, alignment); }
};

struct Slot {
    std::unique_ptr<u64[], AlignedDelete> data;
    index_t capacity = 0;
};

thread_local std::array<Slot, static_cast<std::size_t>(Scratch::count)> slots;

}  // namespace

u64* scratch(Scratch which, index_t elements) {
    Slot& slot = slots[static_cast<std::size_t>(which)];
    if (slot.capacity < elements) {
        slot.data.reset();
        slot.capacity = 0;
        const auto bytes = static_cast<std::size_t>(elements) * sizeof(u64);
        slot.data.reset(static_cast<u64*>(::operator new[](bytes, alignment)));
        slot.capacity = elements;
    }
    return slot.data.get();
}

void trim_scratch() noexcept {
    for (Slot& slot : slots) {
        if (slot.capacity > kept_elements) {
            slot.data.reset();
            slot.capacity = 0;
        }
    }
}

}  // namespace tercet
