// Bit slicing and sub-word packing of whole arrays.
#pragma once

#include "kernels.hpp"

namespace tercet {

constexpr index_t plane_words(index_t n) { return (n + 63) / 64; }

// out (count, plane_words(n)): plane j is bit shift + j of every element, padding bits zero.
void bit_planes(const u64* x, index_t n, int shift, int count, u64* out);

// out (n): element i is the sum of bit i of planes[j] << j.
void planes_to_words(const u64* planes, index_t n, int count, u64* out);

// out (n): all ones where the bit is set, else 0.
void expand_mask(const u64* plane, index_t n, u64* out);

// out (64): element r is the sum of (bit j % 64 of rows[j / 64, r] - bit j of the plane) * x[j];
// rows is (plane_words(n), 64).
void project(const u64* x, const u64* rows, const u64* plane, index_t n, u64* out);

constexpr index_t packed_bytes(index_t n, int bits) {
    return n / 8 * bits + (n % 8 * bits + 7) / 8;
}

// The low `bits` bits of every element, little-endian without gaps; unused bits of the last byte
// are zero.
void pack_bits(const u64* x, index_t n, int bits, std::uint8_t* out);
void unpack_bits(const std::uint8_t* in, index_t n, int bits, u64* out);

// The same from any bit of `count` words on, for bits < 64; elements beyond are not touched, but
// the words that are packed into have to be zero before.
void pack_bits_at(const u64* x, index_t n, int bits, u64* words, index_t count, index_t from);
void unpack_bits_at(const u64* words, index_t count, index_t from, index_t n, int bits, u64* out);

}  // namespace tercet
