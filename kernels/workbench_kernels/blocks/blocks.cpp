// Rows through neighbouring blocks of a model in one call: norm, projections, rotation, attention, activation and
// residual stream. Every number is formed as the kernels of single steps form it, bit for bit.

#include "activations.hpp"
#include "attention.hpp"
#include "norms.hpp"
#include "products.hpp"
#include "rotation.hpp"

namespace {

// As in `blocks/__init__.py`.
struct NormWeights {
    const void* weight;
    int64_t wide, late;
    double eps;
};

struct Weights {
    const void *weight, *bias;
};

struct BlockWeights {
    NormWeights attention_norm, attention_post_norm, query_norm, key_norm, mlp_norm, mlp_post_norm;
    Weights query_key_value, attention_output, up, down;
    const float* sinks;
    int64_t heads, kv_heads, head_dim, hidden, window, rope, activation, gated;
    double scale, softcap, residual_multiplier;
};

struct Cache {
    void *keys, *values;
    int64_t head, held;
};

struct Table {
    const void *cosine, *sine;
    int64_t width, wide;
};

template <class T>
void norm_of(const NormWeights& norm, const T* row, T* out, long width) {
    const float eps = static_cast<float>(norm.eps);
    if (norm.wide)
        norm_row(row, static_cast<const float*>(norm.weight), out, width, eps, norm.late);
    else
        norm_row(row, static_cast<const T*>(norm.weight), out, width, eps, norm.late);
}

template <class T>
void turn_to(const Table& table, T* head, long row, long head_dim) {
    const auto turned = [&](auto* cosine, auto* sine) {
        rotate_row(head, head, cosine + row * table.width, sine + row * table.width, table.width, head_dim);
    };
    if (table.wide)
        turned(static_cast<const float*>(table.cosine), static_cast<const float*>(table.sine));
    else
        turned(static_cast<const T*>(table.cosine), static_cast<const T*>(table.sine));
}

// out = x + factor * added, each rounded to the dtype; `out` may be `x`.
template <class T>
void add(const T* x, const T* added, T* out, long count, float factor) {
    const auto sum_of = [&](Floats a, Floats b) { return a + (factor == 1 ? b : as(b * all(factor), x)); };
    long at = 0;
    for (; at + LANES <= count; at += LANES) store(sum_of(load(x + at), load(added + at)), out + at);
    if (const long some = count - at) store_some(sum_of(load_some(x + at, some), load_some(added + at, some)), out + at, some);
}

template <class T>
void add_bias(const void* bias, T* products, long from, long count) {
    if (bias) add(products, static_cast<const T*>(bias) + from, products, count, 1);
}


template <class T>
void activated(long kind, const T* gate, const T* up, T* out, long count) {
    if (kind == 0)
        activate<silu>(gate, up, out, count);
    else if (kind == 1)
        activate<gelu>(gate, up, out, count);
    else
        activate<gelu_tanh>(gate, up, out, count);
}

template <class T>
class Pass {
  public:
    Pass(const Session& session, long rows, long width, const Table* tables, const Visible& visible)
        : session_(session), rows_(rows), width_(width), tables_(tables), visible_(visible) {}

    // `x` may be `out`. A block without weights of its attention, or of its MLP, has none.
    void run(const BlockWeights& block, const Cache& cache, const T* x, T* out) {
        const long heads = block.heads * block.head_dim;
        normed_.resize(rows_ * width_), query_.resize(rows_ * heads), attended_.resize(rows_ * heads);
        hidden_.resize(rows_ * block.hidden);
        if (block.query_key_value.weight) {
            enter(block, cache, normed(block.attention_norm, x));
            attend_to(block, cache);
            leave(block, block.attention_output, block.attention_post_norm, attended_.data(), heads, x, out);
            x = out;
        }
        if (block.up.weight) {
            widen_and_activate(block, normed(block.mlp_norm, x));
            leave(block, block.down, block.mlp_post_norm, hidden_.data(), block.hidden, x, out);
            x = out;
        }
        if (x != out) memcpy(out, x, rows_ * width_ * sizeof(T));
    }

  private:
    // Rows of the residual stream in a chunk.
    long few() const { return std::max(1L, 4096 / width_); }

    const T* normed(const NormWeights& norm, const T* x) {
        if (!norm.weight) return x;
        each_row(session_, rows_, few(), [&](long r) { norm_of(norm, x + r * width_, normed_.data() + r * width_, width_); });
        return normed_.data();
    }

    void enter(const BlockWeights& block, const Cache& cache, const T* normed) {
        const long size = block.head_dim, outputs = (block.heads + 2 * block.kv_heads) * size;
        const T* weight = static_cast<const T*>(block.query_key_value.weight);
        const Cut cut = Cut::of(rows_, width_, outputs, sizeof(T), size, session_.threads());
        each(session_, cut, rows_, outputs, [&](long row, long count, long first, long end) {
            T* kept = scratch(GROUP * cut.piece);
            pieces(normed + row * width_, weight, count, width_, first, end, cut.piece, cut.piece,
                   [&](long, long) { return kept; },
                   [&](long r, int some, long from, long to) {
                       for (int i = 0; i < some; i++)
                           for (long at = from; at < to; at += size)
                               head_of(block, cache, kept + i * cut.piece + at - from, row + r + i, at);
                   });
        });
    }

    // Head whose products begin at output `at`, to its place.
    void head_of(const BlockWeights& block, const Cache& cache, T* products, long row, long at) {
        const long size = block.head_dim, head = at / size;
        add_bias(block.query_key_value.bias, products, at, size);
        T* to;
        if (head < block.heads + block.kv_heads) {
            const NormWeights& norm = head < block.heads ? block.query_norm : block.key_norm;
            if (norm.weight) norm_of(norm, products, products, size);
            if (block.rope >= 0) turn_to(tables_[block.rope], products, row, size);
        }
        if (head < block.heads) {
            to = query_.data() + (row * block.heads + head) * size;
        } else {
            const long mine = (head - block.heads) % block.kv_heads;
            void* held = head < block.heads + block.kv_heads ? cache.keys : cache.values;
            to = static_cast<T*>(held) + mine * cache.head + (cache.held + row) * size;
        }
        memcpy(to, products, size * sizeof(T));
    }

    void attend_to(const BlockWeights& block, const Cache& cache) {
        const long size = block.head_dim, all_heads = block.heads * size;
        const AttentionShape shape{block.kv_heads, block.heads / block.kv_heads, rows_, cache.held + rows_, size, size,
                                   all_heads, cache.head, cache.head, size, all_heads};
        Visible visible = visible_;
        visible.window = block.window ? block.window : shape.held;
        const Scoring scoring{static_cast<float>(block.scale), static_cast<float>(block.softcap), block.sinks};
        attend(session_, shape, query_.data(), static_cast<const T*>(cache.keys), static_cast<const T*>(cache.values),
               visible, attended_.data(), scoring);
    }

    void leave(const BlockWeights& block, const Weights& linear, const NormWeights& norm, const T* inputs, long count,
               const T* x, T* out) {
        const T* weight = static_cast<const T*>(linear.weight);
        const float factor = static_cast<float>(block.residual_multiplier);
        if (norm.weight) products_.resize(rows_ * width_);
        const Cut cut = Cut::of(rows_, count, width_, sizeof(T), UNIT, session_.threads());
        each(session_, cut, rows_, width_, [&](long row, long some_rows, long first, long end) {
            T* kept = norm.weight ? nullptr : scratch(GROUP * cut.piece);
            const long stride = norm.weight ? width_ : cut.piece;
            pieces(inputs + row * count, weight, some_rows, count, first, end, cut.piece, stride,
                   [&](long r, long from) { return kept ? kept : products_.data() + (row + r) * width_ + from; },
                   [&](long r, int some, long from, long to) {
                       for (int i = 0; i < some; i++) {
                           const long at = (row + r + i) * width_ + from;
                           T* mine = kept ? kept + i * stride : products_.data() + at;
                           add_bias(linear.bias, mine, from, to - from);
                           if (kept) add(x + at, mine, out + at, to - from, factor);
                       }
                   });
        });
        if (!norm.weight) return;
        each_row(session_, rows_, few(), [&](long r) {
            T* mine = products_.data() + r * width_;
            norm_of(norm, mine, mine, width_);
            add(x + r * width_, mine, out + r * width_, width_, factor);
        });
    }

    void widen_and_activate(const BlockWeights& block, const T* normed) {
        const T* weight = static_cast<const T*>(block.up.weight);
        const long outputs = block.hidden;
        const Cut cut = Cut::of(rows_, width_ * (block.gated ? 2 : 1), outputs, sizeof(T), UNIT, session_.threads());
        each(session_, cut, rows_, outputs, [&](long row, long count, long first, long end) {
            T *gates = scratch(2 * count * cut.piece), *ups = gates + count * cut.piece;
            const auto nothing = [](long, int, long, long) {};
            for (long from = first; from < end; from += cut.piece) {
                const long to = std::min(from + cut.piece, end), some = to - from;
                const auto products = [&](long offset, T* into, long next) {
                    pieces(normed + row * width_, weight, count, width_, offset + from, offset + to, some, some,
                           [&](long r, long) { return into + r * some; }, nothing, weight + next * width_);
                };
                products(0, gates, block.gated ? outputs + from : to);
                if (block.gated) products(outputs, ups, to);
                for (long r = 0; r < count; r++) {
                    T *gate = gates + r * some, *up = ups + r * some;
                    add_bias(block.up.bias, gate, from, some);
                    if (block.gated) add_bias(block.up.bias, up, outputs + from, some);
                    activated(block.activation, gate, block.gated ? up : nullptr,
                              hidden_.data() + (row + r) * outputs + from, some);
                }
            }
        });
    }

    static T* scratch(long count) {
        static thread_local std::vector<T> mine;
        if (static_cast<long>(mine.size()) < count) mine.resize(count);
        return mine.data();
    }

    const Session& session_;
    const long rows_, width_;
    const Table* tables_;
    const Visible visible_;
    std::vector<T> normed_, query_, attended_, hidden_, products_;
};

template <class T>
void blocks(const BlockWeights* weights, const Cache* caches, long count, const void* x, void* out, long rows, long width,
            const Table* tables, const uint8_t* marks, long threads) {
    together(threads, [&](const Session& session) {
        Pass<T> pass(session, rows, width, tables, Visible{marks, marks ? rows : 0, 0, 0});
        for (long i = 0; i < count; i++)
            pass.run(weights[i], caches[i], static_cast<const T*>(i ? out : x), static_cast<T*>(out));
    });
}

}  // namespace

extern "C" void blocks_float32(const void* weights, const void* caches, long count, const void* x, void* out, long rows,
                               long width, const void* tables, const void* marks, long threads) {
    blocks<float>(static_cast<const BlockWeights*>(weights), static_cast<const Cache*>(caches), count, x, out, rows, width,
                  static_cast<const Table*>(tables), static_cast<const uint8_t*>(marks), threads);
}

extern "C" void blocks_bfloat16(const void* weights, const void* caches, long count, const void* x, void* out, long rows,
                                long width, const void* tables, const void* marks, long threads) {
    blocks<BFloat16>(static_cast<const BlockWeights*>(weights), static_cast<const Cache*>(caches), count, x, out, rows,
                     width, static_cast<const Table*>(tables), static_cast<const uint8_t*>(marks), threads);
}
