// Convolution without patch matrices. The register tile of the matrix product takes its rows by
// pointer, so it reads the patch of an output pixel in place: one run of elements a kernel row (or
// tap). What is outside the input has to exist as zeros, so an input that needs padding or dilation
// is first copied, some images or a band of rows at a time, into a cache-sized padded buffer.
#include "conv.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "dispatch.hpp"
#include "product.hpp"
#include "scratch.hpp"

namespace tercet {
namespace {

constexpr index_t block_k = 512;      // depth of a block of the kernel
constexpr index_t block_pixels = 96;  // output pixels at a time; every tile height divides it
constexpr index_t buffer_elements = 1 << 15;  // padded input at a time: 256 KB
constexpr index_t pack_from_pixels = 16;
constexpr index_t max_terms = 2;

// Blocks of the kernel's depth are shorter than 2 * block_k, and padded for each term.
static_assert(max_terms * 2 * block_k <= max_product_depth);

void copy(u64* to, const u64* from, index_t n) {
    if (n > 0) {
        std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(u64));
    }
}

void clear(u64* to, index_t n) {
    if (n > 0) {
        std::memset(to, 0, static_cast<std::size_t>(n) * sizeof(u64));
    }
}

// A view of the padded input for some images and a band of output rows.
struct Field {
    const u64* data;  // what output pixel (first image, first row, 0) sees at kernel tap (0, 0)
    index_t row_stride;
    index_t image_stride;
    index_t channels;
};

// The images and output rows worked on at a time.
struct Chunk {
    index_t first_image;
    index_t images;
    index_t first_row;
    index_t rows;
};

bool reads_in_place(const ConvShape& s) {
    const Pair reach = s.reach();
    return s.input_dilation.h == 1 && s.input_dilation.w == 1 && s.padding_low.h <= 0 &&
           s.padding_low.w <= 0 && reach.h - s.padding_low.h <= s.input.h &&
           reach.w - s.padding_low.w <= s.input.w;
}

Field input_in_place(const ConvShape& s, const u64* x) {
    const index_t row = s.input.w * s.channels;
    return {x - s.padding_low.h * row - s.padding_low.w * s.channels, row, s.input.h * row,
            s.channels};
}

index_t band_height(const ConvShape& s, index_t rows) {
    return (rows - 1) * s.stride.h + (s.kernel.h - 1) * s.kernel_dilation.h + 1;
}

// One row of the padded field, from one row of the input (null: all zeros).
void fill_row(const ConvShape& s, const u64* source, index_t width, u64* row) {
    const index_t c = s.channels;
    if (source == nullptr) {
        clear(row, width * c);
        return;
    }
    if (s.input_dilation.w == 1) {
        const index_t begin = std::clamp<index_t>(s.padding_low.w, 0, width);
        const index_t end = std::clamp<index_t>(s.padding_low.w + s.input.w, begin, width);
        clear(row, begin * c);
        copy(row + begin * c, source + (begin - s.padding_low.w) * c, (end - begin) * c);
        clear(row + end * c, (width - end) * c);
        return;
    }
    clear(row, width * c);
    for (index_t i = 0; i < s.input.w; ++i) {
        const index_t at = s.padding_low.w + i * s.input_dilation.w;
        if (at >= 0 && at < width) {
            copy(row + at * c, source + i * c, c);
        }
    }
}

Field padded_input(const ConvShape& s, const u64* x, const Chunk& chunk, Scratch slot) {
    const index_t width = s.reach().w;
    const index_t height = band_height(s, chunk.rows);
    const index_t row_stride = width * s.channels;
    u64* buffer = scratch(slot, chunk.images * height * row_stride);
    u64* row = buffer;
    for (index_t image = 0; image < chunk.images; ++image) {
        const u64* source =
            x + (chunk.first_image + image) * s.input.h * s.input.w * s.channels;
        for (index_t i = 0; i < height; ++i, row += row_stride) {
            const index_t at = chunk.first_row * s.stride.h + i - s.padding_low.h;
            const bool inside = at >= 0 && at % s.input_dilation.h == 0 &&
                                at / s.input_dilation.h < s.input.h;
            const index_t skip = at / s.input_dilation.h * s.input.w * s.channels;
            fill_row(s, inside ? source + skip : nullptr, width, row);
        }
    }
    return {buffer, row_stride, height * row_stride, s.channels};
}

// Every channel `times` over, so that a depthwise convolution with several filters a channel
// becomes one with a single filter.
Field repeat_channels(const Field& field, index_t elements, index_t times, Scratch slot) {
    u64* buffer = scratch(slot, elements * times);
    for (index_t i = 0; i < elements; ++i) {
        std::fill_n(buffer + i * times, times, field.data[i]);
    }
    return {buffer, field.row_stride * times, field.image_stride * times, field.channels * times};
}

// How many images, or rows of one image, go into the padded buffer.
Chunk chunk_limits(const ConvShape& s, bool in_place, index_t channels) {
    if (in_place) {
        return {0, s.images, 0, s.output.h};
    }
    const Pair reach = s.reach();
    const index_t row = std::max<index_t>(1, reach.w * channels);
    const index_t image = reach.h * row;
    if (image <= buffer_elements) {
        return {0, std::min(s.images, buffer_elements / image), 0, s.output.h};
    }
    // At least as many rows as the kernel is high, lest most of a band overlaps the next one.
    const index_t halo = band_height(s, 1);
    const index_t fitting = (buffer_elements / row - halo) / s.stride.h + 1;
    const index_t least = std::max((halo + s.stride.h - 1) / s.stride.h,
                                   (block_pixels / 2 + s.output.w - 1) / s.output.w);
    return {0, 1, 0, std::min(s.output.h, std::max({index_t{1}, fitting, least}))};
}

// Fills `rows` with what pixels [first, first + count) of the chunk see at kernel tap (0, 0).
void pixel_rows(const ConvShape& s, const Chunk& chunk, const Field& field, index_t first,
                index_t count, const u64** rows) {
    index_t column = first % s.output.w;
    index_t row = first / s.output.w % chunk.rows;
    const u64* image = field.data + first / s.output.w / chunk.rows * field.image_stride;
    const index_t step = s.stride.w * field.channels;
    const u64* at = image + row * s.stride.h * field.row_stride + column * step;
    for (index_t i = 0; i < count; ++i) {
        rows[i] = at;
        at += step;
        if (++column == s.output.w) {
            column = 0;
            if (++row == chunk.rows) {
                row = 0;
                image += field.image_stride;
            }
            at = image + row * s.stride.h * field.row_stride;
        }
    }
}

// The kernel as the tiles read it: packed once for the call, or in place.
struct Kernel {
    const u64* data;  // group 0
    bool packed;
    index_t group_stride;
    index_t padded_filters;  // of a group, when packed
};

// A part of the patch: `segments` runs of `length` from `first` + `offset` on.
struct PatchBlock {
    index_t first;
    index_t segments;
    index_t offset;
    index_t length;
    index_t row;         // of the kernel as a matrix
    index_t packed_row;  // of the packed kernel

    index_t rows() const { return segments * length; }
};

struct Patch {
    std::vector<index_t> segment_offset;
    index_t segment_length;
    std::vector<PatchBlock> blocks;
    index_t packed_depth;  // rows of the packed kernel
};

Patch patch_layout(const ConvShape& s, const Field& field, index_t unit) {
    Patch patch;
    // A kernel row is one run if its taps are neighbours with nothing between their channels.
    const bool joined = s.groups == 1 && s.kernel_dilation.w == 1;
    const index_t columns = joined ? 1 : s.kernel.w;
    patch.segment_length = joined ? s.kernel.w * s.channels : s.group_channels();
    for (index_t h = 0; h < s.kernel.h; ++h) {
        for (index_t w = 0; w < columns; ++w) {
            patch.segment_offset.push_back(h * s.kernel_dilation.h * field.row_stride +
                                           w * s.kernel_dilation.w * field.channels);
        }
    }
    const auto segments = static_cast<index_t>(patch.segment_offset.size());
    const index_t length = patch.segment_length;
    if (length <= block_k) {
        const index_t blocks = (segments * length + block_k - 1) / block_k;
        const index_t group = (segments + blocks - 1) / blocks;
        for (index_t first = 0; first < segments; first += group) {
            patch.blocks.push_back(
                {first, std::min(group, segments - first), 0, length, first * length, 0});
        }
    } else {
        const index_t pieces = (length + block_k - 1) / block_k;
        const index_t piece = (length + pieces - 1) / pieces;
        for (index_t first = 0; first < segments; ++first) {
            for (index_t offset = 0; offset < length; offset += piece) {
                patch.blocks.push_back({first, 1, offset, std::min(piece, length - offset),
                                        first * length + offset, 0});
            }
        }
    }
    patch.packed_depth = 0;
    for (PatchBlock& block : patch.blocks) {
        block.packed_row = patch.packed_depth;
        patch.packed_depth += round_up(block.rows(), unit);
    }
    return patch;
}

void pack_kernels(const ProductKernels& product, const ConvShape& s, const Patch& patch,
                  const ConvTerm* terms, index_t term_count, Kernel* kernels) {
    const index_t filters = s.group_filters();
    const index_t padded = round_up(filters, product.panel);
    const index_t depth = patch.packed_depth;
    if (!product.packed && (filters <= product.panel || s.pixels() < pack_from_pixels)) {
        for (index_t t = 0; t < term_count; ++t) {
            kernels[t] = {terms[t].w, false, filters, 0};
        }
        return;
    }
    u64* next = scratch(Scratch::packed_b, term_count * s.groups * depth * padded);
    for (index_t t = 0; t < term_count; ++t) {
        kernels[t] = {next, true, depth * padded, padded};
        for (index_t g = 0; g < s.groups; ++g) {
            for (const PatchBlock& block : patch.blocks) {
                product.pack_panels(terms[t].w + block.row * s.filters + g * filters, s.filters,
                                    block.rows(), filters, next + block.packed_row * padded);
            }
            next += depth * padded;
        }
    }
}

void convolve_chunk(const ProductKernels& product, const ConvShape& s, const Chunk& chunk,
                    const Patch& patch, const Field* fields, const Kernel* kernels,
                    index_t term_count, u64* out, bool accumulate) {
    const index_t pixels = chunk.images * chunk.rows * s.output.w;
    const u64* rows[max_terms][block_pixels];
    for (index_t first = 0; first < pixels; first += block_pixels) {
        const index_t count = std::min(block_pixels, pixels - first);
        for (index_t t = 0; t < term_count; ++t) {
            pixel_rows(s, chunk, fields[t], first, count, rows[t]);
        }
        for (index_t g = 0; g < s.groups; ++g) {
            for (const PatchBlock& block : patch.blocks) {
                RowsTerm parts[max_terms];
                index_t offsets[block_k];
                const index_t shift = block.offset + g * s.group_channels();
                for (index_t i = 0; i < block.segments; ++i) {
                    offsets[i] =
                        patch.segment_offset[static_cast<std::size_t>(block.first + i)] + shift;
                }
                for (index_t t = 0; t < term_count; ++t) {
                    const Kernel& kernel = kernels[t];
                    const index_t skip = kernel.packed
                                             ? block.packed_row * kernel.padded_filters
                                             : block.row * s.filters;
                    parts[t] = RowsTerm{
                        .rows = rows[t],
                        .segment_offset = offsets,
                        .segments = block.segments,
                        .segment_length = block.length,
                        .b = kernel.data + g * kernel.group_stride + skip,
                        .ldb = kernel.packed ? product.panel : s.filters,
                        .panel_stride = kernel.packed
                                            ? round_up(block.rows(), product.unit) * product.panel
                                            : product.panel,
                    };
                }
                product.rows_product(parts, term_count, count, s.group_filters(),
                                   out + first * s.filters + g * s.group_filters(), s.filters,
                                   accumulate || &block != patch.blocks.data());
            }
        }
    }
}

// The same for one filter a channel, after repeat_channels.
void depthwise_chunk(const KernelTable& table, const ConvShape& s, const Chunk& chunk,
                     const Field& field, const u64* w, u64* out, bool accumulate) {
    std::vector<index_t> taps;
    for (index_t i = 0; i < s.kernel.h; ++i) {
        for (index_t j = 0; j < s.kernel.w; ++j) {
            taps.push_back(i * s.kernel_dilation.h * field.row_stride +
                           j * s.kernel_dilation.w * field.channels);
        }
    }
    const index_t pixels = chunk.images * chunk.rows * s.output.w;
    const u64* rows[block_pixels];
    for (index_t first = 0; first < pixels; first += block_pixels) {
        const index_t count = std::min(block_pixels, pixels - first);
        pixel_rows(s, chunk, field, first, count, rows);
        table.depthwise(DepthwiseBlock{
            .rows = rows,
            .row_count = count,
            .tap_offset = taps.data(),
            .taps = static_cast<index_t>(taps.size()),
            .w = w,
            .ldw = s.filters,
            .channels = s.filters,
            .out = out + first * s.filters,
            .ldo = s.filters,
            .accumulate = accumulate,
        });
    }
}

}  // namespace

void conv(const ConvShape& s, const ConvTerm* terms, index_t term_count, u64* out,
          bool accumulate) {
    constexpr Scratch image_slot[max_terms] = {Scratch::image_first, Scratch::image_second};
    const index_t outputs = s.pixels() * s.filters;
    if (outputs == 0) {
        return;
    }
    if (s.kernel.h * s.kernel.w * s.group_channels() == 0) {
        if (!accumulate) {
            std::fill_n(out, outputs, u64{0});
        }
        return;
    }
    const KernelTable& table = kernels();
    const bool depthwise = s.groups > 1 && s.groups == s.channels;
    const index_t repeats = depthwise ? s.filters / s.channels : 1;
    const bool in_place = repeats == 1 && reads_in_place(s);
    const Chunk limits = chunk_limits(s, in_place, s.channels * repeats);

    const ProductKernels& product =
        product_kernels(table, s.pixels(), s.group_filters(),
                        s.kernel.h * s.kernel.w * s.group_channels());
    Patch patch;
    Kernel kernels[max_terms];
    if (!depthwise) {
        // Only the strides matter here, and those of the padded buffer are the same for all chunks.
        const index_t row_stride = (in_place ? s.input.w : s.reach().w) * s.channels;
        patch = patch_layout(s, Field{nullptr, row_stride, 0, s.channels}, product.unit);
        pack_kernels(product, s, patch, terms, term_count, kernels);
    }
    for (index_t image = 0; image < s.images; image += limits.images) {
        for (index_t row = 0; row < s.output.h; row += limits.rows) {
            const Chunk chunk = {image, std::min(limits.images, s.images - image), row,
                                 std::min(limits.rows, s.output.h - row)};
            u64* chunk_out = out + (image * s.output.h + row) * s.output.w * s.filters;
            Field fields[max_terms];
            for (index_t t = 0; t < term_count; ++t) {
                fields[t] = in_place ? input_in_place(s, terms[t].x)
                                     : padded_input(s, terms[t].x, chunk, image_slot[t]);
                if (depthwise) {
                    if (repeats > 1) {
                        const index_t elements = chunk.images * fields[t].image_stride;
                        fields[t] =
                            repeat_channels(fields[t], elements, repeats, Scratch::repeated);
                    }
                    depthwise_chunk(table, s, chunk, fields[t], terms[t].w, chunk_out,
                                    accumulate || t > 0);
                }
            }
            if (!depthwise) {
                convolve_chunk(product, s, chunk, patch, fields, kernels, term_count, chunk_out,
                               accumulate);
            }
        }
    }
    trim_scratch();
}

}  // namespace tercet
