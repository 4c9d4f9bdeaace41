// Random projections with AVX2: the bits of a coordinate's column are moved to the top of four
// lanes each, where vpcmpgtq makes masks of them. Sixteen sums a pass stay in registers.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace tercet {
namespace {

void project(const u64* x, const u64* columns, const u64* plane, index_t n, u64* out) {
    const __m256i zero = _mm256_setzero_si256();
    u64 common = 0;
    for (index_t j = 0; j < n; ++j) {
        common += x[j] & (u64{0} - (plane[j / 64] >> (j % 64) & 1));
    }
    const __m256i taken = _mm256_set1_epi64x(static_cast<long long>(common));
    for (int first = 0; first < 64; first += 16) {
        __m256i sums[4] = {zero, zero, zero, zero};
        __m256i places[4];
        for (int r = 0; r < 4; ++r) {
            const int top = 63 - first - 4 * r;
            places[r] = _mm256_setr_epi64x(top, top - 1, top - 2, top - 3);
        }
        for (index_t j = 0; j < n; ++j) {
            const __m256i column = _mm256_set1_epi64x(static_cast<long long>(columns[j]));
            const __m256i value = _mm256_set1_epi64x(static_cast<long long>(x[j]));
#pragma GCC unroll 4
            for (int r = 0; r < 4; ++r) {
                const __m256i mask = _mm256_cmpgt_epi64(zero, _mm256_sllv_epi64(column, places[r]));
                sums[r] = _mm256_add_epi64(sums[r], _mm256_and_si256(value, mask));
            }
        }
        for (int r = 0; r < 4; ++r) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + first + 4 * r),
                                _mm256_sub_epi64(sums[r], taken));
        }
    }
}

}  // namespace
}  // namespace tercet
