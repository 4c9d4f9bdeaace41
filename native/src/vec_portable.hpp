// A "vector" of one element, for processors without a path of their own. The 64-bit scalar
// multiplier does one product a cycle, which no emulation in 128-bit registers reaches.
#pragma once

#include "kernels.hpp"

namespace tercet {
namespace {

struct Vec {
    static constexpr index_t lanes = 1;
#if defined(__x86_64__)
    static constexpr index_t tile_rows = 2;  // 16 general registers
#else
    static constexpr index_t tile_rows = 4;
#endif
    static constexpr index_t tile_vectors = 4;
    static constexpr index_t dot_rows = 2;
    static constexpr index_t dot_columns = 2;

    using Word = u64;
    using Left = u64;
    using Right = u64;
    using Sum = u64;
    using Mask = bool;  // one lane: never partial

    static Mask tail_mask(index_t) { return true; }
    static Left broadcast(const u64* p) { return *p; }
    static Left left(const u64* p) { return *p; }
    static Left left(const u64* p, Mask) { return *p; }
    static Right right(const u64* p) { return *p; }
    static Right right(const u64* p, Mask) { return *p; }
    static Sum zero() { return 0; }
    static void multiply_add(Sum& s, Left a, Right b) { s += a * b; }
    static void multiply_add_pair(Sum& s0, Left a0, Right b0, Sum& s1, Left a1, Right b1) {
        multiply_add(s0, a0, b0);
        multiply_add(s1, a1, b1);
    }
    static Word value(Sum s) { return s; }
    static u64 horizontal(Word v) { return v; }
    static Word add(Word a, Word b) { return a + b; }
    static Word load(const u64* p) { return *p; }
    static Word load(const u64* p, Mask) { return *p; }
    static void store(u64* p, Word v) { *p = v; }
    static void store(u64* p, Word v, Mask) { *p = v; }
};

}  // namespace
}  // namespace tercet
