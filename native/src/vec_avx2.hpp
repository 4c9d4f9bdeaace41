// Four elements in a 256-bit register. AVX2 has no 64-bit product, so it is built from halves:
//
//     a * b = a_lo * b_lo + 2^32 * (a_lo * b_hi + a_hi * b_lo)    (mod 2^64)
//
// The first term is one vpmuludq. The two cross terms only matter modulo 2^32, so one vpmulld of a
// by b with its halves exchanged gives both at once; they are summed as 32-bit lanes of a second
// accumulator, and joined only when the sum is complete.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace tercet {
namespace {

struct Vec {
    static constexpr index_t lanes = 4;
    // Two registers a sum: a 3 x 2 tile does more work a load, but spills, and is slower.
    static constexpr index_t tile_rows = 4;
    static constexpr index_t tile_vectors = 1;
    static constexpr index_t dot_rows = 2;
    static constexpr index_t dot_columns = 2;

    using Word = __m256i;
    using Left = __m256i;
    struct Right {
        __m256i whole;
        __m256i exchanged;
    };
    struct Sum {
        __m256i low;
        __m256i cross;
    };
    using Mask = __m256i;

    static Mask tail_mask(index_t n) {
        return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
    }
    static Left broadcast(const u64* p) { return _mm256_set1_epi64x(static_cast<long long>(*p)); }
    static Left left(const u64* p) { return load(p); }
    static Left left(const u64* p, Mask m) { return load(p, m); }
    static Right right(const u64* p) { return split(load(p)); }
    static Right right(const u64* p, Mask m) { return split(load(p, m)); }
    static Sum zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static void multiply_add(Sum& s, Left a, const Right& b) {
        s.low = _mm256_add_epi64(s.low, _mm256_mul_epu32(a, b.whole));
        s.cross = _mm256_add_epi32(s.cross, _mm256_mullo_epi32(a, b.exchanged));
    }
    static void multiply_add_pair(Sum& s0, Left a0, const Right& b0, Sum& s1, Left a1, const Right& b1) {
        multiply_add(s0, a0, b0);
        multiply_add(s1, a1, b1);
    }
    static Word value(const Sum& s) {
        const __m256i both = _mm256_add_epi64(s.cross, _mm256_srli_epi64(s.cross, 32));
        return _mm256_add_epi64(s.low, _mm256_slli_epi64(both, 32));
    }
    static u64 horizontal(Word v) {
        const __m128i half =
            _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        return static_cast<u64>(
            _mm_cvtsi128_si64(_mm_add_epi64(half, _mm_unpackhi_epi64(half, half))));
    }
    static Word add(Word a, Word b) { return _mm256_add_epi64(a, b); }
    static Word load(const u64* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static Word load(const u64* p, Mask m) {
        return _mm256_maskload_epi64(reinterpret_cast<const long long*>(p), m);
    }
    static void store(u64* p, Word v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
    static void store(u64* p, Word v, Mask m) {
        _mm256_maskstore_epi64(reinterpret_cast<long long*>(p), m, v);
    }

private:
    static Right split(__m256i b) { return {b, _mm256_shuffle_epi32(b, 0xB1)}; }
};

}  // namespace
}  // namespace tercet
