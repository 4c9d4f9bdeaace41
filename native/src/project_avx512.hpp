// Random projections with AVX-512: the 16 sums of four coordinates lie in two registers, and four
// bits of a row's word choose one of them (vpermi2q), for eight rows at a time.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace tercet {
namespace {

void project_64(const u64* x, const u64* rows, u64 plane, u64* out) {
    __m512i sums[8];
    __m512i words[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
        sums[r] = _mm512_loadu_si512(out + 8 * r);
        words[r] = _mm512_loadu_si512(rows + 8 * r);
    }
    __m512i common = _mm512_setzero_si512();
    for (int j = 0; j < 64; j += 4) {
        const auto each = [x, j](int i) {
            return _mm512_set1_epi64(static_cast<long long>(x[j + i]));
        };
        const __m512i one = _mm512_maskz_mov_epi64(0xAA, each(0));
        const __m512i two = _mm512_mask_add_epi64(one, 0xCC, one, each(1));
        const __m512i low = _mm512_mask_add_epi64(two, 0xF0, two, each(2));
        const __m512i high = _mm512_add_epi64(low, each(3));
#pragma GCC unroll 8
        for (int r = 0; r < 8; ++r) {
            sums[r] = _mm512_add_epi64(sums[r], _mm512_permutex2var_epi64(low, words[r], high));
            words[r] = _mm512_srli_epi64(words[r], 4);
        }
    }
    for (int j = 0; j < 64; j += 8) {
        common = _mm512_mask_add_epi64(common, static_cast<__mmask8>(plane >> j), common,
                                       _mm512_loadu_si512(x + j));
    }
    const __m512i taken = _mm512_set1_epi64(static_cast<long long>(Vec::horizontal(common)));
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
        _mm512_storeu_si512(out + 8 * r, _mm512_sub_epi64(sums[r], taken));
    }
}

}  // namespace
}  // namespace tercet
