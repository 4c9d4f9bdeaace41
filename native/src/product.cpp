#include "product.hpp"

namespace tercet {
namespace {

// Picoseconds on a Sapphire Rapids at 3.5 GHz, fitted to products of 230 sizes; only their ratios
// matter, and where both ways are close it does not matter which is taken.
constexpr index_t words_product = 61;
constexpr index_t limbs_product = 16;
constexpr index_t split_a = 300;  // an element of A, gathered and split
constexpr index_t split_b = 800;  // an element of B, from beyond the caches
// The unit sleeps while nothing uses it, and is slow for some microseconds when it wakes up.
constexpr index_t wake = 20'000'000;
constexpr index_t limbs_rows = 16;

}  // namespace

const ProductKernels& product_kernels(const KernelTable& table, index_t m, index_t n, index_t k) {
    if (table.limbs == nullptr) {
        return table.words;
    }
    const index_t rows = round_up(m, limbs_rows);
    const index_t columns = round_up(n, table.limbs->panel);
    const index_t depth = round_up(k, table.limbs->unit);
    const index_t cost =
        (limbs_product * rows * columns + split_a * rows + split_b * columns) * depth + wake;
    const bool faster = cost < words_product * m * n * k;
    return faster || table.always_limbs ? *table.limbs : table.words;
}

}  // namespace tercet
