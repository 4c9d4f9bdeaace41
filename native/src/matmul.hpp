// Matrix products modulo 2^64 on C-contiguous arrays.
#pragma once

#include "kernels.hpp"

namespace tercet {

struct MatmulTerm {
    const u64* a;  // (m, k)
    const u64* b;  // (k, n)
    index_t k;
};

// out (m, n) = (or +=) sum over the terms of a @ b.
void matmul(const MatmulTerm* terms, index_t term_count, index_t m, index_t n, u64* out,
            bool accumulate);

}  // namespace tercet
