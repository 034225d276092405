// Attention of a pass over the cache of one layer.

#include "attention.hpp"

namespace {

template <class T>
void attention(const AttentionShape& shape, const void* query, const void* keys, const void* values, const Visible& visible,
               void* out, const Scoring& scoring, long threads) {
    // Products below which a second thread costs more than it gains.
    constexpr long SMALL = 40000;
    const bool small = shape.kv_heads * shape.groups * shape.tokens * shape.held * shape.head_dim < SMALL;
    together(small ? 1 : threads, [&](const Session& session) {
        attend(session, shape, static_cast<const T*>(query), static_cast<const T*>(keys), static_cast<const T*>(values),
               visible, static_cast<T*>(out), scoring);
    });
}

}  // namespace

#define ATTENTION(NAME, T)                                                                                              \
    extern "C" void NAME(const void* query, const void* keys, const void* values, const void* marks, void* out,         \
                         long kv_heads, long groups, long tokens, long held, long head_dim, long query_head,            \
                         long query_token, long key_head, long value_head, long columns, long per_head, long window,    \
                         float scale, float softcap, const float* sinks, long threads) {                                \
        const AttentionShape shape{kv_heads,   groups,   tokens,     held,              head_dim, query_head,           \
                                   query_token, key_head, value_head, tokens * head_dim, head_dim};                     \
        attention<T>(shape, query, keys, values, Visible{static_cast<const uint8_t*>(marks), columns, per_head, window}, \
                     out, Scoring{scale, softcap, sinks}, threads);                                                     \
    }

ATTENTION(tree_attention_float32, float)
ATTENTION(tree_attention_bfloat16, BFloat16)
