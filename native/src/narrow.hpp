// The low 8, 16 or 32 bits of every element, and back: loops which the compiler vectorises for the
// instruction set of the including file. See gemm.hpp for the unnamed namespace.
#pragma once

#include "kernels.hpp"

namespace tercet {
namespace {

template <class Part>
void narrow_to(const u64* x, index_t n, void* out) {
    auto* p = static_cast<unsigned char*>(out);
    for (index_t i = 0; i < n; ++i) {
        const Part v = static_cast<Part>(x[i]);
        __builtin_memcpy(p + i * static_cast<index_t>(sizeof(Part)), &v, sizeof(Part));
    }
}

template <class Part>
void widen_from(const void* in, index_t n, u64* out) {
    const auto* p = static_cast<const unsigned char*>(in);
    for (index_t i = 0; i < n; ++i) {
        Part v;
        __builtin_memcpy(&v, p + i * static_cast<index_t>(sizeof(Part)), sizeof(Part));
        out[i] = v;
    }
}

void narrow(const u64* x, index_t n, int bits, void* out) {
    if (bits == 8) narrow_to<std::uint8_t>(x, n, out);
    if (bits == 16) narrow_to<std::uint16_t>(x, n, out);
    if (bits == 32) narrow_to<std::uint32_t>(x, n, out);
}

void widen(const void* in, index_t n, int bits, u64* out) {
    if (bits == 8) widen_from<std::uint8_t>(in, n, out);
    if (bits == 16) widen_from<std::uint16_t>(in, n, out);
    if (bits == 32) widen_from<std::uint32_t>(in, n, out);
}

}  // namespace
}  // namespace tercet
