// The activation of an MLP, and its product with the gated half, number by number. Every number goes through the same
// vector code wherever it stands, so that it does not depend on how many stand beside it.

#include "vectors.hpp"

namespace {

// Numbers below which a second thread costs more than it gains.
constexpr long SMALL = 16384;

// x / (1 + exp(-x)), from exp(-|x|), which cannot overflow.
inline Floats silu(Floats x) {
    const Floats power = exponential(all(0.0f) - magnitude(x));
    return x * select((Words)(x < all(0.0f)), power, all(1.0f)) / (all(1.0f) + power);
}

// A quotient of polynomials, to a few units in the last place; from about 3.8 on it is one.
inline Floats error_function(Floats x) {
    const Floats square = x * x;
    Floats above = all(-2.72614225801306e-10f), below = all(-1.45660718464996e-05f);
    above = fused(above, square, all(2.77068142495902e-08f));
    above = fused(above, square, all(-2.10102402082508e-06f));
    above = fused(above, square, all(-5.69250639462346e-05f));
    above = fused(above, square, all(-7.34990630326855e-04f));
    above = fused(above, square, all(-2.95459980854025e-03f));
    above = fused(above, square, all(-1.60960333262415e-02f));
    below = fused(below, square, all(-2.13374055278905e-04f));
    below = fused(below, square, all(-1.68282697438203e-03f));
    below = fused(below, square, all(-7.37332916720468e-03f));
    below = fused(below, square, all(-1.42647390514189e-02f));
    return select((Words)(magnitude(x) > all(3.832506856900711f)), with_sign(all(1.0f), x), x * above / below);
}

inline Floats gelu(Floats x) { return all(0.5f) * x * (all(1.0f) + error_function(x * all(0.70710678f))); }

inline Floats gelu_tanh(Floats x) {
    const Floats inner = all(0.79788456f) * fused(all(0.044715f) * x * x, x, x);
    return all(0.5f) * x * (all(1.0f) + hyperbolic_tangent(inner));
}

template <Floats (*FUNCTION)(Floats), class T>
void apply(const T* inner, T* out, long count, long width, bool gated) {
    const long step = gated ? 2 * width : width, whole = width / LANES * LANES;
    const long workers = count * width < SMALL ? 1 : threads();
#pragma omp parallel for num_threads(workers) if (workers > 1)
    for (long r = 0; r < count; r++) {
        const T *gate = inner + r * step, *up = gate + width;
        T* to = out + r * width;
        for (long at = 0; at < whole; at += LANES) {
            const Floats value = FUNCTION(load(gate + at));
            store(gated ? as(value, to) * load(up + at) : value, to + at);
        }
        if (const long some = width - whole) {
            const Floats value = FUNCTION(load_some(gate + whole, some));
            store_some(gated ? as(value, to) * load_some(up + whole, some) : value, to + whole, some);
        }
    }
}

}  // namespace

#define ACTIVATION(FUNCTION, NAME, T)                                                                              \
    extern "C" void NAME(const void* inner, void* out, long count, long width, int gated) {                        \
        apply<FUNCTION>(static_cast<const T*>(inner), static_cast<T*>(out), count, width, gated);                  \
    }

ACTIVATION(silu, silu_float32, float)
ACTIVATION(silu, silu_bfloat16, BFloat16)
ACTIVATION(gelu, gelu_float32, float)
ACTIVATION(gelu, gelu_bfloat16, BFloat16)
ACTIVATION(gelu_tanh, gelu_tanh_float32, float)
ACTIVATION(gelu_tanh, gelu_tanh_bfloat16, BFloat16)
