// Products with a handful of columns, vectorised along k instead of along the columns, where most
// lanes would be masked off. B comes transposed. See gemm.hpp for the unnamed namespace.
#pragma once

#include <array>
#include <utility>

#include "kernels.hpp"
#include "tile.hpp"

namespace tercet {
namespace {

constexpr index_t dot_rows = Vec::dot_rows;
constexpr index_t dot_columns = Vec::dot_columns;

template <int Rows, int Columns>
void dot_tile(const u64* a, index_t lda, const u64* bt, index_t ldbt, index_t k, u64* out,
              index_t ldo, bool accumulate) {
    Vec::Sum sum[Rows][Columns];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < Columns; ++j) {
            sum[i][j] = Vec::zero();
        }
    }
    index_t p = 0;
#pragma GCC unroll 1
    for (; p + Vec::lanes <= k; p += Vec::lanes) {
        Vec::Right right[Columns];
#pragma GCC unroll 16
        for (int j = 0; j < Columns; ++j) {
            right[j] = Vec::right(bt + j * ldbt + p);
        }
        multiply_add_tile<Rows, Columns>(
            sum, [&](int i) { return Vec::left(a + i * lda + p); }, right);
    }
    if (p < k) {
        const Vec::Mask mask = Vec::tail_mask(k - p);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
            const Vec::Left left = Vec::left(a + i * lda + p, mask);
#pragma GCC unroll 16
            for (int j = 0; j < Columns; ++j) {
                Vec::multiply_add(sum[i][j], left, Vec::right(bt + j * ldbt + p, mask));
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < Columns; ++j) {
            const u64 v = Vec::horizontal(Vec::value(sum[i][j]));
            out[i * ldo + j] = accumulate ? out[i * ldo + j] + v : v;
        }
    }
}

using DotTile = void (*)(const u64*, index_t, const u64*, index_t, index_t, u64*, index_t, bool);

constexpr auto dot_table = []<int... R>(std::integer_sequence<int, R...>) {
    constexpr auto row = []<int Rows, int... C>(std::integral_constant<int, Rows>,
                                                std::integer_sequence<int, C...>) {
        return std::array<DotTile, dot_columns>{&dot_tile<Rows, C + 1>...};
    };
    return std::array<std::array<DotTile, dot_columns>, dot_rows>{
        row(std::integral_constant<int, R + 1>{},
            std::make_integer_sequence<int, dot_columns>{})...};
}(std::make_integer_sequence<int, dot_rows>{});

void dot_product(const u64* a, index_t lda, const u64* bt, index_t ldbt, index_t m, index_t n,
                 index_t k, u64* out, index_t ldo, bool accumulate) {
    for (index_t i = 0; i < m; i += dot_rows) {
        const index_t height = m - i < dot_rows ? m - i : dot_rows;
        for (index_t j = 0; j < n; j += dot_columns) {
            const index_t width = n - j < dot_columns ? n - j : dot_columns;
            dot_table[static_cast<std::size_t>(height - 1)][static_cast<std::size_t>(width - 1)](
                a + i * lda, lda, bt + j * ldbt, ldbt, k, out + i * ldo + j, ldo, accumulate);
        }
    }
}

}  // namespace
}  // namespace tercet
