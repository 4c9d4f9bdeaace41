// The local steps of truncation and selection on a block of elements: loops which the compiler
// vectorises for the instruction set of the including file. `flip` has all ones or 0 an element,
// so that t x is t & x and (1 - 2q) x is (x ^ q) - q. See gemm.hpp for the unnamed namespace.
#pragma once

#include "kernels.hpp"

namespace tercet {
namespace {

// -x where q is all ones, x where it is 0.
inline u64 negated_where(u64 x, u64 q) { return (x ^ q) - q; }

// V = (v >> s) - 2^(64-s) b, b the top bit: the arithmetic shift. V = v without one.
inline u64 shifted(u64 v, int shift) {
    return static_cast<u64>(static_cast<std::int64_t>(v) >> shift);
}

// All ones if the top bit is set.
inline u64 top_mask(u64 v) { return shifted(v, 63); }

// out = U - mask, tU - mask, t - mask; low = a - low and t a - low, where low held the masks.
void lend_block(const LendBlock& b) {
    const index_t n = b.n;  // a copy: what is stored might be part of the block, as far as types go
    constexpr u64 offset = u64{1} << 62;
    // u' = u + 2^62 with its top bit a: U = (u' >> s) - 2^(64-s) a - 2^(62-s).
    const u64 lift = b.shift != 0 ? offset : 0;
    const u64 drop = lift >> b.shift;
    const auto value = [&](index_t i) { return shifted(b.u[i] + lift, b.shift) - drop; };
    if (b.value != nullptr) {
#pragma GCC ivdep
        for (index_t i = 0; i < n; ++i) {
            b.value[i] = value(i) - b.value_mask[i];
        }
    }
    if (b.flip != nullptr) {
#pragma GCC ivdep
        for (index_t i = 0; i < n; ++i) {
            b.product[i] = (value(i) & b.flip[i]) - b.product_mask[i];
            b.bit[i] = (b.flip[i] & 1) - b.bit_mask[i];
        }
    }
    if (b.shift != 0) {
#pragma GCC ivdep
        for (index_t i = 0; i < n; ++i) {
            b.low[i] = ((b.u[i] + offset) >> 63) - b.low[i];
        }
        if (b.flip != nullptr) {
#pragma GCC ivdep
            for (index_t i = 0; i < n; ++i) {
                b.low_product[i] = ((b.u[i] + offset) >> 63 & b.flip[i]) - b.low_product[i];
            }
        }
    }
}

// The copy of r y, masked, and the third summand of r y: q V less the masks.
template <bool HasShift>
void apply_flip(const ApplyBlock& b) {
    const index_t n = b.n;
    const int places = 64 - b.shift;
#pragma GCC ivdep
    for (index_t i = 0; i < n; ++i) {
        const u64 q = b.flip[i];
        const u64 value = shifted(b.v[i], b.shift);
        u64 sum = negated_where(b.product[i], q) + (q & b.copy[i]) +
                  b.bit[i] * negated_where(value, q) + b.mask[i];
        if constexpr (HasShift) {
            const u64 low = negated_where(b.low_product[i], q) + (b.low[i] & q);
            sum += (low & top_mask(b.v[i])) << places;
        }
        b.multiple[i] = sum;
    }
#pragma GCC ivdep
    for (index_t i = 0; i < n; ++i) {
        const u64 value = shifted(b.v[i], b.shift);
        b.multiple_third[i] = (b.flip[i] & value) - b.mask[i] - b.other_mask[i];
    }
}

void apply_block(const ApplyBlock& b) {
    if (b.flip != nullptr) {
        (b.shift != 0 ? apply_flip<true> : apply_flip<false>)(b);
    }
    if (b.shift == 0) {
        return;
    }
    const index_t n = b.n;
    const int places = 64 - b.shift;
#pragma GCC ivdep
    for (index_t i = 0; i < n; ++i) {
        const u64 carry = (b.low[i] & top_mask(b.v[i])) + b.low_mask[i];
        b.carry[i] = carry;
        b.value[i] = b.copy[i] + (carry << places);
        b.third[i] = shifted(b.v[i], b.shift) - ((b.low_mask[i] + b.other_low_mask[i]) << places);
    }
}

void add_shifted(const u64* x, const u64* low, index_t n, int places, u64* out) {
#pragma GCC ivdep
    for (index_t i = 0; i < n; ++i) {
        out[i] = x[i] + (low[i] << places);
    }
}

void choose_block(const u64* chosen, const u64* x, const u64* multiple, index_t n, u64* out) {
#pragma GCC ivdep
    for (index_t i = 0; i < n; ++i) {
        const u64 rest = x[i] - multiple[i];
        out[i] = rest ^ ((rest ^ multiple[i]) & chosen[i]);
    }
}

}  // namespace
}  // namespace tercet
