// The portable kernels. The order of the includes matters: the templates use the `Vec` that the
// first one defines.
#include "vec_portable.hpp"

#include "bits_portable.hpp"
#include "depthwise.hpp"
#include "digits.hpp"
#include "dot.hpp"
#include "gemm.hpp"
#include "leaf.hpp"
#include "narrow.hpp"
#include "project_portable.hpp"
#include "steps.hpp"

namespace tercet {

extern const KernelTable portable_kernels;
const KernelTable portable_kernels = {
    .name = "portable",
    .lanes = Vec::lanes,
    .words = register_tiles,
    .limbs = nullptr,
    .always_limbs = false,
    .dot_product = dot_product,
    .depthwise = depthwise,
    .bit_planes_64 = bit_planes_64,
    .planes_to_words_64 = planes_to_words_64,
    .expand_mask = expand_mask,
    .project_64 = project_64,
    .narrow = narrow,
    .widen = widen,
    .lend_block = lend_block,
    .apply_block = apply_block,
    .add_shifted = add_shifted,
    .choose_block = choose_block,
    .leaf_monomials = leaf_monomials,
    .leaf_answers = leaf_answers,
    .lend_digits = lend_digits,
    .answer_digits = answer_digits,
    .find_zero = find_zero,
};

}  // namespace tercet
