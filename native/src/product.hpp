// Which of a table's kernels a product of this size is faster with.
#pragma once

#include "kernels.hpp"

namespace tercet {

// For (m, k) @ (k, n), or a convolution of m pixels, n filters and kernels of k elements.
const ProductKernels& product_kernels(const KernelTable& table, index_t m, index_t n, index_t k);

}  // namespace tercet
