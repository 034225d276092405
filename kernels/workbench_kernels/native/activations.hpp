// Activations of an MLP, number by number: every number goes through the same vector code wherever it stands, so that it
// does not depend on how many stand beside it.
#pragma once

#include "vectors.hpp"

namespace {

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

// FUNCTION of `width` numbers, times `up` where there is one.
template <Floats (*FUNCTION)(Floats), class T>
inline void activate(const T* gate, const T* up, T* out, long width) {
    const long whole = width / LANES * LANES;
    for (long at = 0; at < whole; at += LANES) {
        const Floats value = FUNCTION(load(gate + at));
        store(up ? as(value, out) * load(up + at) : value, out + at);
    }
    if (const long some = width - whole) {
        const Floats value = FUNCTION(load_some(gate + whole, some));
        store_some(up ? as(value, out) * load_some(up + whole, some) : value, out + whole, some);
    }
}

}  // namespace
