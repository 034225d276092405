// Attention of some tokens over a cache that ends with them: every key and value is read once for a block of queries
// that share the KV head. Scores, softmax and sums are in float32.
//
// All sums over keys run in the order of the cache, one key after the other, and a key that a query may not see adds
// nothing. So a token's result does not depend on the tokens beside it, bit for bit: not on whether it came alone, in a
// chain, as a node of a tree or within a whole prompt. Keys that nobody in a block may see are not computed.

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

// How products of queries and keys become weights: times `scale`, then, where `softcap` is not zero, softcap *
// tanh(score / softcap), then a softmax in which a head's sink, where there are some, stands beside the keys.
struct Scoring {
    float scale, softcap;
    const float* sinks;
};

// Which keys a token may see. Without marks the tokens are a chain: token t sees the `window` keys that end with its own.
// With marks [tokens, columns], for each KV head `per_head` further on, it sees those marked of the last `columns` keys
// and all before them.
struct Visible {
    const uint8_t* marks;
    long columns, per_head, window;
};

// Scores become unnormalised probabilities: those from `low` to `high` that `marks`, of the last `columns`, do not hide;
// all others of the `count`, and those up to a whole vector, become nothing. Returns what the head's sink takes beside
// them.
inline float soften(float* scores, long count, long low, long high, const Scoring& scoring, long query_head,
                    const uint8_t* marks, long columns) {
    const long padded = (count + LANES - 1) / LANES * LANES;
    const float nothing = -std::numeric_limits<float>::infinity();
    if (scoring.softcap != 0)
        for (long k = low / LANES * LANES; k < high; k += LANES) {
            const Floats ratio = load(scores + k) * all(scoring.scale / scoring.softcap);
            store(all(scoring.softcap) * hyperbolic_tangent(ratio), scores + k);
        }
    const float scale = scoring.softcap != 0 ? 1 : scoring.scale;
    for (long k = 0; k < low; k++) scores[k] = nothing;
    for (long k = high; k < padded; k++) scores[k] = nothing;
    for (long k = 0; k < columns; k++)
        if (!marks[k]) scores[count - columns + k] = nothing;
    Floats most = all(nothing);
    for (long k = 0; k < padded; k += LANES) {
        const Floats scaled = load(scores + k) * all(scale);
        store(scaled, scores + k);
        most = select((Words)(scaled > most), scaled, most);
    }
    float each[LANES], highest = scoring.sinks ? scoring.sinks[query_head] : nothing;
    store(most, each);
    for (int lane = 0; lane < LANES; lane++) highest = std::max(highest, each[lane]);
    for (long k = 0; k < padded; k += LANES) store(exponential(load(scores + k) - all(highest)), scores + k);
    if (!scoring.sinks) return 0;
    store(exponential(all(scoring.sinks[query_head] - highest)), each);
    return each[0];
}

// Weighted values of ROWS queries, whose sinks took `taken`, in the vectors from `from` on; `some` numbers of a last,
// partial one.
template <class T, int ROWS, int VECTORS>
inline void weigh(const float* weights, const float* taken, long stride, const T* values, T* const* out, long held,
                  long head_dim, long from, long some) {
    Floats sums[ROWS][VECTORS];
    float totals[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        totals[r] = taken[r];
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
void weigh_all(int count, const float* weights, const float* taken, long stride, const T* values, T* const* out,
               long held, long head_dim) {
    if (count == ROWS) {
        long from = 0;
        for (; from + SUMMED * LANES <= head_dim; from += SUMMED * LANES)
            weigh<T, ROWS, SUMMED>(weights, taken, stride, values, out, held, head_dim, from, 0);
        for (; from + LANES <= head_dim; from += LANES)
            weigh<T, ROWS, 1>(weights, taken, stride, values, out, held, head_dim, from, 0);
        if (from < head_dim)
            weigh<T, ROWS, 1>(weights, taken, stride, values, out, held, head_dim, from, head_dim - from);
    } else if constexpr (ROWS > 1) {
        weigh_all<T, ROWS - 1>(count, weights, taken, stride, values, out, held, head_dim);
    }
}

// A block of the queries that share one KV head; query `row` is token `row % tokens` of the head's group `row / tokens`.
template <class T>
void block(const Shape& shape, const T* query, const T* keys, const T* values, const Visible& visible, T* out, long head,
           long first, const Scoring& scoring) {
    const int count = static_cast<int>(std::min<long>(BLOCK, shape.groups * shape.tokens - first));
    static thread_local std::vector<float> scores;
    static thread_local std::vector<T> rows;
    rows.resize(count * shape.head_dim);
    T* outs[BLOCK];
    float taken[BLOCK];
    long low[BLOCK], high[BLOCK], from = shape.held, to = 0;
    for (int r = 0; r < count; r++) {
        const long query_head = head * shape.groups + (first + r) / shape.tokens, token = (first + r) % shape.tokens;
        memcpy(rows.data() + r * shape.head_dim, query + query_head * shape.query_head + token * shape.query_token,
               shape.head_dim * sizeof(T));
        outs[r] = out + (query_head * shape.tokens + token) * shape.head_dim;
        high[r] = visible.marks ? shape.held : shape.held - shape.tokens + token + 1;
        low[r] = visible.marks ? 0 : std::max(0L, high[r] - visible.window);
        from = std::min(from, low[r]);
        to = std::max(to, high[r]);
    }
    const long held = to - from, stride = (held + LANES - 1) / LANES * LANES;
    scores.resize(count * stride);
    keys += head * shape.key_head + from * shape.head_dim;
    values += head * shape.value_head + from * shape.head_dim;
    pass<T, float, false>(count, rows.data(), keys, scores.data(), shape.head_dim, stride, 0, held);
    for (int r = 0; r < count; r++) {
        const uint8_t* marks = visible.marks;
        if (marks) marks += head * visible.per_head + (first + r) % shape.tokens * visible.columns;
        const long query_head = head * shape.groups + (first + r) / shape.tokens;
        taken[r] = soften(scores.data() + r * stride, held, low[r] - from, high[r] - from, scoring, query_head, marks,
                          visible.columns);
    }
    weigh_all<T>(count, scores.data(), taken, stride, values, outs, held, shape.head_dim);
}

template <class T>
void attend(const Shape& shape, const T* query, const T* keys, const T* values, const Visible& visible, T* out,
            const Scoring& scoring) {
    const long rows = shape.groups * shape.tokens, blocks = (rows + BLOCK - 1) / BLOCK, tasks = shape.kv_heads * blocks;
    const long workers = shape.kv_heads * rows * shape.held * shape.head_dim < SMALL ? 1 : threads();
#pragma omp parallel for schedule(dynamic, 1) num_threads(workers) if (workers > 1)
    for (long task = 0; task < tasks; task++)
        block(shape, query, keys, values, visible, out, task / blocks, task % blocks * BLOCK, scoring);
}

}  // namespace

#define ATTENTION(NAME, T)                                                                                              \
    extern "C" void NAME(const void* query, const void* keys, const void* values, const void* marks, void* out,         \
                         long kv_heads, long groups, long tokens, long held, long head_dim, long query_head,            \
                         long query_token, long key_head, long value_head, long columns, long per_head, long window,    \
                         float scale, float softcap, const float* sinks) {                                              \
        const Shape shape{kv_heads, groups, tokens, held, head_dim, query_head, query_token, key_head, value_head};     \
        const Visible visible{static_cast<const uint8_t*>(marks), columns, per_head, window};                           \
        const Scoring scoring{scale, softcap, sinks};                                                                   \
        attend(shape, static_cast<const T*>(query), static_cast<const T*>(keys), static_cast<const T*>(values),         \
               visible, static_cast<T*>(out), scoring);                                                                 \
    }

ATTENTION(tree_attention_float32, float)
ATTENTION(tree_attention_bfloat16, BFloat16)
