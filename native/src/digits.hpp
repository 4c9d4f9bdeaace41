// Comparison by digits (protocol/replicated/digits.py): worker 0 holds u, workers 1 and 2 hold v,
// and worker 0 shall learn whether u > w, with w = ~v, or whether not, as a bit of the pair says.
//
// Numbers of `bits` bits, the lowest of which is 0 in u and 1 in w, are read as digits of two bits,
// the highest one of one bit where `bits` is odd. Of the digit d from the top, modulo a prime above
// the number of digits,
//
//     c_d = 1 - [u_d > w_d] + sum over the digits j above it of [u_j != w_j]
//
// (u_d < w_d in the other direction) is 0 for the highest digit that differs, if the relation holds
// there, and nowhere else. It is linear in the bits h, l of u_d and their product, of which the pair
// has copies. What worker 0 gets is each c_d times a random unit, in a random rotation, masked.
//
// Rows have an element a byte. Randomness is drawn as words: each gives several digits, by repeated
// multiplication of the fraction word / 2^64. See gemm.hpp for the unnamed namespace.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels.hpp"

namespace tercet {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;

constexpr index_t digit_block = 512;  // elements at a time: their rows stay in the first cache
constexpr int max_lent = lent_digits(most_bits);

template <int Prime, int Bits, int PerWord>
struct PrimeField {
    static constexpr int prime = Prime;
    static_assert(prime < 1 << Bits);
    static constexpr int bits = Bits;
    static constexpr int per_word = PerWord;

    // x + y, x - y and one reduction, for x and y below the prime.
    static u8 reduced(u8 x) {
        const u8 less = static_cast<u8>(x - prime);
        return std::min(x, less);  // wraps if x is below the prime
    }
    static u8 add(u8 x, u8 y) { return reduced(static_cast<u8>(x + y)); }
    static u8 sub(u8 x, u8 y) { return reduced(static_cast<u8>(x + prime - y)); }
};

template <int Prime, int Widest>
using FieldFor = PrimeField<Prime, digit_bits(Widest), digits_per_word(Widest)>;

using Small = FieldFor<13, small_bits>;
using Large = FieldFor<31, most_bits>;

using Row = u8[digit_block];

inline u8 where(u8 mask, u8 yes, u8 no) { return static_cast<u8>(no ^ ((no ^ yes) & mask)); }

// The next digit of the fraction state / 2^64, which becomes the rest: state * base / 2^64.
inline u64 next_digit(u64& state, u64 base) {
    const u64 low = (state & 0xffffffffU) * base;
    const u64 high = (state >> 32) * base + (low >> 32);
    state = high << 32 | (low & 0xffffffffU);
    return high >> 32;
}

// rows[r][i] = digit r of words[i], for r < Count.
template <int Base, int Count>
void draw_word(const u64* words, index_t n, Row* rows) {
#pragma GCC ivdep
    for (index_t i = 0; i < n; ++i) {
        u64 state = words[i];
        rows[0][i] = static_cast<u8>(next_digit(state, Base));
        if constexpr (Count > 1) {
            rows[1][i] = static_cast<u8>(next_digit(state, Base));
        }
        if constexpr (Count > 2) {
            rows[2][i] = static_cast<u8>(next_digit(state, Base));
        }
        if constexpr (Count > 3) {
            rows[3][i] = static_cast<u8>(next_digit(state, Base));
        }
    }
}

// `count` rows, the last ones of a word drawn and not used, from rows of `step` words.
template <class Field, int Base>
void draw(const u64* words, index_t step, index_t n, int count, Row* rows) {
    for (int r = 0; r < count; r += Field::per_word) {
        draw_word<Base, Field::per_word>(words + r / Field::per_word * step, n, rows + r);
    }
}

// Rows of bytes to rows of a message and back: row r has bits r * Field::bits on.
template <class Field>
void pack_rows(const Row* rows, int count, index_t n, u8* out, index_t stride) {
    constexpr int bits = Field::bits;
    for (int o = 0; 8 * o < count * bits; ++o) {
        u8* to = out + o * stride;
        std::memset(to, 0, static_cast<std::size_t>(n));
        const int last = std::min(count - 1, (8 * o + 7) / bits);
        for (int r = 8 * o / bits; r <= last; ++r) {
            const int left = r * bits - 8 * o;
            const u8* row = rows[r];
#pragma GCC ivdep
            for (index_t i = 0; i < n; ++i) {
                const unsigned wide = static_cast<unsigned>(row[i]) << (left + 8);
                to[i] = static_cast<u8>(to[i] | wide >> 8);
            }
        }
    }
}

template <class Field>
void unpack_rows(const u8* in, index_t stride, int count, index_t n, Row* rows) {
    constexpr int bits = Field::bits;
    for (int r = 0; r < count; ++r) {
        const u8* low = in + r * bits / 8 * stride;
        const int right = r * bits % 8;
        const u8* high = right + bits > 8 ? low + stride : low;
        u8* row = rows[r];
#pragma GCC ivdep
        for (index_t i = 0; i < n; ++i) {
            const unsigned both = low[i] | static_cast<unsigned>(high[i]) << 8;
            row[i] = static_cast<u8>(both >> right & ((1U << bits) - 1));
        }
    }
}

// row[i] = bits `from` and, if there are two, `from` + 1 of x[i].
inline void digit_of(const u64* x, index_t n, int from, unsigned mask, u8* row) {
#pragma GCC ivdep
    for (index_t i = 0; i < n; ++i) {
        row[i] = static_cast<u8>(x[i] >> from & mask);
    }
}

// Of the digit d from the bottom: where its bits are in u or v (a digit has its low bit at
// `from`, but the bottom one, whose low bit is a constant), and its first lent row.
struct Digit {
    int from;
    bool high_only;  // the bottom one
    bool low_only;   // a top one of one bit
    int row;
};

inline Digit digit_at(int d, int bits, int shift) {
    if (d == 0) {
        return {shift, true, false, 0};
    }
    return {shift + 2 * d - 1, false, bits % 2 != 0 && d == digit_count(bits) - 1, 3 * d - 2};
}

template <class Field>
void lend_digits_in(const DigitsLend& all) {
    const int lent = lent_digits(all.bits);
    Row rows[max_lent];
    Row masks[max_lent + 2];
    for (index_t first = 0; first < all.n; first += digit_block) {
        const index_t n = std::min(digit_block, all.n - first);
        draw<Field, Field::prime>(all.masks + first, all.n, n, lent, masks);
        for (int d = 0; d < digit_count(all.bits); ++d) {
            const Digit digit = digit_at(d, all.bits, all.shift);
            u8* one = rows[digit.row];
            if (digit.high_only || digit.low_only) {
                digit_of(all.u + first, n, digit.from, 1, one);
                continue;
            }
            u8* low = rows[digit.row + 1];
            u8* both = rows[digit.row + 2];
            digit_of(all.u + first, n, digit.from + 1, 1, one);
            digit_of(all.u + first, n, digit.from, 1, low);
            for (index_t i = 0; i < n; ++i) {
                both[i] = one[i] & low[i];
            }
        }
        for (int r = 0; r < lent; ++r) {
            for (index_t i = 0; i < n; ++i) {
                rows[r][i] = Field::sub(rows[r][i], masks[r][i]);
            }
        }
        pack_rows<Field>(rows, lent, n, all.out + first, all.stride);
    }
}

// The c_d of a digit: `above` is the sum over the digits above it, to which it adds its own.
template <class Field>
void differences(const Digit& digit, const u8* v, const u8* reverse, const Row* lent, u8 one,
                 index_t n, u8* above, u8* out) {
    const u8* first = lent[digit.row];
    if (digit.high_only) {
        for (index_t i = 0; i < n; ++i) {
            const u8 w = static_cast<u8>((v[i] & 1) - 1);  // all ones where the bit of w is set
            const u8 greater = where(w, 0, first[i]);
            const u8 less = where(w, one, Field::sub(one, first[i]));
            const u8 holds = where(reverse[i], less, greater);
            out[i] = Field::add(Field::sub(one, holds), above[i]);
        }
        return;
    }
    if (digit.low_only) {
        for (index_t i = 0; i < n; ++i) {
            const u8 w = static_cast<u8>((v[i] & 1) - 1);
            const u8 zero = Field::sub(one, first[i]);
            const u8 holds = where(reverse[i], where(w, zero, 0), where(w, 0, first[i]));
            out[i] = Field::add(Field::sub(one, holds), above[i]);
            above[i] = Field::add(above[i], where(w, zero, first[i]));
        }
        return;
    }
    const u8* low = lent[digit.row + 1];
    const u8* both = lent[digit.row + 2];
    for (index_t i = 0; i < n; ++i) {
        const u8 wh = static_cast<u8>((v[i] >> 1 & 1) - 1);
        const u8 wl = static_cast<u8>((v[i] & 1) - 1);
        const u8 h = first[i];
        const u8 three = both[i];
        const u8 two = Field::sub(h, three);
        const u8 unit = Field::sub(low[i], three);
        const u8 any = Field::add(h, unit);
        const u8 zero = Field::sub(one, any);
        const u8 equal = where(wh, where(wl, three, two), where(wl, unit, zero));
        const u8 greater = where(wh, where(wl, 0, three), where(wl, h, any));
        const u8 less = where(wh, where(wl, Field::sub(one, three), Field::sub(one, h)),
                              where(wl, zero, 0));
        const u8 holds = where(reverse[i], less, greater);
        out[i] = Field::add(Field::sub(one, holds), above[i]);
        above[i] = Field::add(above[i], Field::sub(one, equal));
    }
}

// row[i] = row[i] * (unit[i] + 1) modulo the prime.
template <class Field>
void blind(u8* row, const u8* unit, index_t n) {
    constexpr u16 inverse = (1U << 16) / Field::prime + 1;  // exact for products below 2^10
    for (index_t i = 0; i < n; ++i) {
        const u16 product = static_cast<u16>(row[i] * (unit[i] + 1));
        const u16 times = static_cast<u16>(static_cast<unsigned>(product) * inverse >> 16);
        row[i] = static_cast<u8>(product - times * Field::prime);
    }
}

// Rotate the rows of each element by its own offset, power of two by power of two.
inline void rotate(Row* rows, Row* spare, int count, const u8* offset, index_t n) {
    for (int step = 1; step < count; step *= 2) {
        std::memcpy(spare, rows, static_cast<std::size_t>(count) * sizeof(Row));
        for (int r = 0; r < count; ++r) {
            const u8* other = spare[(r + step) % count];
            u8* row = rows[r];
#pragma GCC ivdep
            for (index_t i = 0; i < n; ++i) {
                const u8 moves = static_cast<u8>(-((offset[i] & step) != 0));
                row[i] = where(moves, other[i], row[i]);
            }
        }
    }
}

template <class Field>
void answer_digits_in(const DigitsAnswer& all) {
    const int count = digit_count(all.bits);
    const int lent_rows = lent_digits(all.bits);
    const u8 one = all.first ? 1 : 0;
    Row lent[max_lent + 2];
    Row rows[max_digits];
    Row spare[max_digits + 2];
    Row offset;
    Row reverse;
    Row above;
    Row v;
    for (index_t first = 0; first < all.n; first += digit_block) {
        const index_t n = std::min(digit_block, all.n - first);
        if (all.first) {
            draw<Field, Field::prime>(all.lent_words + first, all.n, n, lent_rows, lent);
        } else {
            unpack_rows<Field>(all.lent + first, all.stride, lent_rows, n, lent);
        }
        for (index_t i = 0; i < n; ++i) {
            reverse[i] = static_cast<u8>(-(all.reverse[(first + i) / 64] >> (first + i) % 64 & 1));
        }
        std::memset(above, 0, sizeof above);
        for (int d = count - 1; d >= 0; --d) {
            const Digit digit = digit_at(d, all.bits, all.shift);
            digit_of(all.v + first, n, digit.from, 3, v);
            differences<Field>(digit, v, reverse, lent, one, n, above, rows[d]);
        }
        draw<Field, Field::prime - 1>(all.units + first, all.n, n, count, spare);
        for (int d = 0; d < count; ++d) {
            blind<Field>(rows[d], spare[d], n);
        }
        for (index_t i = 0; i < n; ++i) {
            u64 state = all.offsets[first + i];
            offset[i] = static_cast<u8>(next_digit(state, static_cast<u64>(count)));
        }
        rotate(rows, spare, count, offset, n);
        draw<Field, Field::prime>(all.masks + first, all.n, n, count, spare);
        for (int d = 0; d < count; ++d) {
            for (index_t i = 0; i < n; ++i) {
                const u8 mask = spare[d][i];
                rows[d][i] = all.first ? Field::add(rows[d][i], mask) : Field::sub(rows[d][i], mask);
            }
        }
        pack_rows<Field>(rows, count, n, all.out + first, all.stride);
    }
}

template <class Field>
void find_zero_in(const DigitsZero& all) {
    const int count = digit_count(all.bits);
    Row one[max_digits];
    Row two[max_digits];
    Row found;
    for (index_t first = 0; first < all.n; first += digit_block) {
        const index_t n = std::min(digit_block, all.n - first);
        unpack_rows<Field>(all.one + first, all.stride, count, n, one);
        unpack_rows<Field>(all.two + first, all.stride, count, n, two);
        std::memset(found, 0, sizeof found);
        for (int d = 0; d < count; ++d) {
            for (index_t i = 0; i < n; ++i) {
                const u8 sum = Field::add(one[d][i], two[d][i]);
                found[i] = static_cast<u8>(found[i] | (sum == 0));
            }
        }
        for (index_t at = 0; at < n; at += 64) {
            u64 word = 0;
            for (index_t i = at; i < std::min(n, at + 64); ++i) {
                word |= static_cast<u64>(found[i]) << (i - at);
            }
            all.out[(first + at) / 64] = word;
        }
    }
}

void lend_digits(const DigitsLend& all) {
    (all.bits <= small_bits ? lend_digits_in<Small> : lend_digits_in<Large>)(all);
}

void answer_digits(const DigitsAnswer& all) {
    (all.bits <= small_bits ? answer_digits_in<Small> : answer_digits_in<Large>)(all);
}

void find_zero(const DigitsZero& all) {
    (all.bits <= small_bits ? find_zero_in<Small> : find_zero_in<Large>)(all);
}

}  // namespace
}  // namespace tercet
