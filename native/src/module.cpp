// The Python module: checks arguments, releases the GIL, calls the drivers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "array_view.hpp"
#include "conv.hpp"
#include "dispatch.hpp"
#include "matmul.hpp"
#include "module_replicated.hpp"
#include "packing.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tercet {
namespace {

using IntPair = std::pair<std::int64_t, std::int64_t>;

[[noreturn]] void bad_value(const std::string& message) { throw nb::value_error(message.c_str()); }

void matmul_2d(nb::handle a_in, nb::handle b_in, nb::handle out_in, bool accumulate) {
    const ArrayView a(a_in, "a", 2, Access::read);
    const ArrayView b(b_in, "b", 2, Access::read);
    const ArrayView out(out_in, "out", 2, Access::write);
    b.require_shape({a.size(1), b.size(1)}, "a is (M, K), b is (K, N)");
    out.require_shape({a.size(0), b.size(1)}, "a is (M, K), b is (K, N), out is (M, N)");
    out.require_apart({&a, &b});
    const MatmulTerm term{a.data(), b.data(), a.size(1)};
    const nb::gil_scoped_release nogil;
    matmul(&term, 1, out.size(0), out.size(1), out.data(), accumulate);
}

void matmul_batched(nb::handle a_in, nb::handle b_in, nb::handle out_in, bool accumulate) {
    const ArrayView a(a_in, "a", 3, Access::read);
    const ArrayView b(b_in, "b", 3, Access::read);
    const ArrayView out(out_in, "out", 3, Access::write);
    b.require_shape({a.size(0), a.size(2), b.size(2)}, "a is (B, M, K), b is (B, K, N)");
    out.require_shape({a.size(0), a.size(1), b.size(2)},
                      "a is (B, M, K), b is (B, K, N), out is (B, M, N)");
    out.require_apart({&a, &b});
    const index_t m = a.size(1);
    const index_t k = a.size(2);
    const index_t n = b.size(2);
    const nb::gil_scoped_release nogil;
    for (index_t i = 0; i < a.size(0); ++i) {
        const MatmulTerm term{a.data() + i * m * k, b.data() + i * k * n, k};
        matmul(&term, 1, m, n, out.data() + i * m * n, accumulate);
    }
}

void matmul_sum(nb::handle a1_in, nb::handle b1_in, nb::handle a2_in, nb::handle b2_in,
                nb::handle out_in) {
    const ArrayView a1(a1_in, "a1", 2, Access::read);
    const ArrayView b1(b1_in, "b1", 2, Access::read);
    const ArrayView a2(a2_in, "a2", 2, Access::read);
    const ArrayView b2(b2_in, "b2", 2, Access::read);
    const ArrayView out(out_in, "out", 2, Access::write);
    b1.require_shape({a1.size(1), b1.size(1)}, "a1 is (M, K), b1 is (K, N)");
    a2.require_shape({a1.size(0), a2.size(1)}, "a1 is (M, K), a2 is (M, L)");
    b2.require_shape({a2.size(1), b1.size(1)}, "b1 is (K, N), b2 is (L, N)");
    out.require_shape({a1.size(0), b1.size(1)}, "a1 is (M, K), b1 is (K, N), out is (M, N)");
    out.require_apart({&a1, &b1, &a2, &b2});
    const MatmulTerm terms[] = {{a1.data(), b1.data(), a1.size(1)},
                                {a2.data(), b2.data(), a2.size(1)}};
    const nb::gil_scoped_release nogil;
    matmul(terms, 2, out.size(0), out.size(1), out.data(), false);
}

// The sizes of a convolution, checked. The limits keep every index far from overflow.
ConvShape conv_shape(const ArrayView& x, const ArrayView& w, const ArrayView& out, IntPair strides,
                     IntPair padding_low, IntPair input_dilation, IntPair kernel_dilation,
                     std::int64_t groups) {
    constexpr std::int64_t limit = std::int64_t{1} << 24;
    const auto pair = [](const char* name, IntPair value, std::int64_t least) {
        if (std::min(value.first, value.second) < least ||
            std::max(value.first, value.second) > limit) {
            bad_value(std::string(name) + " must be two integers from " + std::to_string(least) +
                      " to " + std::to_string(limit));
        }
        return Pair{value.first, value.second};
    };
    ConvShape s{};
    s.images = x.size(0);
    s.input = {x.size(1), x.size(2)};
    s.channels = x.size(3);
    s.kernel = {w.size(0), w.size(1)};
    s.filters = w.size(3);
    s.output = {out.size(1), out.size(2)};
    s.stride = pair("strides", strides, 1);
    s.padding_low = pair("padding_low", padding_low, -limit);
    s.input_dilation = pair("input_dilation", input_dilation, 1);
    s.kernel_dilation = pair("kernel_dilation", kernel_dilation, 1);
    s.groups = groups;
    if (groups < 1 || s.channels % groups != 0 || s.filters % groups != 0) {
        bad_value("groups must be at least 1 and divide the channels of " + std::string(x.name()) +
                  " " + x.shape_text() + " and the filters of " + w.name() + " " + w.shape_text());
    }
    w.require_shape({s.kernel.h, s.kernel.w, s.group_channels(), s.filters},
                    "the kernel is (KH, KW, C / groups, O), the input is (N, H, W, C)");
    out.require_shape({s.images, s.output.h, s.output.w, s.filters},
                      "the input is (N, H, W, C), the kernel is (KH, KW, C / groups, O), the output "
                      "is (N, OH, OW, O)");
    const Pair reach = s.reach();
    if (s.output.h > 0 && s.output.w > 0 && std::max(reach.h, reach.w) > limit) {
        bad_value(std::string(out.name()) + " reaches over more than " + std::to_string(limit) +
                  " positions of the dilated, padded input");
    }
    return s;
}

void conv_single(nb::handle x_in, nb::handle w_in, nb::handle out_in, IntPair strides,
                 IntPair padding_low, IntPair input_dilation, IntPair kernel_dilation,
                 std::int64_t groups, bool accumulate) {
    const ArrayView x(x_in, "x", 4, Access::read);
    const ArrayView w(w_in, "w", 4, Access::read);
    const ArrayView out(out_in, "out", 4, Access::write);
    const ConvShape shape = conv_shape(x, w, out, strides, padding_low, input_dilation,
                                       kernel_dilation, groups);
    out.require_apart({&x, &w});
    const ConvTerm term{x.data(), w.data()};
    const nb::gil_scoped_release nogil;
    conv(shape, &term, 1, out.data(), accumulate);
}

void conv_sum(nb::handle x1_in, nb::handle w1_in, nb::handle x2_in, nb::handle w2_in,
              nb::handle out_in, IntPair strides, IntPair padding_low, IntPair input_dilation,
              IntPair kernel_dilation, std::int64_t groups) {
    const ArrayView x1(x1_in, "x1", 4, Access::read);
    const ArrayView w1(w1_in, "w1", 4, Access::read);
    const ArrayView x2(x2_in, "x2", 4, Access::read);
    const ArrayView w2(w2_in, "w2", 4, Access::read);
    const ArrayView out(out_in, "out", 4, Access::write);
    const ConvShape shape = conv_shape(x1, w1, out, strides, padding_low, input_dilation,
                                       kernel_dilation, groups);
    x2.require_shape({x1.size(0), x1.size(1), x1.size(2), x1.size(3)}, "the shape of x1");
    w2.require_shape({w1.size(0), w1.size(1), w1.size(2), w1.size(3)}, "the shape of w1");
    out.require_apart({&x1, &w1, &x2, &w2});
    const ConvTerm terms[] = {{x1.data(), w1.data()}, {x2.data(), w2.data()}};
    const nb::gil_scoped_release nogil;
    conv(shape, terms, 2, out.data(), false);
}

void bit_planes_of(nb::handle x_in, int shift, int count, nb::handle out_in) {
    const ArrayView x(x_in, "x", 1, Access::read);
    const ArrayView out(out_in, "out", 2, Access::write);
    if (shift < 0 || count < 0 || shift > 64 || count > 64 || shift + count > 64) {
        bad_value("shift and count must be at least 0, and shift + count at most 64");
    }
    out.require_shape({count, plane_words(x.size(0))}, "x is (n,), out is (count, ceil(n / 64))");
    out.require_apart({&x});
    const nb::gil_scoped_release nogil;
    bit_planes(x.data(), x.size(0), shift, count, out.data());
}

void words_of(nb::handle planes_in, nb::handle out_in) {
    const ArrayView planes(planes_in, "planes", 2, Access::read);
    const ArrayView out(out_in, "out", 1, Access::write);
    if (planes.size(0) > 64) {
        bad_value("planes must have at most 64 planes, not " + std::to_string(planes.size(0)));
    }
    planes.require_shape({planes.size(0), plane_words(out.size(0))},
                         "out is (n,), planes is (count, ceil(n / 64))");
    out.require_apart({&planes});
    const nb::gil_scoped_release nogil;
    planes_to_words(planes.data(), out.size(0), static_cast<int>(planes.size(0)), out.data());
}

void expanded_mask(nb::handle plane_in, nb::handle out_in) {
    const ArrayView plane(plane_in, "plane", 1, Access::read);
    const ArrayView out(out_in, "out", 1, Access::write);
    plane.require_shape({plane_words(out.size(0))}, "out is (n,), plane is (ceil(n / 64),)");
    out.require_apart({&plane});
    const nb::gil_scoped_release nogil;
    expand_mask(plane.data(), out.size(0), out.data());
}

void projected(nb::handle x_in, nb::handle rows_in, nb::handle plane_in, nb::handle out_in) {
    const ArrayView x(x_in, "x", 1, Access::read);
    const ArrayView rows(rows_in, "rows", 2, Access::read);
    const ArrayView plane(plane_in, "plane", 1, Access::read);
    const ArrayView out(out_in, "out", 1, Access::write);
    rows.require_shape({plane_words(x.size(0)), 64}, "x is (n,), rows is (ceil(n / 64), 64)");
    plane.require_shape({plane_words(x.size(0))}, "x is (n,), plane is (ceil(n / 64),)");
    out.require_shape({64}, "one sum for each row");
    out.require_apart({&x, &rows, &plane});
    const nb::gil_scoped_release nogil;
    project(x.data(), rows.data(), plane.data(), x.size(0), out.data());
}

void require_bits(int bits) {
    if (bits < 1 || bits > 64) {
        bad_value("bits must be from 1 to 64, not " + std::to_string(bits));
    }
}

void packed(nb::handle x_in, int bits, nb::handle out_in) {
    const ArrayView x(x_in, "x", 1, Access::read);
    const ArrayView out(out_in, "out", 1, Access::write, 1);
    require_bits(bits);
    out.require_shape({packed_bytes(x.size(0), bits)}, "x is (n,), out is (ceil(n * bits / 8),)");
    out.require_apart({&x});
    const nb::gil_scoped_release nogil;
    pack_bits(x.data(), x.size(0), bits, out.data<std::uint8_t>());
}

void unpacked(nb::handle buffer_in, int bits, nb::handle out_in) {
    const ArrayView buffer(buffer_in, "buffer", 1, Access::read, 1);
    const ArrayView out(out_in, "out", 1, Access::write);
    require_bits(bits);
    buffer.require_shape({packed_bytes(out.size(0), bits)},
                         "out is (n,), buffer is (ceil(n * bits / 8),)");
    out.require_apart({&buffer});
    const nb::gil_scoped_release nogil;
    unpack_bits(buffer.data<std::uint8_t>(), out.size(0), bits, out.data());
}

}  // namespace
}  // namespace tercet

NB_MODULE(_native, m) {
    using namespace tercet;
    m.doc() = "Kernels on uint64 arrays, modulo 2**64. See tercet.ring.kernels for the public face.";

    m.def(
        "set_isa", [](const std::string& name) { set_isa(name); }, "name"_a,
        "Use the kernels of this instruction set; ValueError if this processor cannot run them.");
    m.def("get_isa", [] { return std::string(kernels().name); }, "The instruction set in use.");
    m.def("available_isas", &available_isas,
          "The instruction sets this processor runs, best first.");

    m.def("matmul", &matmul_2d, "a"_a, "b"_a, "out"_a, "accumulate"_a,
          "out (M, N) = or += a (M, K) @ b (K, N).");
    m.def("batch_matmul", &matmul_batched, "a"_a, "b"_a, "out"_a, "accumulate"_a,
          "out (B, M, N) = or += a (B, M, K) @ b (B, K, N).");
    m.def("matmul2", &matmul_sum, "a1"_a, "b1"_a, "a2"_a, "b2"_a, "out"_a,
          "out = a1 @ b1 + a2 @ b2.");

    m.def("conv", &conv_single, "x"_a, "w"_a, "out"_a, "strides"_a, "padding_low"_a,
          "input_dilation"_a, "kernel_dilation"_a, "groups"_a, "accumulate"_a,
          "out (N, OH, OW, O) = or += x (N, H, W, C) convolved with w (KH, KW, C / groups, O).");
    m.def("conv2", &conv_sum, "x1"_a, "w1"_a, "x2"_a, "w2"_a, "out"_a, "strides"_a,
          "padding_low"_a, "input_dilation"_a, "kernel_dilation"_a, "groups"_a,
          "out = conv(x1, w1) + conv(x2, w2), all of the same sizes.");

    m.def("bit_planes", &bit_planes_of, "x"_a, "shift"_a, "count"_a, "out"_a,
          "out (count, ceil(n / 64)): plane j is bit shift + j of every element of x (n,).");
    m.def("planes_to_words", &words_of, "planes"_a, "out"_a,
          "out (n,): element i is the sum of bit i of planes[j] << j.");
    m.def("expand_mask", &expanded_mask, "plane"_a, "out"_a,
          "out (n,): all ones where the plane's bit is set, else 0.");
    m.def("project", &projected, "x"_a, "rows"_a, "plane"_a, "out"_a,
          "out (64,): element r is the sum of (bit j of row r - bit j of plane) * x[j].");
    m.def("pack_bits", &packed, "x"_a, "bits"_a, "out"_a,
          "out (ceil(n * bits / 8),): the low bits of every element, little-endian, without gaps.");
    m.def("unpack_bits", &unpacked, "buffer"_a, "bits"_a, "out"_a, "The inverse of pack_bits.");

    bind_replicated(m);
}
