// Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008):
// a block of A stays in the second-level cache while packed panels of B pass through. A itself is
// read in place: a tile reads few rows, each along consecutive elements, and packing them first
// measured 5 % slower.
#include "matmul.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "product.hpp"
#include "scratch.hpp"

namespace tercet {
namespace {

constexpr index_t block_k = 512;  // depth of a block: 128 KB a panel of 32 columns
constexpr index_t packed_b_limit = 1 << 20;  // elements of B packed at a time: 8 MB
constexpr index_t pack_b_from_rows = 16;  // below that many rows, packing B costs more than it saves
constexpr index_t max_terms = 2;
constexpr index_t single_segment[1] = {0};

// A pass is no deeper than block_k, but for padding.
static_assert(max_terms * block_k <= max_product_depth);

// Equal blocks, so that none is left over with hardly any depth.
index_t block_depth(index_t k, index_t unit) {
    const index_t blocks = std::max<index_t>(1, (k + block_k - 1) / block_k);
    return std::max(unit, round_up((k + blocks - 1) / blocks, unit));
}

// Whether summing along k beats partly masked columns; 48 stands for adding up the lanes.
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
void blocked(const ProductKernels& product, const MatmulTerm* terms, index_t term_count, index_t m,
             index_t n, u64* out, bool accumulate) {
    index_t total_k = 0;
    for (index_t t = 0; t < term_count; ++t) {
        total_k += round_up(terms[t].k, product.unit);
    }
    const index_t panel = product.panel;
    const bool pack_b = product.packed || (n > panel && m >= pack_b_from_rows);
    const index_t width_limit =
        pack_b ? std::max(panel, packed_b_limit / total_k / panel * panel) : n;

    const u64* rows[max_terms][max_product_height];
    for (index_t j = 0; j < n; j += width_limit) {
        const index_t width = std::min(width_limit, n - j);
        const index_t padded_width = round_up(width, panel);
        u64* packed_b = pack_b ? scratch(Scratch::packed_b, total_k * padded_width) : nullptr;
        const u64* columns[max_terms] = {};
        u64* next = packed_b;
        for (index_t t = 0; t < term_count; ++t) {
            if (!pack_b) {
                columns[t] = terms[t].b + j;
                continue;
            }
            columns[t] = next;
            const index_t depth = block_depth(terms[t].k, product.unit);
            for (index_t k = 0; k < terms[t].k; k += depth) {
                const index_t d = std::min(depth, terms[t].k - k);
                product.pack_panels(terms[t].b + k * n + j, n, d, width, next);
                next += round_up(d, product.unit) * padded_width;
            }
        }
        for (index_t i = 0; i < m; i += product.height) {
            const index_t height = std::min(product.height, m - i);
            // With several terms this runs once, over the whole of each.
            const index_t depth =
                term_count == 1 ? block_depth(terms[0].k, product.unit) : block_k;
            const index_t longest = term_count == 1 ? terms[0].k : 1;
            for (index_t k = 0; k < longest; k += depth) {
                RowsTerm parts[max_terms];
                for (index_t t = 0; t < term_count; ++t) {
                    const index_t d =
                        term_count == 1 ? std::min(depth, terms[t].k - k) : terms[t].k;
                    const u64* a = terms[t].a + i * terms[t].k + k;
                    for (index_t r = 0; r < height; ++r) {
                        rows[t][r] = a + r * terms[t].k;
                    }
                    parts[t] = RowsTerm{
                        .rows = rows[t],
                        .segment_offset = single_segment,
                        .segments = 1,
                        .segment_length = d,
                        .b = columns[t] + (pack_b ? k * padded_width : k * n),
                        .ldb = pack_b ? panel : n,
                        .panel_stride = pack_b ? round_up(d, product.unit) * panel : panel,
                    };
                }
                product.rows_product(parts, term_count, height, width, out + i * n + j, n,
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
    for (index_t t = 0; t < term_count; ++t) {
        total_k += terms[t].k;
    }
    const ProductKernels& product = product_kernels(table, m, n, total_k);
    bool any_dot = false;
    for (index_t t = 0; t < term_count; ++t) {
        any_dot = any_dot || (&product == &table.words && prefers_dot(table, m, n, terms[t].k));
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
        blocked(product, terms, term_count, m, n, out, accumulate);
    }
    trim_scratch();
}

}  // namespace tercet
