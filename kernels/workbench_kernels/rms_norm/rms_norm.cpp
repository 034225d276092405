// Root-mean-square norm of a few rows in one pass over each.

#include <cmath>

#include "vectors.hpp"

namespace {

// Rounded to T and back: what a tensor of that dtype would have kept.
inline Floats as(Floats values, const float*) { return values; }

inline Floats as(Floats values, const BFloat16*) {
    BFloat16 kept[LANES];
    store(values, kept);
    return load(kept);
}

template <class T, class W>
void norm(const T* rows, const W* weight, T* out, long count, long width, float eps, bool late) {
    const long whole = width / LANES * LANES;
    for (long r = 0; r < count; r++, rows += width, out += width) {
        Floats squares{};
        for (long at = 0; at < whole; at += LANES) {
            const Floats x = load(rows + at);
            squares = fused(x, x, squares);
        }
        if (whole < width) {
            const Floats x = load_some(rows + whole, width - whole);
            squares = fused(x, x, squares);
        }
        const Floats scale = all(1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps));
        const auto scaled = [&](Floats x, Floats w) { return (late ? x * scale : as(x * scale, rows)) * w; };
        for (long at = 0; at < whole; at += LANES) store(scaled(load(rows + at), load(weight + at)), out + at);
        if (whole < width)
            store_some(scaled(load_some(rows + whole, width - whole), load_some(weight + whole, width - whole)),
                       out + whole, width - whole);
    }
}

}  // namespace

#define NORM(NAME, T, W)                                                                                                \
    extern "C" void NAME(const void* rows, const void* weight, void* out, long count, long width, float eps, int late) { \
        norm(static_cast<const T*>(rows), static_cast<const W*>(weight), static_cast<T*>(out), count, width, eps, late); \
    }

NORM(rms_norm_float32_float32, float, float)
NORM(rms_norm_bfloat16_bfloat16, BFloat16, BFloat16)
NORM(rms_norm_bfloat16_float32, BFloat16, float)
