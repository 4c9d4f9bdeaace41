// Two-dimensional convolution modulo 2^64, channels last, on C-contiguous arrays.
#pragma once

#include "kernels.hpp"

namespace tercet {

struct Pair {
    index_t h;
    index_t w;
};

struct ConvShape {
    index_t images;
    Pair input;
    index_t channels;
    Pair kernel;
    index_t filters;
    Pair output;
    Pair stride;
    Pair padding_low;  // may be negative: then it crops
    Pair input_dilation;
    Pair kernel_dilation;
    index_t groups;

    index_t group_channels() const { return channels / groups; }
    index_t group_filters() const { return filters / groups; }
    index_t pixels() const { return images * output.h * output.w; }
    // The part of the dilated, padded input that the output reaches; 0 for an empty output.
    Pair reach() const {
        return {(output.h - 1) * stride.h + (kernel.h - 1) * kernel_dilation.h + 1,
                (output.w - 1) * stride.w + (kernel.w - 1) * kernel_dilation.w + 1};
    }
};

struct ConvTerm {
    const u64* x;  // (images, input.h, input.w, channels)
    const u64* w;  // (kernel.h, kernel.w, channels / groups, filters)
};

// out (images, output.h, output.w, filters) = (or +=) the sum of the terms' convolutions.
void conv(const ConvShape& shape, const ConvTerm* terms, index_t term_count, u64* out,
          bool accumulate);

}  // namespace tercet
