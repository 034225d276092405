// Experts of a mixture for a few rows: each row through its own, one call for all. Every weight is read where it stands.
//
// Product, activation, product and sum are rounded as they are one by one, and a row's experts are added in the order in
// which they are named: the result is that of single steps, bit for bit, whatever other rows there are.

#include "activations.hpp"
#include "products.hpp"

namespace {

// `tokens`, `gate_up`, `down` and `weights` have one entry for each pair of a row and an expert of it. `inner` holds
// 3 * width of the experts + inputs numbers for each pair.
template <Floats (*FUNCTION)(Floats), class T>
void few_experts(const T* rows, const long* tokens, const T* const* gate_up, const T* const* down, const T* weights,
                 T* scratch, T* out, long count, long inputs, long inner, long pairs, long threads) {
    const auto nothing = [](long, int, long, long) {};
    const long room = 3 * inner + inputs;
    together(pairs > 1 ? threads : 1, [&](const Session& session) {
        session.run(pairs, [&](long pair) {
            T *both = scratch + pair * room, *active = both + 2 * inner, *made = active + inner;
            const T *in = gate_up[pair], *back = down[pair];
            pieces(rows + tokens[pair] * inputs, in, 1, inputs, 0, 2 * inner, 2 * inner, 2 * inner,
                   [&](long, long from) { return both + from; }, nothing, back);
            activate<FUNCTION>(both, both + inner, active, inner);
            pieces(active, back, 1, inner, 0, inputs, inputs, inputs, [&](long, long from) { return made + from; },
                   nothing, pair + 1 < pairs ? gate_up[pair + 1] : in);
        });
        memset(static_cast<void*>(out), 0, count * inputs * sizeof(T));
        for (long pair = 0; pair < pairs; pair++) {
            const T* made = scratch + pair * room + 3 * inner;
            T* sum = out + tokens[pair] * inputs;
            const Floats weight = load_some(weights + pair, 1);
            const Floats factor = all(weight[0]);
            long at = 0;
            for (; at + LANES <= inputs; at += LANES)
                store(load(sum + at) + as(load(made + at) * factor, sum), sum + at);
            if (at < inputs)
                store_some(load_some(sum + at, inputs - at) + as(load_some(made + at, inputs - at) * factor, sum),
                           sum + at, inputs - at);
        }
    });
}

}  // namespace

#define FEW_EXPERTS(FUNCTION, NAME, T)                                                                               \
    extern "C" void NAME(const void* rows, const void* tokens, const void* gate_up, const void* down,                \
                         const void* weights, void* scratch, void* out, long count, long inputs, long inner,         \
                         long pairs, long threads) {                                                                 \
        few_experts<FUNCTION>(static_cast<const T*>(rows), static_cast<const long*>(tokens),                         \
                              static_cast<const T* const*>(gate_up), static_cast<const T* const*>(down),             \
                              static_cast<const T*>(weights), static_cast<T*>(scratch), static_cast<T*>(out), count, \
                              inputs, inner, pairs, threads);                                                        \
    }

FEW_EXPERTS(silu, few_experts_silu_float32, float)
FEW_EXPERTS(silu, few_experts_silu_bfloat16, BFloat16)
FEW_EXPERTS(gelu, few_experts_gelu_float32, float)
FEW_EXPERTS(gelu, few_experts_gelu_bfloat16, BFloat16)
FEW_EXPERTS(gelu_tanh, few_experts_gelu_tanh_float32, float)
FEW_EXPERTS(gelu_tanh, few_experts_gelu_tanh_bfloat16, BFloat16)
