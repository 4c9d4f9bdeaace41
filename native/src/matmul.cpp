// Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008):
// a block of A stays in the second-level cache while panels of B pass through the first.
#include "matmul.hpp"

#include <algorithm>
#include <cstring>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace tercet {
namespace {

constexpr index_t block_k = 256;          // depth of a block: 64 KB a panel of 32 columns
constexpr index_t block_m = 96;           // rows of a block of A: 200 KB; every tile height divides it
constexpr index_t single_row_depth = 16;  // see block_depth
constexpr index_t packed_b_limit = 1 << 20;  // elements of B packed at a time: 8 MB
constexpr index_t pack_b_from_rows = 16;  // below that many rows, packing B costs more than it saves
constexpr index_t pack_a_from_panels = 3;
constexpr index_t line = 8;               // elements in a cache line
constexpr index_t max_terms = 2;
constexpr index_t single_segment[1] = {0};

index_t round_up(index_t value, index_t unit) { return (value + unit - 1) / unit * unit; }

// Equal blocks, so that none is left over with hardly any depth. A vector times a wide matrix is
// bound by memory, and runs along a few whole rows of B at a time, as the prefetcher likes it.
index_t block_depth(index_t k, bool single_row = false) {
    if (single_row) {
        return single_row_depth;
    }
    const index_t blocks = std::max<index_t>(1, (k + block_k - 1) / block_k);
    return std::max<index_t>(1, (k + blocks - 1) / blocks);
}

// Whether summing along k beats partly masked columns; 48 stands for adding up the lanes at the end.
bool prefers_dot(const KernelTable& table, index_t m, index_t n, index_t k) {
    return table.lanes > 1 && n <= 2 * table.lanes && m >= 4 &&
           n * (k + 48) < round_up(n, table.lanes) * k;
}

void dot(const KernelTable& table, const MatmulTerm& term, index_t m, index_t n, u64* out,
         bool accumulate) {
    u64* bt = scratch(Scratch::packed_b, n * term.k);
    for (index_t p = 0; p < term.k; ++p) {
        for (index_t j = 0; j < n; ++j) {
            bt[j * term.k + p] = term.b[p * n + j];
        }
    }
    table.dot_product(term.a, term.k, bt, term.k, m, n, term.k, out, n, accumulate);
}


// The blocked product. Several terms are taken in one pass over `out` and must fit in one block.
void blocked(const KernelTable& table, const MatmulTerm* terms, index_t term_count, index_t m,
             index_t n, u64* out, bool accumulate) {
    index_t total_k = 0;
    for (index_t t = 0; t < term_count; ++t) {
        total_k += terms[t].k;
    }
    const index_t panel = table.panel;
    const bool pack_b = n > panel && m >= pack_b_from_rows;
    const bool pack_a = pack_b && n >= pack_a_from_panels * panel;
    const index_t width_limit =
        pack_b ? std::max(panel, packed_b_limit / std::max<index_t>(1, total_k) / panel * panel) : n;

    const u64* rows[max_terms][block_m];
    for (index_t j = 0; j < n; j += width_limit) {
        const index_t width = std::min(width_limit, n - j);
        const index_t padded_width = round_up(width, panel);
        u64* packed_b = pack_b ? scratch(Scratch::packed_b, total_k * padded_width) : nullptr;
        u64* packed_a = pack_a ? scratch(Scratch::packed_a, block_m * (block_k + 2 * line)) : nullptr;
        const u64* columns[max_terms] = {};
        u64* next = packed_b;
        for (index_t t = 0; t < term_count; ++t) {
            if (!pack_b) {
                columns[t] = terms[t].b + j;
                continue;
            }
            columns[t] = next;
            const index_t depth = block_depth(terms[t].k);
            for (index_t k = 0; k < terms[t].k; k += depth) {
                const index_t d = std::min(depth, terms[t].k - k);
                table.pack_panels(terms[t].b + k * n + j, n, d, width, next);
                next += d * padded_width;
            }
        }
        for (index_t i = 0; i < m; i += block_m) {
            const index_t height = std::min(block_m, m - i);
            // With several terms this runs once, over the whole of each.
            const bool single_row = m == 1 && n > 2 * panel;
            const index_t depth = term_count == 1 ? block_depth(terms[0].k, single_row) : block_k;
            const index_t longest = term_count == 1 ? terms[0].k : 1;
            for (index_t k = 0; k < longest; k += depth) {
                RowsTerm parts[max_terms];
                u64* a_next = packed_a;
                for (index_t t = 0; t < term_count; ++t) {
                    const index_t d =
                        term_count == 1 ? std::min(depth, terms[t].k - k) : terms[t].k;
                    const u64* a = terms[t].a + i * terms[t].k + k;
                    index_t lda = terms[t].k;
                    if (pack_a) {
                        // An odd number of lines, so that the rows of a tile do not compete for the
                        // same cache sets, as they do in a matrix with a power of two of columns.
                        const index_t ldp = round_up(d, line) + (round_up(d, line) / line % 2 ? 0 : line);
                        for (index_t r = 0; r < height; ++r) {
                            std::memcpy(a_next + r * ldp, a + r * lda,
                                        static_cast<std::size_t>(d) * sizeof(u64));
                        }
                        a = a_next;
                        lda = ldp;
                        a_next += height * ldp;
                    }
                    for (index_t r = 0; r < height; ++r) {
                        rows[t][r] = a + r * lda;
                    }
                    parts[t] = RowsTerm{
                        .rows = rows[t],
                        .segment_offset = single_segment,
                        .segments = 1,
                        .segment_length = d,
                        .b = columns[t] + (pack_b ? k * padded_width : k * n),
                        .ldb = pack_b ? panel : n,
                        .panel_stride = pack_b ? d * panel : panel,
                    };
                }
                table.rows_product(parts, term_count, height, width, out + i * n + j, n,
                                   accumulate || k > 0);
            }
        }
    }
}

}  // namespace

void matmul(const MatmulTerm* terms, index_t term_count, index_t m, index_t n, u64* out,
            bool accumulate) {
    if (m == 0 || n == 0) {
        return;
    }
    const KernelTable& table = kernels();
    index_t total_k = 0;
    bool any_dot = false;
    for (index_t t = 0; t < term_count; ++t) {
        total_k += terms[t].k;
        any_dot = any_dot || prefers_dot(table, m, n, terms[t].k);
    }
    if (total_k == 0) {
        if (!accumulate) {
            std::fill_n(out, m * n, u64{0});
        }
        return;
    }
    if (term_count > 1 && (total_k > block_k || any_dot)) {
        // Too deep for one pass; the second sweep over `out` is then a small part of the work.
        for (index_t t = 0; t < term_count; ++t) {
            matmul(terms + t, 1, m, n, out, accumulate || t > 0);
        }
    } else if (any_dot) {
        dot(table, terms[0], m, n, out, accumulate);
    } else {
        blocked(table, terms, term_count, m, n, out, accumulate);
    }
    trim_scratch();
}

}  // namespace tercet
