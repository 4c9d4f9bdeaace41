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
    static constexpr index_t dot_rows = 4;
    static constexpr index_t dot_columns = 4;

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
    // Two products, then two sums, in this order. On Zen 4 products and sums in strict alternation
    // run at 21 GMAC/s, in pairs at 26 (29 is the peak of the multiplier): it seems to send
    // consecutive operations to its two schedulers in turn, and alternation gives one of them all
    // the products. Compilers reorder the intrinsics, hence assembly.
    static void multiply_add_pair(Sum& s0, Left a0, Right b0, Sum& s1, Left a1, Right b1) {
        Word p0;
        Word p1;
        Word t0 = s0;  // operands by reference would pin the sums to memory
        Word t1 = s1;
        asm("vpmullq %[b0], %[a0], %[p0]\n\t"
            "vpmullq %[b1], %[a1], %[p1]\n\t"
            "vpaddq %[p0], %[t0], %[t0]\n\t"
            "vpaddq %[p1], %[t1], %[t1]"
            : [t0] "+v"(t0), [t1] "+v"(t1), [p0] "=&v"(p0), [p1] "=v"(p1)
            : [a0] "v"(a0), [a1] "v"(a1), [b0] "v"(b0), [b1] "v"(b1));
        s0 = t0;
        s1 = t1;
    }
    static Word value(Sum s) { return s; }
    // Not _mm512_reduce_add_epi64: GCC's ends in a signed addition, whose overflow is undefined.
    static u64 horizontal(Word v) {
        const __m256i half =
            _mm256_add_epi64(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
        const __m128i quarter =
            _mm_add_epi64(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
        return static_cast<u64>(
            _mm_cvtsi128_si64(_mm_add_epi64(quarter, _mm_unpackhi_epi64(quarter, quarter))));
    }
    static Word add(Word a, Word b) { return _mm512_add_epi64(a, b); }
    static Word load(const u64* p) { return _mm512_loadu_si512(p); }
    static Word load(const u64* p, Mask m) { return _mm512_maskz_loadu_epi64(m, p); }
    static void store(u64* p, Word v) { _mm512_storeu_si512(p, v); }
    static void store(u64* p, Word v, Mask m) { _mm512_mask_storeu_epi64(p, m, v); }
};

}  // namespace
}  // namespace tercet
