// Heads of rows turned to the rows' positions.

#include "rotation.hpp"
#include "team.hpp"

namespace {

template <class T, class Table>
void rotate(const T* x, const Table* cosine, const Table* sine, T* out, long batch, long tokens, long heads, long head_dim,
            long x_token, long width, long threads) {
    each_row(threads, batch * tokens, std::max(1L, 40000 / (heads * head_dim)), [&](long row) {
        for (long head = 0; head < heads; head++)
            rotate_row(x + row * x_token + head * head_dim, out + (row * heads + head) * head_dim,
                       cosine + row % tokens * width, sine + row % tokens * width, width, head_dim);
    });
}

}  // namespace

#define ROTARY(NAME, T, TABLE)                                                                                         \
    extern "C" void NAME(const void* x, const void* cosine, const void* sine, void* out, long batch, long tokens,      \
                         long heads, long head_dim, long x_token, long width, long threads) {                         \
        rotate(static_cast<const T*>(x), static_cast<const TABLE*>(cosine), static_cast<const TABLE*>(sine),          \
               static_cast<T*>(out), batch, tokens, heads, head_dim, x_token, width, threads);                        \
    }

ROTARY(rotary_float32_float32, float, float)
ROTARY(rotary_bfloat16_bfloat16, BFloat16, BFloat16)
ROTARY(rotary_bfloat16_float32, BFloat16, float)
