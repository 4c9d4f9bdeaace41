// Random projections with AVX2: a bit of a row's word is moved to the top of its lane, where
// vpcmpgtq makes a mask of it. Four registers of sums at a time.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace tercet {
namespace {

void project_64(const u64* x, const u64* rows, u64 plane, u64* out) {
    const __m256i zero = _mm256_setzero_si256();
    u64 common = 0;
    for (int j = 0; j < 64; ++j) {
        common += x[j] & (u64{0} - (plane >> j & 1));
    }
    const __m256i taken = _mm256_set1_epi64x(static_cast<long long>(common));
    for (int first = 0; first < 64; first += 16) {
        __m256i sums[4];
        __m256i words[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
            sums[r] = _mm256_sub_epi64(Vec::load(out + first + 4 * r), taken);
            words[r] = Vec::load(rows + first + 4 * r);
        }
        for (int j = 63; j >= 0; --j) {
            const __m256i value = _mm256_set1_epi64x(static_cast<long long>(x[j]));
#pragma GCC unroll 4
            for (int r = 0; r < 4; ++r) {
                const __m256i mask = _mm256_cmpgt_epi64(zero, words[r]);
                sums[r] = _mm256_add_epi64(sums[r], _mm256_and_si256(value, mask));
                words[r] = _mm256_add_epi64(words[r], words[r]);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
            Vec::store(out + first + 4 * r, sums[r]);
        }
    }
}

}  // namespace
}  // namespace tercet
