// The plain data types which cross from the drivers to the instruction-set specific kernels, and
// the table of those kernels. Everything is arithmetic modulo 2^64; no kernel branches on, or
// indexes by, the value of an element, because elements are secret shares.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tercet {

using u64 = std::uint64_t;
using index_t = std::ptrdiff_t;

// One product sum_k A[r, k] * B[k, j] for a block of rows r.
//
// Row r of A is scattered: it is the concatenation of `segments` runs of `segment_length`
// consecutive elements, run s starting at rows[r] + segment_offset[s]. A plain matrix has one
// segment; a convolution has one a kernel row (or tap), so that no patch has to be copied.
//
// Row k of B, columns [p * panel, (p + 1) * panel), starts at b + p * panel_stride + k * ldb.
struct RowsTerm {
    const u64* const* rows;
    const index_t* segment_offset;
    index_t segments;
    index_t segment_length;
    const u64* b;
    index_t ldb;
    index_t panel_stride;
};

// out[r, c] = sum_t rows[r][tap_offset[t] + c] * w[t * ldw + c] for a block of rows r.
struct DepthwiseBlock {
    const u64* const* rows;
    index_t row_count;
    const index_t* tap_offset;
    index_t taps;
    const u64* w;
    index_t ldw;
    index_t channels;
    u64* out;
    index_t ldo;
    bool accumulate;
};

// A block of the lending step of a truncation (protocol/replicated/truncate.py). Pointers to what
// is not wanted are null; `flip` has all ones or 0 an element.
struct LendBlock {
    index_t n;
    int shift;
    const u64* u;
    const u64* flip;
    const u64* value_mask;
    const u64* product_mask;
    const u64* bit_mask;
    u64* value;        // U
    u64* product;      // t U
    u64* bit;          // t
    u64* low;          // holds the masks, gets a
    u64* low_product;  // holds the masks, gets t a
};

// A block of the answer of worker 1 or 2: of y if shift > 0, of r y if there is a flip.
struct ApplyBlock {
    index_t n;
    int shift;
    const u64* v;
    const u64* flip;
    const u64* copy;             // of U
    const u64* product;          // of t U
    const u64* bit;              // of t
    const u64* low;              // of a
    const u64* low_product;      // of t a
    const u64* mask;             // of what this worker returns of r y, and the other one's
    const u64* other_mask;
    const u64* low_mask;         // the same of a b
    const u64* other_low_mask;
    u64* multiple;               // this worker's returned summand of r y
    u64* multiple_third;
    u64* carry;                  // this worker's returned summand of a b
    u64* value;                  // this worker's returned summand of y
    u64* third;
};

// Most bits of a leaf of the carry tree: beyond it what worker 0 lends grows out of hand.
constexpr int max_leaf = 7;

// A leaf of the carry tree at worker 0. Its bit i is plane i, `width` words each; row n of `masks`
// and `out` is n * step words on.
struct MonomialsLeaf {
    const u64* planes;
    index_t width;
    index_t step;
    const u64* masks;
    u64* out;
};

// A leaf at worker 1 or 2; without propagate if that is null.
struct AnswersLeaf {
    const u64* planes;
    index_t width;
    index_t step;
    const u64* lent;
    const u64* generate_mask;
    const u64* generate_other;
    const u64* propagate_mask;
    const u64* propagate_other;
    u64* generate;
    u64* generate_third;
    u64* propagate;
    u64* propagate_third;
};

// A comparison by digits (digits.hpp): most bits, of the smaller prime, and most digits.
constexpr int most_bits = 60;
constexpr int small_bits = 24;
constexpr int max_digits = most_bits / 2;

// Digits of a comparison of `bits` bits, and the rows that worker 0 lends for it.
constexpr int digit_count(int bits) { return (bits + 1) / 2; }
constexpr int lent_digits(int bits) { return 3 * digit_count(bits) - (bits % 2 != 0 ? 4 : 2); }
// The bits of an element in a message, and the digits that a word of randomness gives.
constexpr int digit_bits(int bits) { return bits <= small_bits ? 4 : 5; }
constexpr int digits_per_word(int bits) { return bits <= small_bits ? 4 : 3; }

// Bits `shift` to `shift + bits - 2` of u at worker 0. `out` has rows of `stride` bytes, whose
// first n are written; `masks` rows of n words.
struct DigitsLend {
    index_t n;
    index_t stride;
    int bits;
    int shift;
    const u64* u;
    const u64* masks;
    std::uint8_t* out;
};

// The answer of worker 1 (`first`), whose copies follow from `lent_words`, or of worker 2, to which
// they were sent. `reverse` is a bit plane: whether to find u < w.
struct DigitsAnswer {
    index_t n;
    index_t stride;
    int bits;
    int shift;
    bool first;
    const u64* v;
    const u64* reverse;
    const u64* lent_words;
    const std::uint8_t* lent;
    const u64* units;
    const u64* offsets;
    const u64* masks;
    std::uint8_t* out;
};

// Whether the two answers have a zero: a bit plane.
struct DigitsZero {
    index_t n;
    index_t stride;
    int bits;
    const std::uint8_t* one;
    const std::uint8_t* two;
    u64* out;
};

// The deepest sum that `rows_product` takes over all terms, padding included: what the 32-bit sums
// of isa_amx.cpp hold.
constexpr index_t max_product_depth = 16384;

constexpr index_t max_product_height = 96;

// A way to multiply blocks of A by packed panels of B.
struct ProductKernels {
    index_t panel;   // columns of a packed panel of B
    index_t unit;    // a block of packed B takes the space of a multiple of as many rows
    index_t height;  // rows of A that a matrix product takes at a time; max_product_height at most
    bool packed;     // B has to be packed; otherwise it may be

    // out[r, j] (+)= sum over the terms, for r < m and j < n.
    void (*rows_product)(const RowsTerm* terms, index_t term_count, index_t m, index_t n, u64* out,
                         index_t ldo, bool accumulate);
    // Packs every panel of n columns, one after the other; unless `packed`, in this way:
    // dst[p][k][0..panel) = b[k, p * panel ..].
    void (*pack_panels)(const u64* b, index_t ldb, index_t k, index_t n, u64* dst);
};

constexpr index_t round_up(index_t value, index_t unit) {
    return (value + unit - 1) / unit * unit;
}

struct KernelTable {
    const char* name;
    index_t lanes;  // elements in a vector

    ProductKernels words;         // multiplies whole elements
    const ProductKernels* limbs;  // multiplies them byte by byte; null where there is no AMX
    bool always_limbs;            // even where `words` is faster

    // out[i, j] (+)= dot(a[i, :], bt[j, :]), vectorised along k: for a handful of columns.
    void (*dot_product)(const u64* a, index_t lda, const u64* bt, index_t ldbt, index_t m,
                        index_t n, index_t k, u64* out, index_t ldo, bool accumulate);
    void (*depthwise)(const DepthwiseBlock& block);

    // Plane j < count of 64 elements goes to out[j]: bit i of it is bit shift + j of x[i].
    void (*bit_planes_64)(const u64* x, int shift, int count, u64* out, index_t stride);
    // The inverse: x[i] = sum_j bit i of planes[j * stride] << j, for i < 64.
    void (*planes_to_words_64)(const u64* planes, index_t stride, int count, u64* x);
    // out[i] = all ones where bit i of the plane is set, else 0, for i < 64 * words.
    void (*expand_mask)(const u64* plane, index_t words, u64* out);
    // out[r] += sum_j (bit j of rows[r] - bit j of the plane) * x[j], for r < 64 and j < 64.
    void (*project_64)(const u64* x, const u64* rows, u64 plane, u64* out);

    // The low 8, 16 or 32 bits of every element, and back.
    void (*narrow)(const u64* x, index_t n, int bits, void* out);
    void (*widen)(const void* in, index_t n, int bits, u64* out);

    void (*lend_block)(const LendBlock& block);
    void (*apply_block)(const ApplyBlock& block);
    // out[i] = x[i] + (low[i] << places).
    void (*add_shifted)(const u64* x, const u64* low, index_t n, int places, u64* out);
    // out[i] = multiple[i] where chosen[i] is all ones, x[i] - multiple[i] where it is 0.
    void (*choose_block)(const u64* chosen, const u64* x, const u64* multiple, index_t n,
                         u64* out);
    // Leaves of 1 to max_leaf bits.
    void (*leaf_monomials)(const MonomialsLeaf& leaf, int size);
    void (*leaf_answers)(const AnswersLeaf& leaf, int size);
    void (*lend_digits)(const DigitsLend& all);
    void (*answer_digits)(const DigitsAnswer& all);
    void (*find_zero)(const DigitsZero& all);
};

}  // namespace tercet
