// Random projections, one row at a time.
#pragma once

#include "kernels.hpp"

namespace tercet {
namespace {

u64 chosen(const u64* x, u64 bits) {
    u64 sum = 0;
    for (int j = 0; j < 64; ++j) {
        sum += x[j] & (u64{0} - (bits >> j & 1));
    }
    return sum;
}

void project_64(const u64* x, const u64* rows, u64 plane, u64* out) {
    const u64 common = chosen(x, plane);
    for (int r = 0; r < 64; ++r) {
        out[r] += chosen(x, rows[r]) - common;
    }
}

}  // namespace
}  // namespace tercet
