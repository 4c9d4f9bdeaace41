// Depthwise convolution: every channel by its own small kernel, vectorised along the channels.
// See gemm.hpp for the unnamed namespace.
#pragma once

#include "kernels.hpp"
#include "tile.hpp"

namespace tercet {
namespace {

constexpr index_t depthwise_rows = Vec::tile_rows;

template <int Rows, bool Masked>
void depthwise_tile(const DepthwiseBlock& block, index_t row, index_t channel, Vec::Mask mask) {
    Vec::Sum sum[Rows][1];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
        sum[i][0] = Vec::zero();
    }
    const u64* x[Rows];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
        x[i] = block.rows[row + i] + channel;
    }
    const u64* w = block.w + channel;
    for (index_t t = 0; t < block.taps; ++t, w += block.ldw) {
        const index_t offset = block.tap_offset[t];
        const Vec::Right right[1] = {Masked ? Vec::right(w, mask) : Vec::right(w)};
        multiply_add_tile<Rows, 1>(
            sum,
            [&](int i) {
                return Masked ? Vec::left(x[i] + offset, mask) : Vec::left(x[i] + offset);
            },
            right);
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
        u64* p = block.out + (row + i) * block.ldo + channel;
        Vec::Word v = Vec::value(sum[i][0]);
        if constexpr (Masked) {
            if (block.accumulate) v = Vec::add(v, Vec::load(p, mask));
            Vec::store(p, v, mask);
        } else {
            if (block.accumulate) v = Vec::add(v, Vec::load(p));
            Vec::store(p, v);
        }
    }
}

template <bool Masked>
void depthwise_column(const DepthwiseBlock& block, index_t channel, Vec::Mask mask) {
    index_t row = 0;
    for (; row + depthwise_rows <= block.row_count; row += depthwise_rows) {
        depthwise_tile<depthwise_rows, Masked>(block, row, channel, mask);
    }
    for (; row < block.row_count; ++row) {
        depthwise_tile<1, Masked>(block, row, channel, mask);
    }
}

void depthwise(const DepthwiseBlock& block) {
    index_t channel = 0;
    for (; channel + Vec::lanes <= block.channels; channel += Vec::lanes) {
        depthwise_column<false>(block, channel, Vec::tail_mask(Vec::lanes));
    }
    if (channel < block.channels) {
        depthwise_column<true>(block, channel, Vec::tail_mask(block.channels - channel));
    }
}

}  // namespace
}  // namespace tercet
