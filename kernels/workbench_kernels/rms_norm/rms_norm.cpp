// Root-mean-square norm of rows in one pass over each; what a row becomes does not depend on the rows beside it.

#include <cmath>

#include "vectors.hpp"

namespace {

// Numbers below which a second thread costs more than it gains.
constexpr long SMALL = 40000;

template <class T, class W>
void norm(const T* all_rows, const W* weight, T* all_out, long count, long width, float eps, bool late) {
    const long whole = width / LANES * LANES;
    const long workers = count * width < SMALL ? 1 : threads();
#pragma omp parallel for num_threads(workers) if (workers > 1)
    for (long r = 0; r < count; r++) {
        const T* rows = all_rows + r * width;
        T* out = all_out + r * width;
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
