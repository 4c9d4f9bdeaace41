// Eight elements in a 512-bit register; AVX-512DQ multiplies 64-bit lanes (vpmullq).
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace tercet {
namespace {

struct Vec {
    static constexpr index_t lanes = 8;
    // 24 sums, 4 vectors of B, a broadcast and a product: 30 of the 32 registers.
    static constexpr index_t tile_rows = 6;
    static constexpr index_t tile_vectors = 4;

    using Word = __m512i;
    using Left = __m512i;
    using Right = __m512i;
    using Sum = __m512i;
    using Mask = __mmask8;

    static Mask tail_mask(index_t n) { return static_cast<Mask>((1U << n) - 1U); }
    static Left broadcast(const u64* p) { return _mm512_set1_epi64(static_cast<long long>(*p)); }
    static Left left(const u64* p) { return load(p); }
    static Left left(const u64* p, Mask m) { return load(p, m); }
    static Right right(const u64* p) { return load(p); }
    static Right right(const u64* p, Mask m) { return load(p, m); }
    static Sum zero() { return _mm512_setzero_si512(); }
    static void multiply_add(Sum& s, Left a, Right b) {
        s = _mm512_add_epi64(s, _mm512_mullo_epi64(a, b));
    }
    static Word value(Sum s) { return s; }
    static u64 horizontal(Word v) { return static_cast<u64>(_mm512_reduce_add_epi64(v)); }
    static Word add(Word a, Word b) { return _mm512_add_epi64(a, b); }
    static Word load(const u64* p) { return _mm512_loadu_si512(p); }
    static Word load(const u64* p, Mask m) { return _mm512_maskz_loadu_epi64(m, p); }
    static void store(u64* p, Word v) { _mm512_storeu_si512(p, v); }
    static void store(u64* p, Word v, Mask m) { _mm512_mask_storeu_epi64(p, m, v); }
};

}  // namespace
}  // namespace tercet
