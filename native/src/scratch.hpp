// Working memory of the drivers, one set a thread, kept between calls: a call that ends after some
// microseconds should not spend them in the allocator.
#pragma once

#include "kernels.hpp"

namespace tercet {

enum class Scratch { packed_a, packed_b, image_first, image_second, repeated, count };

// At least `elements` elements, 64-byte aligned, contents unspecified; valid until this thread next
// asks for the same slot. Throws std::bad_alloc.
u64* scratch(Scratch slot, index_t elements);

// Gives large buffers back; the drivers call it when they are done.
void trim_scratch() noexcept;

}  // namespace tercet
