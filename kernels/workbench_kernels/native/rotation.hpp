// Rotation of a head to its position: out[d] = x[d] * cosine[d] + x[d ± width / 2] * sine[d], where the sine of the first
// half carries the minus sign. The first product is rounded to what it would be kept as.
#pragma once

#include "vectors.hpp"

namespace {

// `out` may be `x`.
template <class T, class Table>
void rotate_row(const T* x, T* out, const Table* cosine, const Table* sine, long width, long head_dim) {
    const long half = width / 2;
    // A table that is wider than the numbers keeps products as wide as itself.
    const auto turned = [&](Floats mine, Floats other, Floats cosine_of, Floats sine_of) {
        const Floats product = mine * cosine_of;
        return fused(other, sine_of, sizeof(Table) > sizeof(T) ? product : as(product, x));
    };
    long at = 0;
    for (; at + LANES <= half; at += LANES) {
        const Floats first = load(x + at), second = load(x + half + at);
        store(turned(first, second, load(cosine + at), load(sine + at)), out + at);
        store(turned(second, first, load(cosine + half + at), load(sine + half + at)), out + half + at);
    }
    if (const long some = half - at) {
        const Floats first = load_some(x + at, some), second = load_some(x + half + at, some);
        store_some(turned(first, second, load_some(cosine + at, some), load_some(sine + at, some)), out + at, some);
        store_some(turned(second, first, load_some(cosine + half + at, some), load_some(sine + half + at, some)),
                   out + half + at, some);
    }
    if (out != x) memcpy(out + width, x + width, (head_dim - width) * sizeof(T));
}

}  // namespace
