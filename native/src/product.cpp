#include "product.hpp"

namespace tercet {

const ProductKernels& product_kernels(const KernelTable& table, index_t m, index_t n, index_t k) {
    if (table.limbs == nullptr) {
        return table.tiles;
    }
    return *table.limbs;
}

}  // namespace tercet
