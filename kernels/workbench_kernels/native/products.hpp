// Products of a few rows with many: tiles whose sums all stay in registers.
//
// The sum of one product is formed in the same order whatever stands in the other rows and however many there are: a row's
// results do not depend on the rows beside it, bit for bit.
#pragma once

#include "team.hpp"
#include "vectors.hpp"

namespace {

// Most rows that a tile takes.
constexpr int GROUP = 8;
// The processor's own prefetcher loses the thread when several outputs are walked side by side, so the lines of a later
// tile are asked for, at least so many bytes before they are needed, into the second-level cache.
constexpr long AHEAD = 6144;

// One register of inputs: 64 bytes (or a vector) of either dtype.
template <class T>
struct Inputs;

template <>
struct Inputs<float> {
    static constexpr int COUNT = LANES;
    Floats values;
    Inputs() = default;
    explicit Inputs(const float* from) : values(load(from)) {}
    void onto(Floats& sum, const Inputs& other) const { sum = fused(values, other.values, sum); }
};

template <>
struct Inputs<BFloat16> {
    static constexpr int COUNT = 2 * LANES;
#ifdef __AVX512BF16__
    __m512bh values;
    Inputs() = default;
    explicit Inputs(const BFloat16* from) { memcpy(&values, from, VECTOR); }
    void onto(Floats& sum, const Inputs& other) const { sum = _mm512_dpbf16_ps(sum, values, other.values); }
#else
    Floats low, high;
    Inputs() = default;
    explicit Inputs(const BFloat16* from) {
        Words pairs;
        memcpy(&pairs, from, VECTOR);
        low = (Floats)(pairs << 16);
        high = (Floats)(pairs & 0xffff0000u);
    }
    void onto(Floats& sum, const Inputs& other) const {
        sum = fused(high, other.high, fused(low, other.low, sum));
    }
#endif
};

#ifdef __AVX512F__
// Sums of the lanes of sixteen vectors, as one vector: every level halves the lanes and pairs the vectors.
inline __attribute__((always_inline)) __m512 lane_sums(const __m512* a) {
    __m512 b[8], c[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        b[i] = _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512d even = _mm512_castps_pd(b[2 * i]), odd = _mm512_castps_pd(b[2 * i + 1]);
        c[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(even, odd)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd)));
    }
    const __m512 first = _mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
    const __m512 last = _mm512_add_ps(_mm512_shuffle_f32x4(c[2], c[3], 0x88), _mm512_shuffle_f32x4(c[2], c[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(first, last, 0x88), _mm512_shuffle_f32x4(first, last, 0xdd));
}
#endif

template <class T>
inline Inputs<T> rest(const T* from, long count) {
    T padded[Inputs<T>::COUNT] = {};
    memcpy(padded, from, count * sizeof(T));
    return Inputs<T>(padded);
}

// The same without a detour through memory: of a short row, such as a small expert has, the rest is all there is.
#ifdef __AVX512F__
inline Inputs<float> rest(const float* from, long count) {
    Inputs<float> found;
    found.values = (Floats)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
    return found;
}
#endif
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
inline Inputs<BFloat16> rest(const BFloat16* from, long count) {
    Inputs<BFloat16> found;
    found.values = (__m512bh)_mm512_maskz_loadu_epi16((1u << count) - 1, from);
    return found;
}
#endif

// Products of ROWS rows and OUTPUTS outputs, all their sums in registers.
template <class T, class Out, int ROWS, int OUTPUTS, bool FETCH>
inline __attribute__((always_inline)) void tile(const T* rows, const T* weight, const char* ahead, Out* out, long inputs,
                                                long outputs) {
    constexpr int SUMS = (ROWS * OUTPUTS + 15) / 16 * 16, COUNT = Inputs<T>::COUNT;
    Floats sums[SUMS];
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; i++) sums[i] = Floats{};
    const long whole = inputs / COUNT * COUNT;
    for (long at = 0; at < whole; at += COUNT) {
        if (FETCH) {
#pragma GCC unroll 16
            for (int o = 0; o < OUTPUTS; o++)
                __builtin_prefetch(ahead + (o * inputs + at) * sizeof(T), 0, 2);
        }
        Inputs<T> w[OUTPUTS];
#pragma GCC unroll 16
        for (int o = 0; o < OUTPUTS; o++) w[o] = Inputs<T>(weight + o * inputs + at);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const Inputs<T> x(rows + r * inputs + at);
#pragma GCC unroll 16
            for (int o = 0; o < OUTPUTS; o++) w[o].onto(sums[r * OUTPUTS + o], x);
        }
    }
    if (whole < inputs) {
        // The rest of a row, with zeros behind it.
        Inputs<T> w[OUTPUTS];
#pragma GCC unroll 16
        for (int o = 0; o < OUTPUTS; o++) w[o] = rest(weight + o * inputs + whole, inputs - whole);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const Inputs<T> x = rest(rows + r * inputs + whole, inputs - whole);
#pragma GCC unroll 16
            for (int o = 0; o < OUTPUTS; o++) w[o].onto(sums[r * OUTPUTS + o], x);
        }
    }
    Out totals[SUMS];
#ifdef __AVX512F__
#pragma GCC unroll 2
    for (int i = 0; i < SUMS; i += 16) store(lane_sums(sums + i), totals + i);
#else
    float added[SUMS];
    for (int i = 0; i < ROWS * OUTPUTS; i++) added[i] = sum(sums[i]);
    for (int i = 0; i < SUMS; i += LANES) store(load(added + i), totals + i);
#endif
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) memcpy(out + r * outputs, totals + r * OUTPUTS, OUTPUTS * sizeof(Out));
}

// A group of rows against the outputs from `first` to `end`; then somebody reads the weights at `next`.
template <class T, class Out, int ROWS, bool FETCH>
void group(const T* rows, const T* weight, const T* next, Out* out, long inputs, long outputs, long first, long end) {
    constexpr int OUTPUTS = std::max(1, std::min(8, WIDE / ROWS));
    const long bytes = OUTPUTS * inputs * sizeof(T), later = (AHEAD + bytes - 1) / bytes * OUTPUTS;
    for (; first + OUTPUTS <= end; first += OUTPUTS) {
        const T* ahead = first + later < end ? weight + (first + later) * inputs : next + (first + later - end) * inputs;
        tile<T, Out, ROWS, OUTPUTS, FETCH>(rows, weight + first * inputs, reinterpret_cast<const char*>(ahead), out + first,
                                           inputs, outputs);
    }
    for (; first < end; first++)
        tile<T, Out, ROWS, 1, FETCH>(rows, weight + first * inputs, reinterpret_cast<const char*>(next), out + first, inputs,
                                     outputs);
}

// The same with the number of rows known only now, 1 to GROUP.
template <class T, class Out, bool FETCH, int ROWS = GROUP>
void pass(int count, const T* rows, const T* weight, const T* next, Out* out, long inputs, long outputs, long first,
          long end) {
    if (count == ROWS)
        group<T, Out, ROWS, FETCH>(rows, weight, next, out, inputs, outputs, first, end);
    else if constexpr (ROWS > 1)
        pass<T, Out, FETCH, ROWS - 1>(count, rows, weight, next, out, inputs, outputs, first, end);
}

// Rows against the outputs from `first` to `end`, piece by piece: the products of `size` rows from `row` on with the
// outputs from `from` to `to` are written to `place(row, from)`, row by row `stride` further on, and told to
// `done(row, size, from, to)`. Pieces have `block` outputs. After them somebody reads the weights at `next`, by default
// those that follow.
template <class T, class Place, class Done>
void pieces(const T* rows, const T* weight, long count, long inputs, long first, long end, long block, long stride,
            const Place& place, const Done& done, const T* next = nullptr) {
    const long groups = (count + GROUP - 1) / GROUP;
    for (long from = first; from < end; from += block) {
        const long to = std::min(from + block, end);
        const T* then = next && to == end ? next : weight + to * inputs;
        for (long g = 0, row = 0; g < groups; g++) {
            // Groups of nearly the same size: 9 rows are 5 and 4, not 8 and 1.
            const int size = static_cast<int>((count - row + groups - g - 1) / (groups - g));
            const T *mine = rows + row * inputs, *theirs = weight + from * inputs;
            if (g == 0)
                pass<T, T, true>(size, mine, theirs, then, place(row, from), inputs, stride, 0, to - from);
            else
                pass<T, T, false>(size, mine, theirs, then, place(row, from), inputs, stride, 0, to - from);
            done(row, size, from, to);
            row += size;
        }
    }
}

// Outputs of which pieces are made, so that no tile of any number of rows is left narrow.
constexpr long UNIT = 24;

// How a product is cut into chunks: `outputs` outputs by `rows` rows each, and pieces of `piece` outputs within. Widths
// are multiples of `unit`.
struct Cut {
    long outputs, rows, piece;

    // Few rows: every weight is read from memory once, meets all rows while it is in the first-level cache, and a chunk
    // is small enough for the threads to end together. Many: a chunk's weights stay in the second-level cache while all
    // its rows pass over them.
    static Cut of(long count, long inputs, long outputs, long bytes, long unit, long threads) {
        constexpr long FEW = 48, NEAR = 24576, HELD = 262144, LEAST = 32768, MOST = 256;
        const auto whole = [&](long wanted) { return std::max(unit, wanted / unit * unit); };
        const long row = inputs * bytes;
        if (count > FEW) {
            const long block = std::min(whole(HELD / row), whole(outputs));
            return {block, MOST, block};
        }
        const long chunk = std::max(whole(LEAST / row), whole((outputs + threads * 8 - 1) / (threads * 8)));
        const long near = count <= GROUP ? chunk : std::min(chunk, whole(NEAR / row));
        return {threads > 1 ? chunk : whole(outputs), std::max(1L, count), near};
    }

    long chunks(long count, long all) const {
        return (all + outputs - 1) / outputs * ((count + rows - 1) / rows);
    }
};

// work(row, count, first, end) for all chunks of a product of `count` rows with `outputs` outputs.
template <class Work>
void each(const Session& session, const Cut& cut, long count, long outputs, const Work& work) {
    const long parts = (count + cut.rows - 1) / cut.rows;
    session.run(cut.chunks(count, outputs), [&](long chunk) {
        const long first = chunk / parts * cut.outputs, row = chunk % parts * cut.rows;
        work(row, std::min(cut.rows, count - row), first, std::min(first + cut.outputs, outputs));
    });
}

}  // namespace
