// Root-mean-square norm of a row in one pass over it.
#pragma once

#include <cmath>

#include "vectors.hpp"

namespace {

// `late`: the weight multiplies before the result is rounded to the dtype of the rows. `out` may be `row`.
template <class T, class W>
void norm_row(const T* row, const W* weight, T* out, long width, float eps, bool late) {
    const long whole = width / LANES * LANES;
    Floats squares{};
    for (long at = 0; at < whole; at += LANES) {
        const Floats x = load(row + at);
        squares = fused(x, x, squares);
    }
    if (whole < width) {
        const Floats x = load_some(row + whole, width - whole);
        squares = fused(x, x, squares);
    }
    const Floats scale = all(1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps));
    const auto scaled = [&](Floats x, Floats w) { return (late ? x * scale : as(x * scale, row)) * w; };
    for (long at = 0; at < whole; at += LANES) store(scaled(load(row + at), load(weight + at)), out + at);
    if (whole < width)
        store_some(scaled(load_some(row + whole, width - whole), load_some(weight + whole, width - whole)), out + whole,
                   width - whole);
}

}  // namespace
