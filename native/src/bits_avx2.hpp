// Bit slicing with AVX2: as with AVX-512, but 32 elements at a time and with vpmovmskb, which takes
// the top bit of every byte.
#pragma once

#include <immintrin.h>

#include "kernels.hpp"

namespace tercet {
namespace {

// Transposes the 8 x 8 matrix of 16-bit words in each 128-bit lane.
inline void transpose_words(__m256i (&r)[8]) {
    __m256i a[8];
    __m256i b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
        b[4 * i] = _mm256_unpacklo_epi32(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm256_unpackhi_epi32(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm256_unpacklo_epi32(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm256_unpackhi_epi32(a[4 * i + 1], a[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        r[2 * i] = _mm256_unpacklo_epi64(b[i], b[4 + i]);
        r[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[4 + i]);
    }
}

// bytes[j] holds byte j of 32 elements, in element order: register i is loaded with elements 2i and
// 2i + 1 in its low lane and 16 + 2i and 17 + 2i in its high lane.
inline void bytes_of_32(const u64* x, __m256i (&bytes)[8]) {
    const __m256i pairs = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        const __m256i v =
            _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(x + 16 + 2 * i),
                                reinterpret_cast<const __m128i*>(x + 2 * i));
        bytes[i] = _mm256_shuffle_epi8(v, pairs);
    }
    transpose_words(bytes);
}

inline void words_of_32(__m256i (&bytes)[8], u64* x) {
    const __m256i apart = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    transpose_words(bytes);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        _mm256_storeu2_m128i(reinterpret_cast<__m128i*>(x + 16 + 2 * i),
                             reinterpret_cast<__m128i*>(x + 2 * i),
                             _mm256_shuffle_epi8(bytes[i], apart));
    }
}

void bit_planes_64(const u64* x, int shift, int count, u64* out, index_t stride) {
    __m256i low[8];
    __m256i high[8];
    bytes_of_32(x, low);
    bytes_of_32(x + 32, high);
    for (int j = 0; j < count;) {
        const int bit = shift + j;
        const int left = 8 - bit % 8 < count - j ? 8 - bit % 8 : count - j;
        for (int i = 0; i < left; ++i, ++j) {
            // The shift is by 16-bit lanes: what it carries into a byte from the one below arrives
            // under the bit that is tested.
            const __m128i amount = _mm_cvtsi32_si128(7 - bit % 8 - i);
            const auto l = static_cast<unsigned>(
                _mm256_movemask_epi8(_mm256_sll_epi16(low[bit / 8], amount)));
            const auto h = static_cast<unsigned>(
                _mm256_movemask_epi8(_mm256_sll_epi16(high[bit / 8], amount)));
            out[j * stride] = static_cast<u64>(h) << 32 | l;
        }
    }
}

// Byte i of the result is all ones where bit i of the mask is set.
inline __m256i mask_bytes(std::uint32_t mask) {
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                            2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bits = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201U));
    const __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(mask)), spread);
    return _mm256_cmpeq_epi8(_mm256_and_si256(v, bits), bits);
}

void planes_to_words_64(const u64* planes, index_t stride, int count, u64* x) {
    __m256i low[8];
    __m256i high[8];
    for (int byte = 0; byte < 8; ++byte) {
        low[byte] = _mm256_setzero_si256();
        high[byte] = _mm256_setzero_si256();
        for (int j = 8 * byte; j < count && j < 8 * byte + 8; ++j) {
            const u64 word = planes[j * stride];
            const __m256i bit = _mm256_set1_epi8(static_cast<char>(1U << (j % 8)));
            low[byte] = _mm256_or_si256(
                low[byte], _mm256_and_si256(bit, mask_bytes(static_cast<std::uint32_t>(word))));
            high[byte] = _mm256_or_si256(
                high[byte],
                _mm256_and_si256(bit, mask_bytes(static_cast<std::uint32_t>(word >> 32))));
        }
    }
    words_of_32(low, x);
    words_of_32(high, x + 32);
}

void expand_mask(const u64* plane, index_t words, u64* out) {
    const __m256i bits = _mm256_setr_epi64x(1, 2, 4, 8);
    for (index_t w = 0; w < words; ++w) {
        for (int i = 0; i < 16; ++i) {
            const __m256i v = _mm256_and_si256(
                _mm256_set1_epi64x(static_cast<long long>(plane[w] >> (4 * i))), bits);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 64 * w + 4 * i),
                                _mm256_cmpeq_epi64(v, bits));
        }
    }
}

}  // namespace
}  // namespace tercet
