// The local steps of the replicated protocol on whole arrays: src/tercet/protocol/replicated has
// what they are steps of, and why. All in one pass over memory, block by block.
#pragma once

#include "kernels.hpp"

namespace tercet {

// What worker 0 lends in a truncation by `shift` (0 to 62). `wide` rows of n elements: U if that is
// odd, t U and t if there is a flip, so if it is more than one. `low` is a, and t a if there is a
// flip, `shift` bits each, packed. `plane` has a bit t an element; it is read if there is a flip.
struct TruncateLend {
    index_t n;
    int shift;
    index_t wide;
    index_t low_words;
    const u64* u;
    const u64* plane;
    const u64* masks;
    const u64* low_masks;
    u64* lent;
    u64* low;
};

// What worker 1 or 2 does with that. Messages and their masks: n words if there is a flip, for r y;
// then ceil(n * shift / 64) words, for a b.
struct TruncateApply {
    index_t n;
    int shift;
    index_t wide;
    index_t low_words;
    const u64* v;
    const u64* plane;
    const u64* copy;
    const u64* lent;
    const u64* low;
    const u64* mask;
    const u64* other_mask;
    u64* message;
    u64* multiple_third;
    u64* value;
    u64* third;
};

constexpr index_t low_words(index_t n, int bits) { return (n * bits + 63) / 64; }

void truncate_lend(const TruncateLend& step);
void truncate_apply(const TruncateApply& step);

// out (n) = x + (low << (64 - bits)), low being packed in `bits` bits (1 to 63).
void add_carries(const u64* x, const u64* low, index_t n, int bits, u64* out);

// out (n) = multiple where the bit of the plane is set, else x - multiple.
void choose(const u64* plane, const u64* x, const u64* multiple, index_t n, u64* out);

// `count` leaves of `size` bits (1 to max_leaf), from the next lower bit up.
struct LeafBlock {
    int size;
    index_t count;
    index_t monomials() const { return ((index_t{1} << size) - 1) * count; }
};

// Of all leaves, bits in `planes`: masked monomials (M, width).
void lend_leaves(const u64* planes, index_t width, const LeafBlock* blocks, index_t block_count,
                 const u64* masks, u64* out);

// Answers and third summands (2 * leaves - 1, width): generate of every leaf, then propagate of all
// but the lowest.
void answer_leaves(const u64* planes, index_t width, const LeafBlock* blocks, index_t block_count,
                   const u64* lent, const u64* mask, const u64* other_mask, u64* answer,
                   u64* third);

}  // namespace tercet
