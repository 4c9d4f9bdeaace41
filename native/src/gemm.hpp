// The register tile and the loops directly around it, for any vector type `Vec`.
//
// Included once by each instruction-set file, inside an unnamed namespace: two files must never
// share an instance of these templates, since they are compiled for different processors.
#pragma once

#include <array>
#include <utility>

#include "kernels.hpp"
#include "tile.hpp"

namespace tercet {
namespace {

constexpr index_t panel_width = Vec::tile_vectors * Vec::lanes;

// One tile of Rows x Vectors sums, kept in registers over the whole of K. With Masked, the last
// vector has only `tail` elements.
template <int Rows, int Vectors, bool Masked>
void tile(const RowsTerm* terms, index_t term_count, index_t row, index_t first_column, u64* out,
          index_t ldo, bool accumulate, index_t tail) {
    [[maybe_unused]] const Vec::Mask mask = Vec::tail_mask(tail);
    Vec::Sum sum[Rows][Vectors];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < Vectors; ++j) {
            sum[i][j] = Vec::zero();
        }
    }
    for (index_t t = 0; t < term_count; ++t) {
        const RowsTerm& term = terms[t];
        const u64* b = term.b + first_column / panel_width * term.panel_stride;
        const index_t ldb = term.ldb;
        for (index_t s = 0; s < term.segments; ++s) {
            const u64* a[Rows];
#pragma GCC unroll 16
            for (int i = 0; i < Rows; ++i) {
                a[i] = term.rows[row + i] + term.segment_offset[s];
            }
#pragma GCC unroll 1
            for (index_t k = 0; k < term.segment_length; ++k, b += ldb) {
                Vec::Right right[Vectors];
#pragma GCC unroll 16
                for (int j = 0; j < Vectors; ++j) {
                    right[j] = Masked && j == Vectors - 1 ? Vec::right(b + j * Vec::lanes, mask)
                                                          : Vec::right(b + j * Vec::lanes);
                }
                multiply_add_tile<Rows, Vectors>(
                    sum, [&](int i) { return Vec::broadcast(a[i] + k); }, right);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < Vectors; ++j) {
            u64* p = out + i * ldo + j * Vec::lanes;
            Vec::Word v = Vec::value(sum[i][j]);
            if (Masked && j == Vectors - 1) {
                if (accumulate) v = Vec::add(v, Vec::load(p, mask));
                Vec::store(p, v, mask);
            } else {
                if (accumulate) v = Vec::add(v, Vec::load(p));
                Vec::store(p, v);
            }
        }
    }
}

using Tile = void (*)(const RowsTerm*, index_t, index_t, index_t, u64*, index_t, bool, index_t);

// tiles[rows - 1][vectors - 1]
template <bool Masked>
constexpr auto tile_table = []<int... R>(std::integer_sequence<int, R...>) {
    constexpr auto row = []<int Rows, int... V>(std::integral_constant<int, Rows>,
                                                std::integer_sequence<int, V...>) {
        return std::array<Tile, Vec::tile_vectors>{&tile<Rows, V + 1, Masked>...};
    };
    return std::array<std::array<Tile, Vec::tile_vectors>, Vec::tile_rows>{
        row(std::integral_constant<int, R + 1>{},
            std::make_integer_sequence<int, Vec::tile_vectors>{})...};
}(std::make_integer_sequence<int, Vec::tile_rows>{});

void rows_product(const RowsTerm* terms, index_t term_count, index_t m, index_t n, u64* out,
                  index_t ldo, bool accumulate) {
    for (index_t j = 0; j < n; j += panel_width) {
        const index_t width = n - j < panel_width ? n - j : panel_width;
        const index_t vectors = (width + Vec::lanes - 1) / Vec::lanes;
        const index_t tail = width - (vectors - 1) * Vec::lanes;
        const bool masked = tail != Vec::lanes;
        const auto& tiles = masked ? tile_table<true> : tile_table<false>;
        for (index_t i = 0; i < m; i += Vec::tile_rows) {
            const index_t height = m - i < Vec::tile_rows ? m - i : Vec::tile_rows;
            tiles[static_cast<std::size_t>(height - 1)][static_cast<std::size_t>(vectors - 1)](
                terms, term_count, i, j, out + i * ldo + j, ldo, accumulate, tail);
        }
    }
}

void pack_panels(const u64* b, index_t ldb, index_t k, index_t n, u64* dst) {
    for (index_t j = 0; j < n; j += panel_width) {
        const index_t width = n - j < panel_width ? n - j : panel_width;
        const u64* src = b + j;
        if (width == panel_width) {
            for (index_t r = 0; r < k; ++r, src += ldb, dst += panel_width) {
#pragma GCC unroll 16
                for (int v = 0; v < Vec::tile_vectors; ++v) {
                    Vec::store(dst + v * Vec::lanes, Vec::load(src + v * Vec::lanes));
                }
            }
        } else {
            // The columns past the edge stay unwritten: the masked tiles never read them.
            for (index_t r = 0; r < k; ++r, src += ldb, dst += panel_width) {
                for (index_t c = 0; c < width; ++c) {
                    dst[c] = src[c];
                }
            }
        }
    }
}

constexpr ProductKernels register_tiles = {
    .panel = panel_width,
    .unit = 1,
    .height = 48,  // 192 KB of A at a depth of 512; every tile height divides it
    .packed = false,
    .rows_product = rows_product,
    .pack_panels = pack_panels,
};

}  // namespace
}  // namespace tercet
