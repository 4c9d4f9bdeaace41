// Bit slicing with AVX-512BW. 64 elements are transposed as bytes, so that one register holds byte
// j of all 64; testing one bit of every byte then gives a whole plane word in a mask register.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace tercet {
namespace {

// In each register of eight elements: quadword j becomes byte j of the eight (its own inverse
// as a permutation of bytes, but the two steps have to be undone in the other order).
inline __m512i bytes_to_columns(__m512i v) {
    const __m512i in_lane = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    const __m512i across = _mm512_set_epi16(31, 23, 15, 7, 30, 22, 14, 6, 29, 21, 13, 5, 28, 20, 12,
                                            4, 27, 19, 11, 3, 26, 18, 10, 2, 25, 17, 9, 1, 24, 16,
                                            8, 0);
    return _mm512_permutexvar_epi16(across, _mm512_shuffle_epi8(v, in_lane));
}

inline __m512i columns_to_bytes(__m512i v) {
    const __m512i across = _mm512_set_epi16(31, 27, 23, 19, 15, 11, 7, 3, 30, 26, 22, 18, 14, 10, 6,
                                            2, 29, 25, 21, 17, 13, 9, 5, 1, 28, 24, 20, 16, 12, 8,
                                            4, 0);
    const __m512i in_lane = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    return _mm512_shuffle_epi8(_mm512_permutexvar_epi16(across, v), in_lane);
}

// Transposes the 8 x 8 matrix of quadwords.
inline void transpose_quadwords(__m512i (&r)[8]) {
    __m512i even[4];
    __m512i odd[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        even[i] = _mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]);
        odd[i] = _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]);
    }
    const auto lanes = [](const __m512i(&q)[4], __m512i& c0, __m512i& c1, __m512i& c2,
                          __m512i& c3) {
        const __m512i low_even = _mm512_shuffle_i64x2(q[0], q[1], 0x88);
        const __m512i low_odd = _mm512_shuffle_i64x2(q[0], q[1], 0xDD);
        const __m512i high_even = _mm512_shuffle_i64x2(q[2], q[3], 0x88);
        const __m512i high_odd = _mm512_shuffle_i64x2(q[2], q[3], 0xDD);
        c0 = _mm512_shuffle_i64x2(low_even, high_even, 0x88);
        c1 = _mm512_shuffle_i64x2(low_odd, high_odd, 0x88);
        c2 = _mm512_shuffle_i64x2(low_even, high_even, 0xDD);
        c3 = _mm512_shuffle_i64x2(low_odd, high_odd, 0xDD);
    };
    lanes(even, r[0], r[2], r[4], r[6]);
    lanes(odd, r[1], r[3], r[5], r[7]);
}

void bit_planes_64(const u64* x, int shift, int count, u64* out, index_t stride) {
    __m512i r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        r[i] = bytes_to_columns(_mm512_loadu_si512(x + 8 * i));
    }
    transpose_quadwords(r);
    alignas(64) u64 bytes[64];  // byte j of every element, in element order, at 8 * j
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        _mm512_store_si512(bytes + 8 * i, r[i]);
    }
    for (int j = 0; j < count;) {
        const int bit = shift + j;
        const __m512i v = _mm512_load_si512(bytes + bit / 8 * 8);
        const int left = 8 - bit % 8 < count - j ? 8 - bit % 8 : count - j;
        if (left == 8) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                out[(j + i) * stride] =
                    _mm512_test_epi8_mask(v, _mm512_set1_epi8(static_cast<char>(1U << i)));
            }
            j += 8;
            continue;
        }
        __m512i test = _mm512_set1_epi8(static_cast<char>(1U << (bit % 8)));
        for (int i = 0; i < left; ++i, ++j) {
            out[j * stride] = _mm512_test_epi8_mask(v, test);
            test = _mm512_add_epi8(test, test);
        }
    }
}

void planes_to_words_64(const u64* planes, index_t stride, int count, u64* x) {
    alignas(64) u64 bytes[64];
    for (int byte = 0; byte < 8; ++byte) {
        __m512i v = _mm512_setzero_si512();
        if (8 * byte + 8 <= count) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                v = _mm512_mask_add_epi8(v, planes[(8 * byte + i) * stride], v,
                                         _mm512_set1_epi8(static_cast<char>(1U << i)));
            }
            _mm512_store_si512(bytes + 8 * byte, v);
            continue;
        }
        __m512i bit = _mm512_set1_epi8(1);
        for (int j = 8 * byte; j < count && j < 8 * byte + 8; ++j) {
            v = _mm512_mask_add_epi8(v, planes[j * stride], v, bit);
            bit = _mm512_add_epi8(bit, bit);
        }
        _mm512_store_si512(bytes + 8 * byte, v);
    }
    __m512i r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_load_si512(bytes + 8 * i);
    }
    transpose_quadwords(r);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        _mm512_storeu_si512(x + 8 * i, columns_to_bytes(r[i]));
    }
}

void expand_mask(const u64* plane, index_t words, u64* out) {
    for (index_t w = 0; w < words; ++w) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            _mm512_storeu_si512(out + 64 * w + 8 * i,
                                _mm512_movm_epi64(static_cast<__mmask8>(plane[w] >> (8 * i))));
        }
    }
}

}  // namespace
}  // namespace tercet
