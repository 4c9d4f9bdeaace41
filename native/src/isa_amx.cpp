// Products by AMX, which multiplies 8-bit numbers and adds up 32-bit ones: 16 x 64 times 64 x 16 of
// them an instruction (tdpbuud), on registers called tiles.
//
// With the eight limbs of a and b, bytes, lowest first,
//
//     a b mod 2^64 = sum_{t < 8} 2^(8 t) D_t,   D_t = sum_{i + j = t} a_i b_j,
//
// which are 36 products of limbs. D_4 to D_7 may wrap at 32 bits, since no more of them reaches the
// result. D_3, the largest of the others, is at most 4 * 255^2 an element of depth; see
// max_product_depth. A block of 16 x 16 elements takes two passes over its depth, one for D_0 to
// D_3 and one for D_4 to D_7: four tiles of sums, one of B and three of A, since what of A limb j
// of B meets is, but for one tile, what limb j - 1 met.
//
// Both operands are laid out as limbs in steps of 64 rows of B: step by step, limb by limb, a tile
// of 1 KB each. A tile of A has 16 rows of 64 bytes; one of B has 16 rows of 16 columns of 4
// consecutive elements.
#include <immintrin.h>

#include "kernels.hpp"
#include "scratch.hpp"

namespace tercet {
namespace {

using Byte = unsigned char;

constexpr index_t limbs = 8;
constexpr index_t side = 16;   // rows of a tile of A, columns of a tile of B
constexpr index_t step = 64;   // elements of depth of both
constexpr index_t tile_bytes = side * step;
constexpr index_t step_bytes = limbs * tile_bytes;
constexpr index_t vector_elements = 8;

static_assert(4ull * 255 * 255 * max_product_depth <= 0xffffffffu);

struct alignas(64) TileConfig {
    Byte palette = 1;
    Byte start_row = 0;
    Byte reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    Byte rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig config;

struct Permutation {
    alignas(64) Byte from[64];
};

// In a vector of eight elements: their limbs 0, then their limbs 1, and so on.
constexpr Permutation by_limb = [] {
    Permutation p{};
    for (int limb = 0; limb < 8; ++limb) {
        for (int element = 0; element < 8; ++element) {
            p.from[8 * limb + element] = static_cast<Byte>(8 * element + limb);
        }
    }
    return p;
}();

// From four rows of 16 columns, in halves of a row, to 16 columns of four elements.
constexpr Permutation by_column = [] {
    Permutation p{};
    for (int column = 0; column < 16; ++column) {
        for (int row = 0; row < 4; ++row) {
            const int half = 2 * row + column / 8;
            p.from[4 * column + row] = static_cast<Byte>(8 * half + column % 8);
        }
    }
    return p;
}();

inline __m512i load(const Permutation& p) { return _mm512_load_si512(p.from); }

// The first n lanes: none if n is negative, all eight if it is greater.
inline __mmask8 lanes(index_t n) {
    n = n < 0 ? 0 : n > vector_elements ? vector_elements : n;
    return static_cast<__mmask8>((1U << n) - 1U);
}

// v[i] becomes word i of every v.
inline void transpose(__m512i (&v)[8]) {
    __m512i pairs[8];
    __m512i fours[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm512_unpacklo_epi64(v[i], v[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi64(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const int at = i / 2 * 4 + i % 2;
        fours[at] = _mm512_shuffle_i64x2(pairs[at], pairs[at + 2], 0x88);
        fours[at + 2] = _mm512_shuffle_i64x2(pairs[at], pairs[at + 2], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        v[i] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0x88);
        v[i + 4] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0xdd);
    }
}

// One row of a step of A: `count` elements and zeros, as one row of eight tiles.
inline void split_row(const u64* from, index_t count, Byte* to) {
    __m512i v[limbs];
    if (count >= step) {
#pragma GCC unroll 8
        for (int i = 0; i < limbs; ++i) {
            v[i] = _mm512_loadu_si512(from + i * vector_elements);
        }
    } else {
#pragma GCC unroll 8
        for (int i = 0; i < limbs; ++i) {
            const index_t at = i * vector_elements;
            v[i] = _mm512_maskz_loadu_epi64(lanes(count - at), from + at);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < limbs; ++i) {
        v[i] = _mm512_permutexvar_epi8(load(by_limb), v[i]);
    }
    transpose(v);
#pragma GCC unroll 8
    for (int i = 0; i < limbs; ++i) {
        _mm512_store_si512(to + i * tile_bytes, v[i]);
    }
}

index_t term_depth(const RowsTerm& term) { return term.segments * term.segment_length; }

// The segments of a row one after the other; writes up to a vector beyond.
void gather(const RowsTerm& term, const u64* row, u64* to) {
    for (index_t s = 0; s < term.segments; ++s, to += term.segment_length) {
        const u64* from = row + term.segment_offset[s];
        for (index_t i = 0; i < term.segment_length; i += vector_elements) {
            _mm512_storeu_si512(
                to + i, _mm512_maskz_loadu_epi64(lanes(term.segment_length - i), from + i));
        }
    }
}

// Rows [0, m) of A, 16 at a time with all terms. Of the last 16, those beyond m stay as they are:
// what they hold only reaches sums that are not stored.
void split_rows(const RowsTerm* terms, index_t term_count, index_t m, index_t panel_bytes,
                u64* gathered, Byte* to) {
    for (index_t i = 0; i < m; ++i) {
        Byte* row = to + i / side * panel_bytes + i % side * step;
        for (index_t t = 0; t < term_count; ++t) {
            const RowsTerm& term = terms[t];
            const u64* from = term.rows[i] + term.segment_offset[0];
            if (term.segments > 1) {
                gather(term, term.rows[i], gathered);
                from = gathered;
            }
            const index_t depth = term_depth(term);
            for (index_t k = 0; k < depth; k += step, row += step_bytes) {
                split_row(from + k, depth - k, row);
            }
        }
    }
}

// Rows beyond k of the last step stay as they are: A is zero there.
void pack_limbs(const u64* b, index_t ldb, index_t k, index_t n, u64* to) {
    constexpr index_t group = 4;
    const index_t panel_bytes = round_up(k, step) / step * step_bytes;
    for (index_t first = 0; first < k; first += step) {
        for (index_t j = 0; j < n; j += side) {
            const __mmask8 mask[2] = {lanes(n - j), lanes(n - j - vector_elements)};
            Byte* tile = reinterpret_cast<Byte*>(to) + j / side * panel_bytes +
                         first / step * step_bytes;
            const index_t last = first + step < k ? first + step : k;
            for (index_t row = first; row < last; row += group, tile += step) {
                __m512i v[limbs];
#pragma GCC unroll 8
                for (int i = 0; i < limbs; ++i) {
                    const index_t at = row + i / 2;
                    v[i] = _mm512_maskz_loadu_epi64(at < k ? mask[i % 2] : __mmask8{0},
                                                    b + at * ldb + j + i % 2 * vector_elements);
                    v[i] = _mm512_permutexvar_epi8(load(by_limb), v[i]);
                }
                transpose(v);
#pragma GCC unroll 8
                for (int i = 0; i < limbs; ++i) {
                    _mm512_store_si512(tile + i * tile_bytes,
                                       _mm512_permutexvar_epi8(load(by_column), v[i]));
                }
            }
        }
    }
}

// Tiles 0 to 3 hold sums, limb i of A is in tile 4 + i % 3, the limb of B in tile 7. The compiler
// wants their numbers as literals.
#define LOAD_A(limb, tile) _tile_loadd(tile, a + (limb) * tile_bytes, step)
#define LOAD_B(limb) _tile_loadd(7, b + (limb) * tile_bytes, step)
#define ADD(sum, tile) _tile_dpbuud(sum, tile, 7)

inline void low_step(const Byte* a, const Byte* b) {
    LOAD_B(0); LOAD_A(3, 4); ADD(3, 4); LOAD_A(2, 6); ADD(2, 6); LOAD_A(1, 5); ADD(1, 5);
               LOAD_A(0, 4); ADD(0, 4);
    LOAD_B(1); ADD(3, 6); ADD(2, 5); ADD(1, 4);
    LOAD_B(2); ADD(3, 5); ADD(2, 4);
    LOAD_B(3); ADD(3, 4);
}

inline void high_step(const Byte* a, const Byte* b) {
    LOAD_B(0); LOAD_A(7, 5); ADD(3, 5); LOAD_A(6, 4); ADD(2, 4); LOAD_A(5, 6); ADD(1, 6);
               LOAD_A(4, 5); ADD(0, 5);
    LOAD_B(1); ADD(3, 4); ADD(2, 6); ADD(1, 5); LOAD_A(3, 4); ADD(0, 4);
    LOAD_B(2); ADD(3, 6); ADD(2, 5); ADD(1, 4); LOAD_A(2, 6); ADD(0, 6);
    LOAD_B(3); ADD(3, 5); ADD(2, 4); ADD(1, 6); LOAD_A(1, 5); ADD(0, 5);
    LOAD_B(4); ADD(3, 4); ADD(2, 6); ADD(1, 5); LOAD_A(0, 4); ADD(0, 4);
    LOAD_B(5); ADD(3, 6); ADD(2, 5); ADD(1, 4);
    LOAD_B(6); ADD(3, 5); ADD(2, 4);
    LOAD_B(7); ADD(3, 4);
}

#undef LOAD_A
#undef LOAD_B
#undef ADD

// What the compiler has not written yet, tiles would not see: GCC's intrinsics do not say that they
// read memory.
inline void finish_writes() { asm volatile("" ::: "memory"); }

struct Sums {
    alignas(64) std::uint32_t of[limbs][side][side];
};

inline void clear_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

inline void store_sums(Sums& sums, int first) {
    _tile_stored(0, sums.of[first], step);
    _tile_stored(1, sums.of[first + 1], step);
    _tile_stored(2, sums.of[first + 2], step);
    _tile_stored(3, sums.of[first + 3], step);
}

template <void (*Step)(const Byte*, const Byte*)>
inline void pass(const Byte* a, const RowsTerm* terms, index_t term_count, index_t panel) {
    clear_sums();
    for (index_t t = 0; t < term_count; ++t) {
        const auto* b = reinterpret_cast<const Byte*>(terms[t].b + panel * terms[t].panel_stride);
        for (index_t k = term_depth(terms[t]); k > 0; k -= step, a += step_bytes, b += step_bytes) {
            Step(a, b);
        }
    }
}

// out (+)= sum_t sums[t] 2^(8 t).
void add_up(const Sums& sums, index_t rows, index_t columns, u64* out, index_t ldo,
            bool accumulate) {
    const __mmask8 mask[2] = {lanes(columns), lanes(columns - vector_elements)};
    for (index_t row = 0; row < rows; ++row, out += ldo) {
        __m512i d[limbs];
#pragma GCC unroll 8
        for (int t = 0; t < limbs; ++t) {
            d[t] = _mm512_load_si512(sums.of[t][row]);
        }
        const __m512i high = _mm512_add_epi32(
            _mm512_add_epi32(d[4], _mm512_slli_epi32(d[5], 8)),
            _mm512_add_epi32(_mm512_slli_epi32(d[6], 16), _mm512_slli_epi32(d[7], 24)));
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const auto wide = [&](__m512i v) {
                return _mm512_cvtepu32_epi64(half == 0 ? _mm512_castsi512_si256(v)
                                                       : _mm512_extracti64x4_epi64(v, 1));
            };
            __m512i v = _mm512_add_epi64(
                _mm512_add_epi64(wide(d[0]), _mm512_slli_epi64(wide(d[1]), 8)),
                _mm512_add_epi64(_mm512_slli_epi64(wide(d[2]), 16),
                                 _mm512_slli_epi64(wide(d[3]), 24)));
            v = _mm512_add_epi64(v, _mm512_slli_epi64(wide(high), 32));
            u64* p = out + half * vector_elements;
            if (accumulate) v = _mm512_add_epi64(v, _mm512_maskz_loadu_epi64(mask[half], p));
            _mm512_mask_storeu_epi64(p, mask[half], v);
        }
    }
}

void limbs_product(const RowsTerm* terms, index_t term_count, index_t m, index_t n, u64* out,
                   index_t ldo, bool accumulate) {
    index_t padded_depth = 0;
    for (index_t t = 0; t < term_count; ++t) {
        padded_depth += round_up(term_depth(terms[t]), step);
    }
    const index_t split = round_up(m, side) * padded_depth;
    u64* memory = scratch(Scratch::packed_a, split + padded_depth + vector_elements);
    auto* a = reinterpret_cast<Byte*>(memory);
    const index_t panel_bytes = padded_depth / step * step_bytes;
    split_rows(terms, term_count, m, panel_bytes, memory + split, a);

    finish_writes();
    _tile_loadconfig(&config);
    Sums sums;
    for (index_t j = 0; j < n; j += side) {
        for (index_t i = 0; i < m; i += side) {
            const Byte* panel = a + i / side * panel_bytes;
            pass<low_step>(panel, terms, term_count, j / side);
            store_sums(sums, 0);
            pass<high_step>(panel, terms, term_count, j / side);
            store_sums(sums, 4);
            finish_writes();
            add_up(sums, m - i < side ? m - i : side, n - j, out + i * ldo + j, ldo, accumulate);
        }
    }
    _tile_release();
}

}  // namespace

extern const ProductKernels amx_limbs;
const ProductKernels amx_limbs = {
    .panel = side,
    .unit = step,
    .height = 96,
    .packed = true,
    .rows_product = limbs_product,
    .pack_panels = pack_limbs,
};

}  // namespace tercet
