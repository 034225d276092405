// The activation of an MLP, and its product with the gated half.

#include "activations.hpp"
#include "team.hpp"

namespace {

template <Floats (*FUNCTION)(Floats), class T>
void rows_of(const T* inner, T* out, long count, long width, bool gated, long threads) {
    const long step = gated ? 2 * width : width;
    each_row(threads, count, std::max(1L, 16384 / width), [&](long r) {
        activate<FUNCTION>(inner + r * step, gated ? inner + r * step + width : nullptr, out + r * width, width);
    });
}

}  // namespace

#define ACTIVATION(FUNCTION, NAME, T)                                                                       \
    extern "C" void NAME(const void* inner, void* out, long count, long width, int gated, long threads) {   \
        rows_of<FUNCTION>(static_cast<const T*>(inner), static_cast<T*>(out), count, width, gated, threads); \
    }

ACTIVATION(silu, silu_float32, float)
ACTIVATION(silu, silu_bfloat16, BFloat16)
ACTIVATION(gelu, gelu_float32, float)
ACTIVATION(gelu, gelu_bfloat16, BFloat16)
ACTIVATION(gelu_tanh, gelu_tanh_float32, float)
ACTIVATION(gelu_tanh, gelu_tanh_bfloat16, BFloat16)
