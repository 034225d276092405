// Attention of a few tokens over a long cache that ends with them: every key and value is read once for a block of queries
// that share the KV head. Scores, softmax and sums are in float32.
//
// All sums over keys run in the order of the cache, one key after the other, and a key that a query may not see adds
// nothing. So a token's result does not depend on the tokens beside it, bit for bit: not on whether it came alone, in a
// chain or as a node of a tree.

#include <limits>
#include <vector>

#include "products.hpp"

namespace {

// Vectors of a value that are summed at once, and queries of a block.
constexpr int SUMMED = 4, BLOCK = WIDE / SUMMED;
// Products below which a second thread costs more than it gains.
constexpr long SMALL = 40000;

struct Shape {
    long kv_heads, groups, tokens, held, head_dim;
    long query_head, query_token, key_head, value_head;
};

inline Floats select(Words where, Floats one, Floats other) {
    return (Floats)(((Words)one & where) | ((Words)other & ~where));
}

// e to the power of numbers that are not positive; zero below -87.
inline Floats exponential(Floats x) {
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    const Floats magic = all(12582912.0f);
    const Floats clamped = select((Words)(x < all(-87.0f)), all(-87.0f), x);
    const Floats shifted = fused(clamped, all(1.442695041f), magic), whole = shifted - magic;
    // The logarithm of two in two parts: the first has few bits, so that its product with a whole number is exact.
    const Floats rest = fused(whole, all(2.12194440e-4f), fused(whole, all(-0.693359375f), clamped));
    Floats power = all(1.0f / 720);
    power = fused(power, rest, all(1.0f / 120));
    power = fused(power, rest, all(1.0f / 24));
    power = fused(power, rest, all(1.0f / 6));
    power = fused(power, rest, all(0.5f));
    power = fused(power, rest, all(1.0f));
    power = fused(power, rest, all(1.0f));
    const Floats scaled = (Floats)((Words)power + ((Words)shifted << 23));
    // NaN stays; what was clamped is nothing.
    return select((Words)(x == x), select((Words)(x < all(-87.0f)), Floats{}, scaled), x);
}

// Scores become unnormalised probabilities; `count` of them, then minus infinity up to a whole vector.
inline void soften(float* scores, long count, float scale, const uint8_t* visible, long tokens) {
    const long padded = (count + LANES - 1) / LANES * LANES;
    const float nothing = -std::numeric_limits<float>::infinity();
    for (long k = count; k < padded; k++) scores[k] = nothing;
    for (long k = 0; k < tokens; k++)
        if (!visible[k]) scores[count - tokens + k] = nothing;
    Floats most = all(nothing);
    for (long k = 0; k < padded; k += LANES) {
        const Floats scaled = load(scores + k) * all(scale);
        store(scaled, scores + k);
        most = select((Words)(scaled > most), scaled, most);
    }
    float each[LANES], highest = nothing;
    store(most, each);
    for (int lane = 0; lane < LANES; lane++) highest = std::max(highest, each[lane]);
    for (long k = 0; k < padded; k += LANES) store(exponential(load(scores + k) - all(highest)), scores + k);
}

// Weighted values of ROWS queries, in the vectors from `from` on; `some` numbers of a last, partial one.
template <class T, int ROWS, int VECTORS>
inline void weigh(const float* weights, long stride, const T* values, T* const* out, long held, long head_dim, long from,
                  long some) {
    Floats sums[ROWS][VECTORS];
    float totals[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        totals[r] = 0;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sums[r][v] = Floats{};
    }
    for (long k = 0; k < held; k++) {
        const T* value = values + k * head_dim + from;
        Floats parts[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) parts[v] = some ? load_some(value, some) : load(value + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const float weight = weights[r * stride + k];
            totals[r] += weight;
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sums[r][v] = fused(all(weight), parts[v], sums[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            const Floats mean = sums[r][v] / all(totals[r]);
            if (some)
                store_some(mean, out[r] + from, some);
            else
                store(mean, out[r] + from + v * LANES);
        }
    }
}

template <class T, int ROWS = BLOCK>
void weigh_all(int count, const float* weights, long stride, const T* values, T* const* out, long held, long head_dim) {
    if (count == ROWS) {
        long from = 0;
        for (; from + SUMMED * LANES <= head_dim; from += SUMMED * LANES)
            weigh<T, ROWS, SUMMED>(weights, stride, values, out, held, head_dim, from, 0);
        for (; from + LANES <= head_dim; from += LANES)
            weigh<T, ROWS, 1>(weights, stride, values, out, held, head_dim, from, 0);
        if (from < head_dim) weigh<T, ROWS, 1>(weights, stride, values, out, held, head_dim, from, head_dim - from);
    } else if constexpr (ROWS > 1) {
        weigh_all<T, ROWS - 1>(count, weights, stride, values, out, held, head_dim);
    }
}

// A block of the queries that share one KV head; query `row` is token `row % tokens` of the head's group `row / tokens`.
template <class T>
void block(const Shape& shape, const T* query, const T* keys, const T* values, const uint8_t* visible, T* out, long head,
           long first, float scale) {
    const int count = static_cast<int>(std::min<long>(BLOCK, shape.groups * shape.tokens - first));
    const long stride = (shape.held + LANES - 1) / LANES * LANES;
    static thread_local std::vector<float> scores;
    static thread_local std::vector<T> rows;
    scores.resize(count * stride);
    rows.resize(count * shape.head_dim);
    T* outs[BLOCK];
    for (int r = 0; r < count; r++) {
        const long query_head = head * shape.groups + (first + r) / shape.tokens, token = (first + r) % shape.tokens;
        memcpy(rows.data() + r * shape.head_dim, query + query_head * shape.query_head + token * shape.query_token,
               shape.head_dim * sizeof(T));
        outs[r] = out + (query_head * shape.tokens + token) * shape.head_dim;
    }
    pass<T, float, false>(count, rows.data(), keys + head * shape.key_head, scores.data(), shape.head_dim, stride, 0,
                          shape.held);
    for (int r = 0; r < count; r++)
        soften(scores.data() + r * stride, shape.held, scale, visible + (first + r) % shape.tokens * shape.tokens,
               shape.tokens);
    weigh_all<T>(count, scores.data(), stride, values + head * shape.value_head, outs, shape.held, shape.head_dim);
}

template <class T>
void attend(const Shape& shape, const T* query, const T* keys, const T* values, const uint8_t* visible, T* out, float scale) {
    const long rows = shape.groups * shape.tokens, blocks = (rows + BLOCK - 1) / BLOCK, tasks = shape.kv_heads * blocks;
    const long workers = shape.kv_heads * rows * shape.held * shape.head_dim < SMALL ? 1 : threads();
#pragma omp parallel for schedule(dynamic, 1) num_threads(workers) if (workers > 1)
    for (long task = 0; task < tasks; task++)
        block(shape, query, keys, values, visible, out, task / blocks, task % blocks * BLOCK, scale);
}

}  // namespace

#define ATTENTION(NAME, T)                                                                                              \
    extern "C" void NAME(const void* query, const void* keys, const void* values, const void* visible, void* out,       \
                         long kv_heads, long groups, long tokens, long held, long head_dim, long query_head,            \
                         long query_token, long key_head, long value_head, float scale) {                               \
        const Shape shape{kv_heads, groups, tokens, held, head_dim, query_head, query_token, key_head, value_head};     \
        attend(shape, static_cast<const T*>(query), static_cast<const T*>(keys), static_cast<const T*>(values),         \
               static_cast<const uint8_t*>(visible), static_cast<T*>(out), scale);                                      \
    }

ATTENTION(tree_attention_float32, float)
ATTENTION(tree_attention_bfloat16, BFloat16)
