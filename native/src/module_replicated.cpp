#include "module_replicated.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "array_view.hpp"
#include "dispatch.hpp"
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

void require_bits(int bits, int shift) {
    if (bits < 2 || bits > most_bits || shift < 0 || shift + bits > 64) {
        throw nb::value_error("bits must be from 2 to 60, and shift + bits at most 64");
    }
}

// Rows of a message with `digits` digits an element, and of the words that as many are drawn from.
index_t message_rows(int digits, int bits) { return (digits * digit_bits(bits) + 7) / 8; }
index_t word_rows(int digits, int bits) {
    return (digits + digits_per_word(bits) - 1) / digits_per_word(bits);
}

// The width of a message of n elements.
index_t row_bytes(index_t n) { return (n + 7) / 8 * 8; }

void lend_digits_of(nb::handle u_in, int shift, int bits, nb::handle masks_in, nb::handle out_in) {
    const ArrayView u(u_in, "u", 1, Access::read);
    const ArrayView masks(masks_in, "masks", 2, Access::read);
    const ArrayView out(out_in, "out", 2, Access::write, 1);
    require_bits(bits, shift);
    const index_t n = u.size(0);
    const int lent = lent_digits(bits);
    masks.require_shape({word_rows(lent, bits), n}, "words for the lent digits of n elements");
    out.require_shape({message_rows(lent, bits), row_bytes(n)}, "packed rows of n elements");
    out.require_apart({&u, &masks});
    const DigitsLend all{.n = n,
                         .stride = row_bytes(n),
                         .bits = bits,
                         .shift = shift,
                         .u = u.data(),
                         .masks = masks.data(),
                         .out = out.data<std::uint8_t>()};
    const nb::gil_scoped_release nogil;
    kernels().lend_digits(all);
}

// `lent` are the words that the digits at worker 1 follow from, or the message to worker 2.
void answer_digits_of(nb::handle v_in, int shift, int bits, nb::handle reverse_in, bool first,
                      nb::handle lent_in, nb::handle units_in, nb::handle offsets_in,
                      nb::handle masks_in, nb::handle out_in) {
    const ArrayView v(v_in, "v", 1, Access::read);
    const ArrayView reverse(reverse_in, "reverse", 1, Access::read);
    const ArrayView lent(lent_in, "lent", 2, Access::read, first ? sizeof(u64) : 1);
    const ArrayView units(units_in, "units", 2, Access::read);
    const ArrayView offsets(offsets_in, "offsets", 1, Access::read);
    const ArrayView masks(masks_in, "masks", 2, Access::read);
    const ArrayView out(out_in, "out", 2, Access::write, 1);
    require_bits(bits, shift);
    const index_t n = v.size(0);
    const int digits = digit_count(bits);
    reverse.require_shape({plane_words(n)}, "v is (n,), reverse is (ceil(n / 64),)");
    if (first) {
        lent.require_shape({word_rows(lent_digits(bits), bits), n}, "words for the lent digits");
    } else {
        lent.require_shape({message_rows(lent_digits(bits), bits), row_bytes(n)},
                           "packed rows of the lent digits");
    }
    units.require_shape({word_rows(digits, bits), n}, "words for the digits of n elements");
    offsets.require_shape({n}, "v is (n,)");
    masks.require_shape({word_rows(digits, bits), n}, "words for the digits of n elements");
    out.require_shape({message_rows(digits, bits), row_bytes(n)}, "packed rows of n elements");
    out.require_apart({&v, &reverse, &lent, &units, &offsets, &masks});
    const DigitsAnswer all{.n = n,
                           .stride = row_bytes(n),
                           .bits = bits,
                           .shift = shift,
                           .first = first,
                           .v = v.data(),
                           .reverse = reverse.data(),
                           .lent_words = first ? lent.data() : nullptr,
                           .lent = first ? nullptr : lent.data<std::uint8_t>(),
                           .units = units.data(),
                           .offsets = offsets.data(),
                           .masks = masks.data(),
                           .out = out.data<std::uint8_t>()};
    const nb::gil_scoped_release nogil;
    kernels().answer_digits(all);
}

void find_zero_of(nb::handle one_in, nb::handle two_in, int bits, index_t n, nb::handle out_in) {
    const ArrayView one(one_in, "one", 2, Access::read, 1);
    const ArrayView two(two_in, "two", 2, Access::read, 1);
    const ArrayView out(out_in, "out", 1, Access::write);
    require_bits(bits, 0);
    if (n < 0) {
        throw nb::value_error("n must not be negative");
    }
    for (const ArrayView* a : {&one, &two}) {
        a->require_shape({message_rows(digit_count(bits), bits), row_bytes(n)},
                         "packed rows of n elements");
    }
    out.require_shape({plane_words(n)}, "ceil(n / 64)");
    out.require_apart({&one, &two});
    const DigitsZero all{.n = n,
                         .stride = row_bytes(n),
                         .bits = bits,
                         .one = one.data<std::uint8_t>(),
                         .two = two.data<std::uint8_t>(),
                         .out = out.data()};
    const nb::gil_scoped_release nogil;
    kernels().find_zero(all);
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
    m.def("lend_digits", &lend_digits_of, "u"_a, "shift"_a, "bits"_a, "masks"_a, "out"_a,
          "out: the digits of u in a comparison, masked and packed.");
    m.def("answer_digits", &answer_digits_of, "v"_a, "shift"_a, "bits"_a, "reverse"_a, "first"_a,
          "lent"_a, "units"_a, "offsets"_a, "masks"_a, "out"_a,
          "out: what worker 1 or 2 returns in a comparison by digits.");
    m.def("find_zero", &find_zero_of, "one"_a, "two"_a, "bits"_a, "n"_a, "out"_a,
          "out (ceil(n / 64)): whether the two answers have a zero, a bit an element.");
}

}  // namespace tercet
