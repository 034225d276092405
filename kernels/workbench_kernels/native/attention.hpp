// Attention of some tokens over a cache that ends with them. Scores, softmax and sums are in float32; where the processor
// multiplies pairs of bfloat16 numbers, a weight is rounded to bfloat16 before it meets its value.
//
// A query sees keys from the first that is visible to it on, and those in between that are hidden from it are left out of
// its count: so every key has a place in the sums of the query, and blocks of KEYS places and spans of SPAN places begin at
// the same keys whoever stands beside it. Within a span the softmax runs on from block to block, with fixed order; spans
// are joined in order. So a token's result does not depend on the tokens beside it, bit for bit: not on whether it came
// alone, in a chain, as a node of a tree or within a whole prompt, nor on the number of threads.
#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "team.hpp"
#include "words.hpp"

namespace {

// Steps between numbers of a head and of a token; keys and values of a head stand one after another.
struct AttentionShape {
    long kv_heads, groups, tokens, held, head_dim;
    long query_head, query_token, key_head, value_head, out_head, out_token;
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

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// Some queries of one KV head: row r is group r % groups of token r / groups.
template <class T>
class Tile {
  public:
    static constexpr long KEYS = 64, SPAN = 512, MOST = 96;
    typedef typename Word<T>::Kind W;
    static constexpr long STEP = Word<T>::STEP;
    // Vectors that are summed at once, and rows beside them, so that all sums stay in registers.
    static constexpr int VECTORS = 4, ROWS = WIDE / VECTORS;

    // The queries from `first` on, MOST at most.
    void prepare(const AttentionShape& shape, const Scoring& scoring, const Visible& visible, const T* query, const T* keys,
                 const T* values, long head, long first, long count) {
        shape_ = &shape, scoring_ = &scoring, count_ = count, head_ = head, first_ = first;
        keys_ = keys + head * shape.key_head, values_ = values + head * shape.value_head;
        words_ = (shape.head_dim + STEP - 1) / STEP, padded_ = (shape.head_dim + LANES - 1) / LANES * LANES;
        query_.resize(count * words_), laid_keys_.resize(words_ * KEYS), laid_values_.resize(KEYS / STEP * padded_);
        sums_.resize(count * padded_);
        shared_ = end_ = 0, tails_ = 0;
        for (long r = 0; r < count; r++) {
            const long token = (first + r) / shape.groups;
            widen(query + query_head(r) * shape.query_head + token * shape.query_token, query_.data() + r * words_,
                  shape.head_dim, words_);
            high_[r] = shape.held - shape.tokens + token + 1;
            low_[r] = std::max(0L, high_[r] - visible.window);
        }
        if (visible.marks)
            follow(visible);
        else
            shared_ = end_ = high_[count - 1];
        begin_ = *std::min_element(low_, low_ + count);
    }

    long rows() const { return count_; }
    long first_span() const { return begin_ / SPAN; }
    long end_span() const { return (end_ + SPAN - 1) / SPAN; }

    // Highest score, sum of weights and weighted values of what the rows see of one span.
    void span(long number) {
        std::fill(most_, most_ + count_, NOTHING);
        std::fill(totals_, totals_ + count_, Floats{});
        std::fill(sums_.begin(), sums_.end(), 0.0f);
        const long from = std::max(number * SPAN, begin_ / KEYS * KEYS), to = std::min((number + 1) * SPAN, end_);
        const T *keys[KEYS], *values[KEYS];
        fetch(from);
        for (long at = from; at < std::min(to, shared_); at += KEYS) {
            fetch(at + KEYS);
            for (long k = 0; k < KEYS; k++) {
                const bool there = at + k < shared_;
                keys[k] = there ? keys_ + (at + k) * shape_->head_dim : nullptr;
                values[k] = there ? values_ + (at + k) * shape_->head_dim : nullptr;
            }
            block(keys, values, at, std::min(KEYS, shared_ - at), 0, count_);
        }
        for (size_t mine = 0; mine < tails_; mine++) {
            const Path& path = paths_[mine];
            const long last = path.begin + static_cast<long>(path.keys.size());
            for (long at = std::max(from, path.begin / KEYS * KEYS); at < std::min(to, last); at += KEYS) {
                for (long k = 0; k < KEYS; k++) {
                    const bool there = at + k >= path.begin && at + k < last;
                    const long key = there ? path.keys[at + k - path.begin] : 0;
                    keys[k] = there ? keys_ + key * shape_->head_dim : nullptr;
                    values[k] = there ? values_ + key * shape_->head_dim : nullptr;
                }
                block(keys, values, at, std::min(KEYS, last - at), path.first, path.end);
            }
        }
    }

    // Numbers of a row's part: highest score, sum of weights, weighted values.
    long part() const { return padded_ + 2; }

    // Write the span's part of every row.
    void put(float* parts) const {
        for (long r = 0; r < count_; r++) {
            float* part = parts + r * (padded_ + 2);
            part[0] = most_[r], part[1] = sum(totals_[r]);
            memcpy(part + 2, sums_.data() + r * padded_, padded_ * sizeof(float));
        }
    }

    // Join a later part to an earlier one; both of `padded + 2` numbers.
    static void join(float* part, const float* later, long padded) {
        if (later[0] == NOTHING && later[1] == 0) return;
        if (part[0] == NOTHING && part[1] == 0) {
            memcpy(part, later, (padded + 2) * sizeof(float));
            return;
        }
        const float most = std::max(part[0], later[0]);
        const float mine = one_exponential(part[0] - most), theirs = one_exponential(later[0] - most);
        part[0] = most, part[1] = part[1] * mine + later[1] * theirs;
        for (long at = 2; at < padded + 2; at += LANES)
            store(fused(load(part + at), all(mine), load(later + at) * all(theirs)), part + at);
    }

    // The result of a row, from all its parts.
    void finish(long r, float* part, T* out) const {
        float total = part[1];
        if (scoring_->sinks) {
            const float sink = scoring_->sinks[query_head(r)], most = std::max(part[0], sink);
            const float mine = one_exponential(part[0] - most);
            total = total * mine + one_exponential(sink - most);
            for (long at = 0; at < padded_; at += LANES) store(load(part + 2 + at) * all(mine), part + 2 + at);
        }
        T* to = out + query_head(r) * shape_->out_head + (first_ + r) / shape_->groups * shape_->out_token;
        long at = 0;
        for (; at + LANES <= shape_->head_dim; at += LANES) store(load(part + 2 + at) / all(total), to + at);
        if (at < shape_->head_dim)
            store_some(load(part + 2 + at) / all(total), to + at, shape_->head_dim - at);
    }

  private:
    // What the rows of one token see beyond the keys that all share: places from `begin` on.
    struct Path {
        long first, end, begin;
        std::vector<long> keys;
    };

    // Ask for the keys and values from place `at` on, some time before they are needed.
    void fetch(long at) const {
        constexpr long LINE = 64 / sizeof(T);
        const long begin = at * shape_->head_dim, end = std::min(at + KEYS, shared_) * shape_->head_dim;
        for (long i = begin; i < end; i += LINE) __builtin_prefetch(keys_ + i, 0, 2);
        for (long i = begin; i < end; i += LINE) __builtin_prefetch(values_ + i, 0, 2);
    }

    static float one_exponential(float x) {
        float each[LANES];
        store(exponential(all(x)), each);
        return each[0];
    }

    long query_head(long r) const { return head_ * shape_->groups + (first_ + r) % shape_->groups; }

    // The keys that every token sees are taken together, whole blocks of them; the others token by token.
    void follow(const Visible& visible) {
        const long before = shape_->held - visible.columns;
        const uint8_t* marks = visible.marks + head_ * visible.per_head;
        const long start = first_ / shape_->groups, stop = (first_ + count_ - 1) / shape_->groups + 1;
        shared_ = shape_->held;
        for (long token = start; token < stop; token++) {
            const uint8_t* mine = marks + token * visible.columns;
            long seen = 0;
            while (seen < visible.columns && mine[seen]) seen++;
            shared_ = std::min(shared_, before + seen);
        }
        shared_ = shared_ / KEYS * KEYS;
        for (long token = start; token < stop; token++) {
            if (tails_ == paths_.size()) paths_.emplace_back();
            Path& path = paths_[tails_++];
            path.first = std::max(0L, token * shape_->groups - first_);
            path.end = std::min(count_, (token + 1) * shape_->groups - first_);
            path.keys.clear();
            const uint8_t* mine = marks + token * visible.columns;
            for (long key = shared_; key < before; key++) path.keys.push_back(key);
            for (long key = std::max(0L, shared_ - before); key < visible.columns; key++)
                if (mine[key]) path.keys.push_back(before + key);
            path.begin = shared_ || path.keys.empty() ? shared_ : path.keys[0];
            const long last = path.begin + static_cast<long>(path.keys.size());
            std::fill(low_ + path.first, low_ + path.end, shared_ ? 0 : path.begin);
            std::fill(high_ + path.first, high_ + path.end, last);
            end_ = std::max(end_, last);
        }
    }

    // Rows `first` to `end` over the keys at places `at` to `at + used`.
    void block(const T* const* keys, const T* const* values, long at, long used, long first, long end) {
        const long whole = (used + LANES - 1) / LANES * LANES;
        lay(keys, values, whole);
        for (long r = first; r < end; r += ROWS) rows_of<ROWS>(std::min<long>(ROWS, end - r), r, at, used, whole);
    }

    void lay(const T* const* keys, const T* const* values, long whole) {
        lay_keys<T>(keys, laid_keys_.data(), whole, shape_->head_dim);
        lay_values(values, laid_values_.data(), whole, shape_->head_dim, padded_);
    }

    template <int COUNT>
    void rows_of(long count, long r, long at, long used, long whole) {
        if (count < COUNT) {
            if constexpr (COUNT > 1) rows_of<COUNT - 1>(count, r, at, used, whole);
            return;
        }
        bool nobody = true;
        for (long i = r; i < r + COUNT; i++) nobody &= low_[i] >= at + used || high_[i] <= at;
        if (nobody) return;
        alignas(VECTOR) float scores[COUNT * KEYS];
        float kept[LANES] = {};
        const W* query = query_.data() + r * words_;
        long k = 0;
        for (; k + VECTORS * LANES <= whole; k += VECTORS * LANES) score<COUNT, VECTORS>(query, k, whole, scores);
        for (; k < whole; k += LANES) score<COUNT, 1>(query, k, whole, scores);
        for (int i = 0; i < COUNT; i++) {
            const long low = std::min(whole, std::max(0L, low_[r + i] - at));
            const float most = highest(scores + i * KEYS, r + i, low, std::max(0L, std::min(used, high_[r + i] - at)), whole);
            kept[i] = most_[r + i] == most ? 0 : most_[r + i] - most;
            most_[r + i] = most;
        }
        // What earlier sums are to be multiplied with.
        store(exponential(load(kept)), kept);
        for (int i = 0; i < COUNT; i++) soften(scores + i * KEYS, r + i, kept[i], whole);
        float* sums = sums_.data() + r * padded_;
        const long words = (used + STEP - 1) / STEP;
        long d = 0;
        for (; d + VECTORS * LANES <= padded_; d += VECTORS * LANES) weigh<COUNT, VECTORS>(scores, kept, d, words, sums);
        for (; d < padded_; d += LANES) weigh<COUNT, 1>(scores, kept, d, words, sums);
    }

    template <int COUNT, int WIDTH>
    void score(const W* query, long k, long whole, float* scores) {
        Floats found[COUNT][WIDTH];
#pragma GCC unroll 8
        for (int i = 0; i < COUNT; i++)
#pragma GCC unroll 4
            for (int v = 0; v < WIDTH; v++) found[i][v] = Floats{};
        const W* keys = laid_keys_.data() + k;
        for (long word = 0; word < words_; word++, keys += whole)
#pragma GCC unroll 8
            for (int i = 0; i < COUNT; i++)
#pragma GCC unroll 4
                for (int v = 0; v < WIDTH; v++)
                    found[i][v] = onto(found[i][v], query[i * words_ + word], keys + v * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < COUNT; i++)
#pragma GCC unroll 4
            for (int v = 0; v < WIDTH; v++) store(found[i][v], scores + i * KEYS + k + v * LANES);
    }

    // A row's products become scores, those of the keys before `low` and from `high` on nothing. Returns the highest that
    // the row has met in this span.
    float highest(float* scores, long row, long low, long high, long whole) {
        if (scoring_->softcap != 0)
            for (long k = 0; k < whole; k += LANES) {
                const Floats ratio = load(scores + k) * all(scoring_->scale / scoring_->softcap);
                store(all(scoring_->softcap) * hyperbolic_tangent(ratio), scores + k);
            }
        const float scale = scoring_->softcap != 0 ? 1 : scoring_->scale;
        for (long k = 0; k < low; k++) scores[k] = NOTHING;
        for (long k = high; k < whole; k++) scores[k] = NOTHING;
        Floats most = all(most_[row]);
        for (long k = 0; k < whole; k += LANES) {
            const Floats scaled = load(scores + k) * all(scale);
            store(scaled, scores + k);
            most = select((Words)(scaled > most), scaled, most);
        }
        return largest(most);
    }

    // Scores become weights, which lie in their place as words.
    void soften(float* scores, long row, float kept, long whole) {
        // Where no key is seen yet, all scores are nothing, or not a number.
        const float most = most_[row] == NOTHING ? 0 : most_[row];
        Floats total = totals_[row] * all(kept);
        for (long k = 0; k < whole; k += LANES) {
            const Floats weight = exponential(load(scores + k) - all(most));
            total = total + weight;
            keep(weight, scores, k);
        }
        totals_[row] = total;
    }

    // Weights of the keys from `k` on, where the scores of earlier ones stood.
    static void keep(Floats weights, float* scores, long k) {
        if constexpr (STEP == 2)
            store(weights, reinterpret_cast<BFloat16*>(scores) + k);
        else
            store(weights, scores + k);
    }

    template <int COUNT, int WIDTH>
    void weigh(const float* weights, const float* kept, long d, long words, float* sums) {
        Floats found[COUNT][WIDTH];
#pragma GCC unroll 8
        for (int i = 0; i < COUNT; i++)
#pragma GCC unroll 4
            for (int v = 0; v < WIDTH; v++) found[i][v] = load(sums + i * padded_ + d + v * LANES) * all(kept[i]);
        const W* values = laid_values_.data() + d;
        for (long word = 0; word < words; word++, values += padded_)
#pragma GCC unroll 8
            for (int i = 0; i < COUNT; i++) {
                W weight;
                memcpy(&weight, reinterpret_cast<const char*>(weights + i * KEYS) + word * sizeof(W), sizeof(W));
#pragma GCC unroll 4
                for (int v = 0; v < WIDTH; v++) found[i][v] = onto(found[i][v], weight, values + v * LANES);
            }
#pragma GCC unroll 8
        for (int i = 0; i < COUNT; i++)
#pragma GCC unroll 4
            for (int v = 0; v < WIDTH; v++) store(found[i][v], sums + i * padded_ + d + v * LANES);
    }

    const AttentionShape* shape_;
    const Scoring* scoring_;
    const T *keys_, *values_;
    long count_, head_, first_, words_, padded_, shared_, begin_, end_;
    long low_[MOST], high_[MOST];
    float most_[MOST];
    Floats totals_[MOST];
    std::vector<W> query_, laid_keys_, laid_values_;
    std::vector<float> sums_;
    // The first `tails_` are of these rows; the others keep their memory for the next.
    std::vector<Path> paths_;
    size_t tails_;
};

// Vectors in a std::vector or a thread's storage need their alignment.
template <class T>
Tile<T>& tile() {
    static thread_local std::unique_ptr<Tile<T>> mine{new Tile<T>};
    return *mine;
}

template <class T>
void attend(const Session& session, const AttentionShape& shape, const T* query, const T* keys, const T* values,
            const Visible& visible, T* out, const Scoring& scoring) {
    constexpr long SPAN = Tile<T>::SPAN, ROWS = Tile<T>::ROWS;
    const long rows = shape.groups * shape.tokens, threads = session.threads();
    // As large as can be, but some for every thread.
    const long fair = (rows * shape.kv_heads / (threads * 4) + ROWS - 1) / ROWS * ROWS;
    const long size = threads == 1 ? Tile<T>::MOST : std::min(Tile<T>::MOST, std::max(ROWS, fair));
    const long tiles = (rows + size - 1) / size;
    const long padded = (shape.head_dim + LANES - 1) / LANES * LANES, part = padded + 2;
    const long spans = (shape.held + SPAN - 1) / SPAN;
    const auto prepared = [&](long head, long number) -> Tile<T>& {
        Tile<T>& mine = tile<T>();
        const long first = number * size;
        mine.prepare(shape, scoring, visible, query, keys, values, head, first, std::min(size, rows - first));
        return mine;
    };
    if (tiles == 1 && spans > 1 && threads > 1) {
        // Few rows, many keys: a chunk is one span of one head.
        std::vector<float> parts(shape.kv_heads * spans * rows * part);
        session.run(shape.kv_heads * spans, [&](long chunk) {
            const long head = chunk / spans, number = chunk % spans;
            Tile<T>& mine = prepared(head, 0);
            mine.span(number);
            mine.put(parts.data() + chunk * rows * part);
        });
        for (long head = 0; head < shape.kv_heads; head++) {
            const Tile<T>& mine = prepared(head, 0);
            for (long r = 0; r < rows; r++) {
                float* total = parts.data() + (head * spans * rows + r) * part;
                for (long number = 1; number < spans; number++) Tile<T>::join(total, total + number * rows * part, padded);
                mine.finish(r, total, out);
            }
        }
        return;
    }
    // A prompt's last tokens read most: they come first.
    session.run(shape.kv_heads * tiles, [&](long chunk) {
        static thread_local std::vector<float> totals, parts;
        Tile<T>& mine = prepared(chunk % shape.kv_heads, tiles - 1 - chunk / shape.kv_heads);
        totals.assign(mine.rows() * part, 0.0f), parts.resize(mine.rows() * part);
        for (long r = 0; r < mine.rows(); r++) totals[r * part] = NOTHING;
        for (long number = mine.first_span(); number < mine.end_span(); number++) {
            mine.span(number);
            mine.put(parts.data());
            for (long r = 0; r < mine.rows(); r++) Tile<T>::join(totals.data() + r * part, parts.data() + r * part, padded);
        }
        for (long r = 0; r < mine.rows(); r++) mine.finish(r, totals.data() + r * part, out);
    });
}

}  // namespace
