// Random projections, one sum at a time.
#pragma once

#include "kernels.hpp"

namespace tercet {
namespace {

void project(const u64* x, const u64* columns, const u64* plane, index_t n, u64* out) {
    u64 sums[64] = {};
    u64 common = 0;
    for (index_t j = 0; j < n; ++j) {
        for (int r = 0; r < 64; ++r) {
            sums[r] += x[j] & (u64{0} - (columns[j] >> r & 1));
        }
        common += x[j] & (u64{0} - (plane[j / 64] >> (j % 64) & 1));
    }
    for (int r = 0; r < 64; ++r) {
        out[r] = sums[r] - common;
    }
}

}  // namespace
}  // namespace tercet
