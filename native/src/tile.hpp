// The innermost step of the register tiles. See gemm.hpp for the unnamed namespace.
#pragma once

#include "kernels.hpp"

namespace tercet {
namespace {

// sum[i][j] += left(i) * right[j], two products at a time (see Vec::multiply_add_pair).
template <int Rows, int Columns, class Left>
inline void multiply_add_tile(Vec::Sum (&sum)[Rows][Columns], Left left,
                              const Vec::Right (&right)[Columns]) {
#pragma GCC unroll 64
    for (int at = 0; at + 1 < Rows * Columns; at += 2) {
        const int i0 = at / Columns;
        const int j0 = at % Columns;
        const int i1 = (at + 1) / Columns;
        const int j1 = (at + 1) % Columns;
        Vec::multiply_add_pair(sum[i0][j0], left(i0), right[j0], sum[i1][j1], left(i1), right[j1]);
    }
    if constexpr (Rows * Columns % 2 == 1) {
        Vec::multiply_add(sum[Rows - 1][Columns - 1], left(Rows - 1), right[Columns - 1]);
    }
}

}  // namespace
}  // namespace tercet
