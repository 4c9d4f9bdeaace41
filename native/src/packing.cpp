#include "packing.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "dispatch.hpp"

namespace tercet {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire format is little-endian");

constexpr index_t word = 64;
constexpr index_t group = 8;  // plane words at a time: a cache line of every plane

// 64 elements make exactly `Bits` words (Bits < 64). Everything but the data is known when this is
// compiled, so it unrolls into shifts by constants.
template <int Bits>
void pack_64(const u64* x, std::uint8_t* out) {
    constexpr u64 mask = (u64{1} << Bits) - 1;
    u64 pending = 0;
#pragma GCC unroll 64
    for (int i = 0; i < 64; ++i) {
        const u64 value = x[i] & mask;
        const int at = i * Bits % 64;
        pending |= value << at;
        if (at + Bits >= 64) {
            std::memcpy(out + i * Bits / 64 * 8, &pending, 8);
            pending = at + Bits > 64 ? value >> (64 - at) : 0;
        }
    }
}

template <int Bits>
void unpack_64(const std::uint8_t* in, u64* x) {
    constexpr u64 mask = (u64{1} << Bits) - 1;
    u64 words[Bits];
    std::memcpy(words, in, sizeof words);
#pragma GCC unroll 64
    for (int i = 0; i < 64; ++i) {
        const int at = i * Bits % 64;
        const int from = i * Bits / 64;
        u64 value = words[from] >> at;
        if (at + Bits > 64) {
            value |= words[from + 1] << (64 - at);
        }
        x[i] = value & mask;
    }
}

using Pack64 = void (*)(const u64*, std::uint8_t*);
using Unpack64 = void (*)(const std::uint8_t*, u64*);

constexpr auto pack_table = []<int... B>(std::integer_sequence<int, B...>) {
    return std::array<Pack64, 63>{&pack_64<B + 1>...};
}(std::make_integer_sequence<int, 63>{});

constexpr auto unpack_table = []<int... B>(std::integer_sequence<int, B...>) {
    return std::array<Unpack64, 63>{&unpack_64<B + 1>...};
}(std::make_integer_sequence<int, 63>{});

// A cache line, or less at the end of the array; the constant size spares a call.
void copy_line(u64* to, const u64* from, index_t elements) {
    if (elements == group) {
        std::memcpy(to, from, group * sizeof(u64));
    } else {
        std::memcpy(to, from, static_cast<std::size_t>(elements) * sizeof(u64));
    }
}

std::size_t bytes(index_t elements) { return static_cast<std::size_t>(elements) * sizeof(u64); }

}  // namespace

void bit_planes(const u64* x, index_t n, int shift, int count, u64* out) {
    const KernelTable& table = kernels();
    const index_t words = plane_words(n);
    for (index_t first = 0; first < words; first += group) {
        // Plane words are far apart: collect a cache line of each before writing it.
        u64 lines[64 * group];
        const index_t here = std::min(group, words - first);
        for (index_t w = 0; w < here; ++w) {
            const u64* source = x + (first + w) * word;
            u64 padded[word];
            const index_t left = n - (first + w) * word;
            if (left < word) {
                std::memset(padded, 0, sizeof padded);
                std::memcpy(padded, source, bytes(left));
                source = padded;
            }
            table.bit_planes_64(source, shift, count, lines + w, group);
        }
        for (int j = 0; j < count; ++j) {
            copy_line(out + j * words + first, lines + j * group, here);
        }
    }
}

void planes_to_words(const u64* planes, index_t n, int count, u64* out) {
    const KernelTable& table = kernels();
    const index_t words = plane_words(n);
    for (index_t first = 0; first < words; first += group) {
        u64 lines[64 * group];
        const index_t here = std::min(group, words - first);
        for (int j = 0; j < count; ++j) {
            copy_line(lines + j * group, planes + j * words + first, here);
        }
        for (index_t w = 0; w < here; ++w) {
            u64* target = out + (first + w) * word;
            const index_t left = n - (first + w) * word;
            if (left >= word) {
                table.planes_to_words_64(lines + w, group, count, target);
            } else {
                u64 padded[word];
                table.planes_to_words_64(lines + w, group, count, padded);
                std::memcpy(target, padded, bytes(left));
            }
        }
    }
}

void expand_mask(const u64* plane, index_t n, u64* out) {
    const KernelTable& table = kernels();
    const index_t whole = n / word;
    table.expand_mask(plane, whole, out);
    if (n % word != 0) {
        u64 padded[word];
        table.expand_mask(plane + whole, 1, padded);
        std::memcpy(out + whole * word, padded, bytes(n % word));
    }
}

void project(const u64* x, const u64* rows, const u64* plane, index_t n, u64* out) {
    const KernelTable& table = kernels();
    const index_t whole = n / word;
    std::fill_n(out, word, u64{0});
    for (index_t g = 0; g < whole; ++g) {
        table.project_64(x + word * g, rows + word * g, plane[g], out);
    }
    if (n % word != 0) {
        u64 padded[word] = {};
        std::memcpy(padded, x + word * whole, bytes(n % word));
        table.project_64(padded, rows + word * whole, plane[whole], out);
    }
}

void pack_bits(const u64* x, index_t n, int bits, std::uint8_t* out) {
    const KernelTable& table = kernels();
    if (n == 0) {
        return;
    }
    if (bits == 64) {
        std::memcpy(out, x, bytes(n));
        return;
    }
    if (bits == 8 || bits == 16 || bits == 32) {
        table.narrow(x, n, bits, out);
        return;
    }
    const Pack64 pack = pack_table[static_cast<std::size_t>(bits - 1)];
    const index_t step = index_t{8} * bits;
    index_t i = 0;
    for (; i + word <= n; i += word, out += step) {
        if (bits == 1) {
            u64 plane = 0;
            table.bit_planes_64(x + i, 0, 1, &plane, 1);
            std::memcpy(out, &plane, sizeof plane);
        } else {
            pack(x + i, out);
        }
    }
    if (i < n) {
        u64 padded[word] = {};
        std::uint8_t packed[word * sizeof(u64)];
        std::memcpy(padded, x + i, bytes(n - i));
        pack(padded, packed);
        std::memcpy(out, packed, static_cast<std::size_t>(packed_bytes(n - i, bits)));
    }
}

void unpack_bits(const std::uint8_t* in, index_t n, int bits, u64* out) {
    const KernelTable& table = kernels();
    if (n == 0) {
        return;
    }
    if (bits == 64) {
        std::memcpy(out, in, bytes(n));
        return;
    }
    if (bits == 8 || bits == 16 || bits == 32) {
        table.widen(in, n, bits, out);
        return;
    }
    const Unpack64 unpack = unpack_table[static_cast<std::size_t>(bits - 1)];
    const index_t step = index_t{8} * bits;
    index_t i = 0;
    for (; i + word <= n; i += word, in += step) {
        if (bits == 1) {
            u64 plane = 0;
            std::memcpy(&plane, in, sizeof plane);
            table.planes_to_words_64(&plane, 1, 1, out + i);
        } else {
            unpack(in, out + i);
        }
    }
    if (i < n) {
        std::uint8_t packed[word * sizeof(u64)] = {};
        u64 padded[word];
        std::memcpy(packed, in, static_cast<std::size_t>(packed_bytes(n - i, bits)));
        unpack(packed, padded);
        std::memcpy(out + i, padded, bytes(n - i));
    }
}

void pack_bits_at(const u64* x, index_t n, int bits, u64* words, index_t count, index_t from) {
    const Pack64 pack = pack_table[static_cast<std::size_t>(bits - 1)];
    for (index_t i = 0; i < n; i += word, from += index_t{64} * bits) {
        u64* target = words + from / 64;
        const int at = static_cast<int>(from % 64);
        if (at == 0 && n - i >= word) {
            pack(x + i, reinterpret_cast<std::uint8_t*>(target));
            continue;
        }
        u64 padded[word] = {};
        std::memcpy(padded, x + i, bytes(std::min(word, n - i)));
        u64 packed[word];
        pack(padded, reinterpret_cast<std::uint8_t*>(packed));
        packed[bits] = 0;
        const index_t here = std::min(index_t{bits} + 1, count - from / 64);
        u64 before = 0;
        for (index_t w = 0; w < here; ++w) {
            target[w] |= packed[w] << at | before >> 1 >> (63 - at);
            before = packed[w];
        }
    }
}

void unpack_bits_at(const u64* words, index_t count, index_t from, index_t n, int bits, u64* out) {
    const Unpack64 unpack = unpack_table[static_cast<std::size_t>(bits - 1)];
    for (index_t i = 0; i < n; i += word, from += index_t{64} * bits) {
        const u64* source = words + from / 64;
        const int at = static_cast<int>(from % 64);
        if (at == 0 && n - i >= word) {
            unpack(reinterpret_cast<const std::uint8_t*>(source), out + i);
            continue;
        }
        u64 packed[word + 1] = {};
        std::memcpy(packed, source, bytes(std::min(index_t{bits} + 1, count - from / 64)));
        for (index_t w = 0; w < bits; ++w) {
            packed[w] = packed[w] >> at | packed[w + 1] << 1 << (63 - at);
        }
        u64 padded[word];
        unpack(reinterpret_cast<const std::uint8_t*>(packed), padded);
        std::memcpy(out + i, padded, bytes(std::min(word, n - i)));
    }
}

}  // namespace tercet
