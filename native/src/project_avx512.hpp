// Random projections with AVX-512: eight registers hold the 64 sums, and a byte of a coordinate's
// column is the mask under which the coordinate is added to one of them.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace tercet {
namespace {

void project(const u64* x, const u64* columns, const u64* plane, index_t n, u64* out) {
    __m512i sums[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
        sums[r] = _mm512_setzero_si512();
    }
    u64 common = 0;
    for (index_t j = 0; j < n; ++j) {
        const u64 column = columns[j];
        const __m512i value = _mm512_set1_epi64(static_cast<long long>(x[j]));
#pragma GCC unroll 8
        for (int r = 0; r < 8; ++r) {
            const auto mask = static_cast<__mmask8>(column >> (8 * r));
            sums[r] = _mm512_mask_add_epi64(sums[r], mask, sums[r], value);
        }
        common += x[j] & (u64{0} - (plane[j / 64] >> (j % 64) & 1));
    }
    const __m512i taken = _mm512_set1_epi64(static_cast<long long>(common));
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
        _mm512_storeu_si512(out + 8 * r, _mm512_sub_epi64(sums[r], taken));
    }
}

}  // namespace
}  // namespace tercet
