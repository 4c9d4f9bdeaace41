// One leaf of the carry tree on bit planes, a vector of plane words at a time. With u_S the product
// of worker 0's bits in S, S running over the non-empty subsets of the leaf's bits,
//
//     G = XOR_S u_S v_i prod_{j > i, j not in S} v_j,  i = min S,
//     P = XOR_S u_S v_{not S}   xor   v_{all}
//
// Subsets are numbered as `subsets` in protocol/replicated/groups.py does: smaller ones first, then
// in lexicographic order. See gemm.hpp for the unnamed namespace.
#pragma once

#include <array>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels.hpp"

namespace tercet {
namespace {

// As many plane words as a vector has; `u64` itself takes the rest of a row.
template <int Lanes>
struct PlaneWords {
    typedef u64 type __attribute__((vector_size(Lanes * 8)));
};
template <>
struct PlaneWords<1> {
    using type = u64;
};

// Bit i of entry n is set if element i is in subset n.
template <int Size>
constexpr auto subsets = [] {
    std::array<int, (1 << Size) - 1> result{};
    std::size_t number = 0;
    for (int members = 1; members <= Size; ++members) {
        // Element 0 as the highest bit: lexicographic order is descending.
        for (unsigned reversed = (1U << Size) - 1; reversed != 0; --reversed) {
            if (std::popcount(reversed) == members) {
                int subset = 0;
                for (int i = 0; i < Size; ++i) {
                    subset |= static_cast<int>(reversed >> (Size - 1 - i) & 1U) << i;
                }
                result[number++] = subset;
            }
        }
    }
    return result;
}();

template <class V>
inline void load(V& v, const u64* from) {
    std::memcpy(&v, from, sizeof v);
}

template <class V>
inline void store(u64* to, const V& v) {
    std::memcpy(to, &v, sizeof v);
}

// product[S] for all S but the empty one.
template <int Size, class V>
inline void products(const u64* planes, index_t width, V (&product)[1 << Size]) {
#pragma GCC unroll 4
    for (int i = 0; i < Size; ++i) {
        V bit;
        load(bit, planes + i * width);
        product[1 << i] = bit;
#pragma GCC unroll 8
        for (int below = 1; below < 1 << i; ++below) {
            product[1 << i | below] = product[below] & bit;
        }
    }
}

template <int Size, class V>
inline void monomials_at(const MonomialsLeaf& leaf, index_t at) {
    V product[1 << Size];
    products<Size>(leaf.planes + at, leaf.width, product);
#pragma GCC unroll 16
    for (int number = 0; number < (1 << Size) - 1; ++number) {
        const index_t place = number * leaf.step + at;
        V mask;
        load(mask, leaf.masks + place);
        store(leaf.out + place, V(product[subsets<Size>[static_cast<std::size_t>(number)]] ^ mask));
    }
}

template <int Size, class V>
inline void answers_at(const AnswersLeaf& leaf, index_t at) {
    constexpr int all = (1 << Size) - 1;
    V product[1 << Size];
    products<Size>(leaf.planes + at, leaf.width, product);
    V generate;
    V generate_other;
    load(generate, leaf.generate_mask + at);
    load(generate_other, leaf.generate_other + at);
    store(leaf.generate_third + at, V(generate ^ generate_other));
    V propagate{};
#pragma GCC unroll 16
    for (int number = 0; number < all; ++number) {
        const int subset = subsets<Size>[static_cast<std::size_t>(number)];
        const int lowest = subset & -subset;
        const int rest = all ^ subset;
        V copy;
        load(copy, leaf.lent + number * leaf.step + at);
        generate ^= copy & product[lowest | (rest & -lowest)];
        propagate ^= rest != 0 ? V(copy & product[rest]) : copy;
    }
    store(leaf.generate + at, generate);
    if (leaf.propagate != nullptr) {
        V mask;
        V other;
        load(mask, leaf.propagate_mask + at);
        load(other, leaf.propagate_other + at);
        store(leaf.propagate + at, V(propagate ^ mask));
        store(leaf.propagate_third + at, V(mask ^ other ^ product[all]));
    }
}

template <class Leaf, void (*Wide)(const Leaf&, index_t), void (*One)(const Leaf&, index_t)>
void whole_row(const Leaf& leaf) {
    index_t at = 0;
    for (; at + Vec::lanes <= leaf.width; at += Vec::lanes) {
        Wide(leaf, at);
    }
    for (; at < leaf.width; ++at) {
        One(leaf, at);
    }
}

using Planes = PlaneWords<static_cast<int>(Vec::lanes)>::type;

template <int Size>
void monomials_of(const MonomialsLeaf& leaf) {
    whole_row<MonomialsLeaf, monomials_at<Size, Planes>, monomials_at<Size, u64>>(leaf);
}

template <int Size>
void answers_of(const AnswersLeaf& leaf) {
    whole_row<AnswersLeaf, answers_at<Size, Planes>, answers_at<Size, u64>>(leaf);
}

// The functions for leaves of 1 to max_leaf bits, by size less one.
template <int... Less>
constexpr auto monomials_table(std::integer_sequence<int, Less...>) {
    return std::array{&monomials_of<Less + 1>...};
}

template <int... Less>
constexpr auto answers_table(std::integer_sequence<int, Less...>) {
    return std::array{&answers_of<Less + 1>...};
}

using LeafSizes = std::make_integer_sequence<int, max_leaf>;

void leaf_monomials(const MonomialsLeaf& leaf, int size) {
    static constexpr auto table = monomials_table(LeafSizes{});
    table[static_cast<std::size_t>(size - 1)](leaf);
}

void leaf_answers(const AnswersLeaf& leaf, int size) {
    static constexpr auto table = answers_table(LeafSizes{});
    table[static_cast<std::size_t>(size - 1)](leaf);
}

}  // namespace
}  // namespace tercet
