#include "module_replicated.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "array_view.hpp"
#include "packing.hpp"
#include "replicated.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tercet {
namespace {

using LeafPairs = std::vector<std::pair<int, std::int64_t>>;

void require_shift(int shift, int least) {
    if (shift < least || shift > 62) {
        throw nb::value_error(("shift must be from " + std::to_string(least) + " to 62, not " +
                               std::to_string(shift))
                                  .c_str());
    }
}

// The number of wide rows and of packed words of a truncation, checked.
std::pair<index_t, index_t> require_lent(const ArrayView& wide, const ArrayView& low,
                                         const ArrayView& plane, index_t n, int shift) {
    const index_t rows = wide.size(0);
    if (rows < (shift != 0 ? 1 : 2) || rows > 3 || (shift != 0 && rows == 2)) {
        throw nb::value_error((std::string(wide.name()) +
                               " must have 1 or 3 rows, or 2 or 3 without a shift, not " +
                               std::to_string(rows))
                                  .c_str());
    }
    const index_t words = low_words(n * (rows > 1 ? 2 : 1), shift);
    wide.require_shape({rows, n}, "u or v is (n,)");
    low.require_shape({words}, "shift bits for each of n elements, twice with a flip");
    plane.require_shape({rows > 1 ? plane_words(n) : 0}, "ceil(n / 64), or 0 without a flip");
    return {rows, words};
}

void truncate_lend_of(nb::handle u_in, int shift, nb::handle plane_in, nb::handle masks_in,
                      nb::handle low_masks_in, nb::handle lent_in, nb::handle low_in) {
    const ArrayView u(u_in, "u", 1, Access::read);
    const ArrayView plane(plane_in, "plane", 1, Access::read);
    const ArrayView masks(masks_in, "masks", 2, Access::read);
    const ArrayView low_masks(low_masks_in, "low_masks", 1, Access::read);
    const ArrayView lent(lent_in, "lent", 2, Access::write);
    const ArrayView low(low_in, "low", 1, Access::write);
    const index_t n = u.size(0);
    require_shift(shift, 0);
    const auto [rows, words] = require_lent(masks, low_masks, plane, n, shift);
    lent.require_shape({rows, n}, "the shape of masks");
    low.require_shape({words}, "the shape of low_masks");
    lent.require_apart({&u, &plane, &masks, &low_masks, &low});
    low.require_apart({&u, &plane, &masks, &low_masks});
    const TruncateLend step{n,           shift,        rows,
                            words,       u.data(),     plane.data(),
                            masks.data(), low_masks.data(), lent.data(),
                            low.data()};
    const nb::gil_scoped_release nogil;
    truncate_lend(step);
}

void truncate_apply_of(nb::handle v_in, int shift, nb::handle plane_in, nb::handle copy_in,
                       nb::handle lent_in, nb::handle low_in, nb::handle mask_in,
                       nb::handle other_mask_in, nb::handle message_in,
                       nb::handle multiple_third_in, nb::handle value_in, nb::handle third_in) {
    const ArrayView v(v_in, "v", 1, Access::read);
    const ArrayView plane(plane_in, "plane", 1, Access::read);
    const ArrayView copy(copy_in, "copy", 1, Access::read);
    const ArrayView lent(lent_in, "lent", 2, Access::read);
    const ArrayView low(low_in, "low", 1, Access::read);
    const ArrayView mask(mask_in, "mask", 1, Access::read);
    const ArrayView other_mask(other_mask_in, "other_mask", 1, Access::read);
    const ArrayView message(message_in, "message", 1, Access::write);
    const ArrayView multiple_third(multiple_third_in, "multiple_third", 1, Access::write);
    const ArrayView value(value_in, "value", 1, Access::write);
    const ArrayView third(third_in, "third", 1, Access::write);
    const index_t n = v.size(0);
    require_shift(shift, 0);
    const auto [rows, words] = require_lent(lent, low, plane, n, shift);
    const bool flips = rows > 1;
    const index_t back = (flips ? n : 0) + low_words(n, shift);
    copy.require_shape({n}, "v is (n,)");
    mask.require_shape({back}, "n words with a flip, and shift bits an element");
    other_mask.require_shape({back}, "the shape of mask");
    message.require_shape({back}, "the shape of mask");
    multiple_third.require_shape({flips ? n : 0}, "n with a flip, else 0");
    value.require_shape({shift != 0 ? n : 0}, "n with a shift, else 0");
    third.require_shape({shift != 0 ? n : 0}, "n with a shift, else 0");
    for (const ArrayView* out : {&message, &multiple_third, &value, &third}) {
        out->require_apart({&v, &plane, &copy, &lent, &low, &mask, &other_mask});
    }
    const TruncateApply step{n,
                             shift,
                             rows,
                             words,
                             v.data(),
                             plane.data(),
                             copy.data(),
                             lent.data(),
                             low.data(),
                             mask.data(),
                             other_mask.data(),
                             message.data(),
                             multiple_third.data(),
                             value.data(),
                             third.data()};
    const nb::gil_scoped_release nogil;
    truncate_apply(step);
}

void add_carries_to(nb::handle x_in, nb::handle low_in, int shift, nb::handle out_in) {
    const ArrayView x(x_in, "x", 1, Access::read);
    const ArrayView low(low_in, "low", 1, Access::read);
    const ArrayView out(out_in, "out", 1, Access::write);
    const index_t n = x.size(0);
    require_shift(shift, 1);
    low.require_shape({low_words(n, shift)}, "x is (n,), low is (ceil(n * shift / 64),)");
    out.require_shape({n}, "x is (n,)");
    out.require_apart({&x, &low});
    const nb::gil_scoped_release nogil;
    add_carries(x.data(), low.data(), n, shift, out.data());
}

void choose_of(nb::handle plane_in, nb::handle x_in, nb::handle multiple_in, nb::handle out_in) {
    const ArrayView plane(plane_in, "plane", 1, Access::read);
    const ArrayView x(x_in, "x", 1, Access::read);
    const ArrayView multiple(multiple_in, "multiple", 1, Access::read);
    const ArrayView out(out_in, "out", 1, Access::write);
    const index_t n = x.size(0);
    plane.require_shape({plane_words(n)}, "x is (n,), plane is (ceil(n / 64),)");
    multiple.require_shape({n}, "x is (n,)");
    out.require_shape({n}, "x is (n,)");
    out.require_apart({&plane, &x, &multiple});
    const nb::gil_scoped_release nogil;
    choose(plane.data(), x.data(), multiple.data(), n, out.data());
}

// The leaves, their bits within `planes`, and the numbers of monomials and leaves.
struct Leaves {
    std::vector<LeafBlock> blocks;
    index_t monomials = 0;
    index_t count = 0;

    Leaves(const LeafPairs& pairs, const ArrayView& planes) {
        index_t bits = 0;
        for (const auto& [size, leaves] : pairs) {
            if (size < 1 || size > max_leaf || leaves < 1 || leaves > 64) {
                throw nb::value_error("leaves must be pairs of a size from 1 to 7 and a number");
            }
            blocks.push_back({size, leaves});
            monomials += blocks.back().monomials();
            count += leaves;
            bits += size * leaves;
        }
        if (count == 0 || bits > planes.size(0)) {
            throw nb::value_error(("leaves have " + std::to_string(bits) + " bits, planes is " +
                                   planes.shape_text())
                                      .c_str());
        }
    }
};

void lend_leaves_of(nb::handle planes_in, const LeafPairs& pairs, nb::handle masks_in,
                    nb::handle out_in) {
    const ArrayView planes(planes_in, "planes", 2, Access::read);
    const ArrayView masks(masks_in, "masks", 2, Access::read);
    const ArrayView out(out_in, "out", 2, Access::write);
    const Leaves leaves(pairs, planes);
    const index_t width = planes.size(1);
    masks.require_shape({leaves.monomials, width}, "a row a monomial");
    out.require_shape({leaves.monomials, width}, "a row a monomial");
    out.require_apart({&planes, &masks});
    const nb::gil_scoped_release nogil;
    lend_leaves(planes.data(), width, leaves.blocks.data(),
                static_cast<index_t>(leaves.blocks.size()), masks.data(), out.data());
}

void answer_leaves_of(nb::handle planes_in, const LeafPairs& pairs, nb::handle lent_in,
                      nb::handle mask_in, nb::handle other_mask_in, nb::handle answer_in,
                      nb::handle third_in) {
    const ArrayView planes(planes_in, "planes", 2, Access::read);
    const ArrayView lent(lent_in, "lent", 2, Access::read);
    const ArrayView mask(mask_in, "mask", 2, Access::read);
    const ArrayView other_mask(other_mask_in, "other_mask", 2, Access::read);
    const ArrayView answer(answer_in, "answer", 2, Access::write);
    const ArrayView third(third_in, "third", 2, Access::write);
    const Leaves leaves(pairs, planes);
    const index_t width = planes.size(1);
    const index_t rows = 2 * leaves.count - 1;
    lent.require_shape({leaves.monomials, width}, "a row a monomial");
    for (const ArrayView* a : {&mask, &other_mask, &answer, &third}) {
        a->require_shape({rows, width}, "two rows a leaf, one for the lowest");
    }
    answer.require_apart({&planes, &lent, &mask, &other_mask, &third});
    third.require_apart({&planes, &lent, &mask, &other_mask});
    const nb::gil_scoped_release nogil;
    answer_leaves(planes.data(), width, leaves.blocks.data(),
                  static_cast<index_t>(leaves.blocks.size()), lent.data(), mask.data(),
                  other_mask.data(), answer.data(), third.data());
}

}  // namespace

void bind_replicated(nb::module_& m) {
    m.def("truncate_lend", &truncate_lend_of, "u"_a, "shift"_a, "plane"_a, "masks"_a,
          "low_masks"_a, "lent"_a, "low"_a, "What worker 0 lends in a truncation, masked.");
    m.def("truncate_apply", &truncate_apply_of, "v"_a, "shift"_a, "plane"_a, "copy"_a, "lent"_a,
          "low"_a, "mask"_a, "other_mask"_a, "message"_a, "multiple_third"_a, "value"_a, "third"_a,
          "What worker 1 or 2 returns in a truncation, and its summands.");
    m.def("add_carries", &add_carries_to, "x"_a, "low"_a, "shift"_a, "out"_a,
          "out (n,) = x + (low << (64 - shift)), low packed.");
    m.def("choose", &choose_of, "plane"_a, "x"_a, "multiple"_a, "out"_a,
          "out (n,) = multiple where the plane's bit is set, else x - multiple.");
    m.def("lend_leaves", &lend_leaves_of, "planes"_a, "leaves"_a, "masks"_a, "out"_a,
          "out (M, ceil(n / 64)): monomials of the leaves, masked.");
    m.def("answer_leaves", &answer_leaves_of, "planes"_a, "leaves"_a, "lent"_a, "mask"_a,
          "other_mask"_a, "answer"_a, "third"_a,
          "Rows of generate and propagate: what a worker returns, and the third summand.");
}

}  // namespace tercet
