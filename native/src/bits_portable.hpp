// Bit slicing with 64-bit scalar operations: a 64 x 64 bit matrix is transposed by exchanging
// off-diagonal blocks of 32, 16, ... 1 (Warren, Hacker's Delight, 2nd ed., section 7-3).
#pragma once

#include "kernels.hpp"

namespace tercet {
namespace {

// Row i, bit j goes to row j, bit i.
inline void transpose_64(u64* rows) {
    u64 mask = 0x00000000FFFFFFFFU;
    for (int width = 32; width != 0; width >>= 1, mask ^= mask << width) {
        for (int base = 0; base < 64; base += 2 * width) {
            for (int i = base; i < base + width; ++i) {
                const u64 difference = ((rows[i] >> width) ^ rows[i + width]) & mask;
                rows[i] ^= difference << width;
                rows[i + width] ^= difference;
            }
        }
    }
}

void bit_planes_64(const u64* x, int shift, int count, u64* out, index_t stride) {
    u64 rows[64];
    for (int i = 0; i < 64; ++i) {
        rows[i] = x[i];
    }
    transpose_64(rows);
    for (int j = 0; j < count; ++j) {
        out[j * stride] = rows[shift + j];
    }
}

void planes_to_words_64(const u64* planes, index_t stride, int count, u64* x) {
    for (int j = 0; j < count; ++j) {
        x[j] = planes[j * stride];
    }
    for (int j = count; j < 64; ++j) {
        x[j] = 0;
    }
    transpose_64(x);
}

void expand_mask(const u64* plane, index_t words, u64* out) {
    for (index_t w = 0; w < words; ++w) {
        for (int i = 0; i < 64; ++i) {
            out[64 * w + i] = u64{0} - (plane[w] >> i & 1U);
        }
    }
}

}  // namespace
}  // namespace tercet
