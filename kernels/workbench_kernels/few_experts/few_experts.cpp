// Experts of a mixture for a few rows: each row through its own, one call for all. Every weight is read where it stands.
//
// Product, activation, product and sum are rounded as they are one by one, and what a row's experts give is added in the
// order of their numbers: the result is that of single steps, bit for bit, whatever other rows there are.

#include "activations.hpp"
#include "products.hpp"

namespace {

// `chosen` and `weights` have `each` experts for every row; one from `experts` on is none. `scratch` has room for
// 3 * inner + inputs numbers of each.
template <Floats (*FUNCTION)(Floats), class T>
void few_experts(const T* rows, const long* chosen, const T* weights, const T* const* gate_up, const T* const* down,
                 T* scratch, T* out, long count, long each, long inputs, long inner, long experts, long threads) {
    const auto nothing = [](long, int, long, long) {};
    const long room = 3 * inner + inputs, pairs = count * each;
    const auto none = [&](long pair) { return chosen[pair] < 0 || chosen[pair] >= experts; };
    together(pairs > 1 ? threads : 1, [&](const Session& session) {
        session.run(pairs, [&](long pair) {
            if (none(pair)) return;
            T *both = scratch + pair * room, *active = both + 2 * inner, *made = active + inner;
            const T *into = gate_up[chosen[pair]], *back = down[chosen[pair]];
            const T* next = pair + 1 < pairs && !none(pair + 1) ? gate_up[chosen[pair + 1]] : into;
            pieces(rows + pair / each * inputs, into, 1, inputs, 0, 2 * inner, 2 * inner, 2 * inner,
                   [&](long, long from) { return both + from; }, nothing, back);
            activate<FUNCTION>(both, both + inner, active, inner);
            pieces(active, back, 1, inner, 0, inputs, inputs, inputs, [&](long, long from) { return made + from; },
                   nothing, next);
        });
        each_row(session, count, 1, [&](long row) {
            T* sum = out + row * inputs;
            memset(static_cast<void*>(sum), 0, inputs * sizeof(T));
            // The next expert by number, and by place where one is named twice, until there is none.
            for (long last = -1, place = -1;;) {
                long found = -1;
                for (long pair = row * each; pair < (row + 1) * each; pair++) {
                    const bool later = chosen[pair] > last || (chosen[pair] == last && pair > place);
                    if (!none(pair) && later && (found < 0 || chosen[pair] < chosen[found])) found = pair;
                }
                if (found < 0) break;
                last = chosen[found], place = found;
                const T* made = scratch + found * room + 3 * inner;
                const Floats factor = all(load_some(weights + found, 1)[0]);
                long at = 0;
                for (; at + LANES <= inputs; at += LANES)
                    store(load(sum + at) + as(load(made + at) * factor, sum), sum + at);
                if (const long some = inputs - at)
                    store_some(load_some(sum + at, some) + as(load_some(made + at, some) * factor, sum), sum + at, some);
            }
        });
    });
}

}  // namespace

#define FEW_EXPERTS(FUNCTION, NAME, T)                                                                                \
    extern "C" void NAME(const void* rows, const void* chosen, const void* weights, const void* gate_up,              \
                         const void* down, void* scratch, void* out, long count, long each, long inputs, long inner,  \
                         long experts, long threads) {                                                                \
        few_experts<FUNCTION>(static_cast<const T*>(rows), static_cast<const long*>(chosen),                          \
                              static_cast<const T*>(weights), static_cast<const T* const*>(gate_up),                  \
                              static_cast<const T* const*>(down), static_cast<T*>(scratch), static_cast<T*>(out),     \
                              count, each, inputs, inner, experts, threads);                                          \
    }

FEW_EXPERTS(silu, few_experts_silu_float32, float)
FEW_EXPERTS(silu, few_experts_silu_bfloat16, BFloat16)
FEW_EXPERTS(gelu, few_experts_gelu_float32, float)
FEW_EXPERTS(gelu, few_experts_gelu_bfloat16, BFloat16)
FEW_EXPERTS(gelu_tanh, few_experts_gelu_tanh_float32, float)
FEW_EXPERTS(gelu_tanh, few_experts_gelu_tanh_bfloat16, BFloat16)
