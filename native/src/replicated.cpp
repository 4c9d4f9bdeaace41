#include "replicated.hpp"

#include <algorithm>
#include <cstring>

#include "dispatch.hpp"
#include "packing.hpp"

namespace tercet {
namespace {

constexpr index_t block = 512;  // elements at a time: what is unpacked of them stays in the cache

// The bits of elements [first, first + n) as all ones or 0.
void expand(const KernelTable& table, const u64* plane, index_t first, index_t n, u64* out) {
    table.expand_mask(plane + first / 64, plane_words(n), out);
}

void clear(u64* words, index_t count) {
    std::memset(words, 0, static_cast<std::size_t>(count) * sizeof(u64));
}


}  // namespace

void truncate_lend(const TruncateLend& step) {
    const KernelTable& table = kernels();
    const index_t n = step.n;
    const bool lends_value = step.wide % 2 != 0;
    const bool flips = step.wide > 1;
    const index_t product = lends_value ? n : 0;
    const index_t bit = product + n;
    if (step.low_words > 0) {
        clear(step.low, step.low_words);
    }
    u64 flip[block];
    u64 low[2][block];
    for (index_t first = 0; first < n; first += block) {
        LendBlock b{};
        b.n = std::min(block, n - first);
        b.shift = step.shift;
        b.u = step.u + first;
        if (lends_value) {
            b.value_mask = step.masks + first;
            b.value = step.lent + first;
        }
        if (flips) {
            expand(table, step.plane, first, b.n, flip);
            b.flip = flip;
            b.product_mask = step.masks + product + first;
            b.product = step.lent + product + first;
            b.bit_mask = step.masks + bit + first;
            b.bit = step.lent + bit + first;
        }
        b.low = low[0];
        b.low_product = low[1];
        const index_t rows = step.shift == 0 ? 0 : flips ? 2 : 1;
        for (index_t r = 0; r < rows; ++r) {
            unpack_bits_at(step.low_masks, step.low_words, (r * n + first) * step.shift, b.n,
                           step.shift, low[r]);
        }
        table.lend_block(b);
        for (index_t r = 0; r < rows; ++r) {
            pack_bits_at(low[r], b.n, step.shift, step.low, step.low_words,
                         (r * n + first) * step.shift);
        }
    }
}

void truncate_apply(const TruncateApply& step) {
    const KernelTable& table = kernels();
    const index_t n = step.n;
    const bool flips = step.wide > 1;
    const index_t product = step.wide % 2 != 0 ? n : 0;
    const index_t back = flips ? n : 0;  // where a message's packed part begins
    const index_t back_words = low_words(n, step.shift);
    if (back_words > 0) {
        clear(step.message + back, back_words);
    }
    u64 flip[block];
    u64 low[2][block];
    u64 low_mask[2][block];
    u64 carry[block];
    for (index_t first = 0; first < n; first += block) {
        ApplyBlock b{};
        b.n = std::min(block, n - first);
        b.shift = step.shift;
        b.v = step.v + first;
        b.copy = step.copy + first;
        if (flips) {
            expand(table, step.plane, first, b.n, flip);
            b.flip = flip;
            b.product = step.lent + product + first;
            b.bit = b.product + n;
            b.mask = step.mask + first;
            b.other_mask = step.other_mask + first;
            b.multiple = step.message + first;
            b.multiple_third = step.multiple_third + first;
        }
        if (step.shift != 0) {
            const index_t from = first * step.shift;
            for (index_t r = 0; r < (flips ? 2 : 1); ++r) {
                unpack_bits_at(step.low, step.low_words, r * n * step.shift + from, b.n,
                               step.shift, low[r]);
            }
            unpack_bits_at(step.mask + back, back_words, from, b.n, step.shift, low_mask[0]);
            unpack_bits_at(step.other_mask + back, back_words, from, b.n, step.shift, low_mask[1]);
            b.low = low[0];
            b.low_product = low[1];
            b.low_mask = low_mask[0];
            b.other_low_mask = low_mask[1];
            b.carry = carry;
            b.value = step.value + first;
            b.third = step.third + first;
        }
        table.apply_block(b);
        if (step.shift != 0) {
            pack_bits_at(carry, b.n, step.shift, step.message + back, back_words,
                         first * step.shift);
        }
    }
}

void add_carries(const u64* x, const u64* low, index_t n, int bits, u64* out) {
    const KernelTable& table = kernels();
    u64 carry[block];
    for (index_t first = 0; first < n; first += block) {
        const index_t here = std::min(block, n - first);
        unpack_bits_at(low, low_words(n, bits), first * bits, here, bits, carry);
        table.add_shifted(x + first, carry, here, 64 - bits, out + first);
    }
}

void choose(const u64* plane, const u64* x, const u64* multiple, index_t n, u64* out) {
    const KernelTable& table = kernels();
    u64 chosen[block];
    for (index_t first = 0; first < n; first += block) {
        const index_t here = std::min(block, n - first);
        expand(table, plane, first, here, chosen);
        table.choose_block(chosen, x + first, multiple + first, here, out + first);
    }
}

void lend_leaves(const u64* planes, index_t width, const LeafBlock* blocks, index_t block_count,
                 const u64* masks, u64* out) {
    const KernelTable& table = kernels();
    for (const LeafBlock* b = blocks; b != blocks + block_count; ++b) {
        for (index_t i = 0; i < b->count; ++i) {
            table.leaf_monomials({.planes = planes + i * b->size * width,
                                  .width = width,
                                  .step = b->count * width,
                                  .masks = masks + i * width,
                                  .out = out + i * width},
                                 b->size);
        }
        planes += b->size * b->count * width;
        masks += b->monomials() * width;
        out += b->monomials() * width;
    }
}

void answer_leaves(const u64* planes, index_t width, const LeafBlock* blocks, index_t block_count,
                   const u64* lent, const u64* mask, const u64* other_mask, u64* answer,
                   u64* third) {
    const KernelTable& table = kernels();
    index_t leaves = 0;
    for (const LeafBlock* b = blocks; b != blocks + block_count; ++b) {
        leaves += b->count;
    }
    index_t generate = 0;
    for (const LeafBlock* b = blocks; b != blocks + block_count; ++b) {
        for (index_t i = 0; i < b->count; ++i, generate += width) {
            // There is none of the lowest leaf.
            const index_t propagate = generate + (leaves - 1) * width;
            table.leaf_answers({.planes = planes + i * b->size * width,
                                .width = width,
                                .step = b->count * width,
                                .lent = lent + i * width,
                                .generate_mask = mask + generate,
                                .generate_other = other_mask + generate,
                                .propagate_mask = mask + propagate,
                                .propagate_other = other_mask + propagate,
                                .generate = answer + generate,
                                .generate_third = third + generate,
                                .propagate = generate != 0 ? answer + propagate : nullptr,
                                .propagate_third = third + propagate},
                               b->size);
        }
        planes += b->size * b->count * width;
        lent += b->monomials() * width;
    }
}

}  // namespace tercet
