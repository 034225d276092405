// out = rows @ weight.T for a few rows: every weight is read from memory once, in order, and meets all rows while it is
// in a register. The weights stand as the model has them, [outputs, inputs], so nothing is packed or copied.
//
// Reading is what takes the time. The processor's own prefetcher loses the thread when several outputs are walked side
// by side, so the lines are asked for in memory order, AHEAD bytes before they are needed, into the second-level cache.
//
// The sum of one output is formed in the same order whatever the number of rows: a row's result does not depend on the
// rows beside it, bit for bit.

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR = 64, WIDE = 24;
#elif defined(__AVX2__)
constexpr int VECTOR = 32, WIDE = 8;
#else
constexpr int VECTOR = 16, WIDE = 16;
#endif

constexpr int LANES = VECTOR / 4;
constexpr long AHEAD = 16384;
// Bytes of weights that all groups of rows pass over before the next ones are read; they stay in the second-level cache.
constexpr long HELD = 262144;
constexpr int GROUP = 8;

typedef uint32_t Words __attribute__((vector_size(VECTOR)));

// a * b + c. Written out, and contraction by the compiler is off: it would fuse in some tiles and not in others, and a row
// would depend on the rows beside it.
#if defined(__AVX512F__)
typedef __m512 Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__) && defined(__FMA__)
typedef __m256 Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(__ARM_NEON) && defined(__aarch64__)
typedef float32x4_t Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
#else
typedef float Floats __attribute__((vector_size(VECTOR)));
inline Floats fused(Floats a, Floats b, Floats c) { return a * b + c; }
#endif

struct BFloat16 {
    uint16_t bits;
};

inline void store(float value, float* out) { *out = value; }

inline void store(float value, BFloat16* out) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const bool number = (bits & 0x7fffffff) <= 0x7f800000;
    out->bits = number ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : (bits >> 16) | 0x40;
}

// One register of inputs: 64 bytes (or a vector) of either dtype.
template <class T>
struct Inputs;

template <>
struct Inputs<float> {
    static constexpr int COUNT = LANES;
    Floats values;
    Inputs() = default;
    explicit Inputs(const float* from) { memcpy(&values, from, VECTOR); }
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

inline void store(__m512 values, float* out) { _mm512_storeu_ps(out, values); }

inline void store(__m512 values, BFloat16* out) {
#ifdef __AVX512BF16__
    const __m256bh narrow = _mm512_cvtneps_pbh(values);
    memcpy(out, &narrow, sizeof narrow);
#else
    float each[16];
    _mm512_storeu_ps(each, values);
    for (int i = 0; i < 16; i++) store(each[i], out + i);
#endif
}
#endif

template <class T>
inline Inputs<T> rest(const T* from, long count) {
    T padded[Inputs<T>::COUNT] = {};
    memcpy(padded, from, count * sizeof(T));
    return Inputs<T>(padded);
}

// Products of ROWS rows and OUTPUTS outputs, all their sums in registers.
template <class T, int ROWS, int OUTPUTS, bool FETCH>
inline __attribute__((always_inline)) void tile(const T* rows, const T* weight, T* out, long inputs, long outputs) {
    constexpr int SUMS = (ROWS * OUTPUTS + 15) / 16 * 16, COUNT = Inputs<T>::COUNT;
    Floats sums[SUMS];
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; i++) sums[i] = Floats{};
    const long whole = inputs / COUNT * COUNT;
    for (long at = 0; at < whole; at += COUNT) {
        if (FETCH) {
#pragma GCC unroll 16
            for (int o = 0; o < OUTPUTS; o++)
                __builtin_prefetch(reinterpret_cast<const char*>(weight + o * inputs + at) + AHEAD, 0, 2);
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
    T totals[SUMS];
#ifdef __AVX512F__
#pragma GCC unroll 2
    for (int i = 0; i < SUMS; i += 16) store(lane_sums(sums + i), totals + i);
#else
    for (int i = 0; i < ROWS * OUTPUTS; i++) {
        float total = 0;
        for (int lane = 0; lane < LANES; lane++) total += sums[i][lane];
        store(total, totals + i);
    }
#endif
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) memcpy(out + r * outputs, totals + r * OUTPUTS, OUTPUTS * sizeof(T));
}

// A group of rows against the outputs from `first` to `end`.
template <class T, int ROWS, bool FETCH>
void group(const T* rows, const T* weight, T* out, long inputs, long outputs, long first, long end) {
    constexpr int OUTPUTS = std::max(1, std::min(8, WIDE / ROWS));
    for (; first + OUTPUTS <= end; first += OUTPUTS)
        tile<T, ROWS, OUTPUTS, FETCH>(rows, weight + first * inputs, out + first, inputs, outputs);
    for (; first < end; first++) tile<T, ROWS, 1, FETCH>(rows, weight + first * inputs, out + first, inputs, outputs);
}

template <class T, bool FETCH, int ROWS = GROUP>
void pass(int count, const T* rows, const T* weight, T* out, long inputs, long outputs, long first, long end) {
    if (count == ROWS)
        group<T, ROWS, FETCH>(rows, weight, out, inputs, outputs, first, end);
    else if constexpr (ROWS > 1)
        pass<T, FETCH, ROWS - 1>(count, rows, weight, out, inputs, outputs, first, end);
}

template <class T>
void part(const T* rows, const T* weight, T* out, long count, long inputs, long outputs, long first, long end) {
    const long block = std::max(16L, HELD / static_cast<long>(inputs * sizeof(T)) / 16 * 16);
    const long groups = (count + GROUP - 1) / GROUP;
    for (long from = first; from < end; from += block) {
        const long to = std::min(from + block, end);
        for (long g = 0, row = 0; g < groups; g++) {
            // Groups of nearly the same size: 9 rows are 5 and 4, not 8 and 1.
            const int size = static_cast<int>((count - row + groups - g - 1) / (groups - g));
            const T* mine = rows + row * inputs;
            if (g == 0)
                pass<T, true>(size, mine, weight, out + row * outputs, inputs, outputs, from, to);
            else
                pass<T, false>(size, mine, weight, out + row * outputs, inputs, outputs, from, to);
            row += size;
        }
    }
}

template <class T>
void product(const T* rows, const T* weight, T* out, long count, long inputs, long outputs) {
#ifdef _OPENMP
    const long threads = omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    const long threads = 1;
#endif
    const long share = ((outputs + threads - 1) / threads + 15) / 16 * 16;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long thread = 0; thread < threads; thread++) {
        const long first = std::min(share * thread, outputs);
        part(rows, weight, out, count, inputs, outputs, first, std::min(first + share, outputs));
    }
}

}  // namespace

extern "C" void few_rows_float32(const void* rows, const void* weight, void* out, long count, long inputs, long outputs) {
    product(static_cast<const float*>(rows), static_cast<const float*>(weight), static_cast<float*>(out), count, inputs,
            outputs);
}

extern "C" void few_rows_bfloat16(const void* rows, const void* weight, void* out, long count, long inputs, long outputs) {
    product(static_cast<const BFloat16*>(rows), static_cast<const BFloat16*>(weight), static_cast<BFloat16*>(out), count,
            inputs, outputs);
}
