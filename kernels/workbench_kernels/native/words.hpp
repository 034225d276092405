// Sums of products in which every lane is another output: numbers are laid out so that nothing is added across lanes.
#pragma once

#include <vector>

#include "vectors.hpp"

namespace {

// What a product takes of one step of its sum: a number, or two of them where the processor adds two at a time.
template <class T>
struct Word {
    typedef float Kind;
    static constexpr long STEP = 1;
};

#ifdef __AVX512BF16__
template <>
struct Word<BFloat16> {
    typedef uint32_t Kind;
    static constexpr long STEP = 2;
};

inline Floats onto(Floats sum, uint32_t word, const uint32_t* words) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(word)), (__m512bh)_mm512_loadu_si512(words));
}
#endif

inline Floats onto(Floats sum, float word, const float* words) { return fused(all(word), load(words), sum); }

// A row of `count` numbers as words, with zeros up to `padded` words.
inline void widen(const float* row, float* words, long count, long padded) {
    memcpy(words, row, count * sizeof(float));
    std::fill(words + count, words + padded, 0.0f);
}

inline void widen(const BFloat16* row, float* words, long count, long padded) {
    long at = 0;
    for (; at + LANES <= count; at += LANES) store(load(row + at), words + at);
    if (at < count) {
        float some[LANES];
        store(load_some(row + at, count - at), some);
        memcpy(words + at, some, (count - at) * sizeof(float));
    }
    std::fill(words + count, words + padded, 0.0f);
}

inline void widen(const BFloat16* row, uint32_t* words, long count, long padded) {
    words[(count - 1) / 2] = 0;
    memcpy(words, row, count * sizeof(BFloat16));
    std::fill(words + (count + 1) / 2, words + padded, 0u);
}

#ifdef __AVX512F__
// Sixteen rows of sixteen words, `stride` apart, become columns, `to_stride` apart.
inline void turn(const void* const* rows, long offset, void* to, long to_stride) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        a[i] = rows[i] ? _mm512_loadu_si512(static_cast<const char*>(rows[i]) + offset) : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
        b[4 + i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        b[8 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        b[12 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
    }
    char* out = static_cast<char*>(to);
    const long step = to_stride * 4;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_si512(out + i * step, _mm512_shuffle_i32x4(b[i], b[8 + i], 0x88));
        _mm512_storeu_si512(out + (4 + i) * step, _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0x88));
        _mm512_storeu_si512(out + (8 + i) * step, _mm512_shuffle_i32x4(b[i], b[8 + i], 0xdd));
        _mm512_storeu_si512(out + (12 + i) * step, _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0xdd));
    }
}
#endif

// Rows [keys, width] lie as columns [width in words][keys]; a null row is zeros. `keys` is a multiple of LANES.
template <class T, class W>
void lay_keys(const T* const* rows, W* to, long keys, long width) {
    const long words = (width + Word<T>::STEP - 1) / Word<T>::STEP;
    long at = 0;
#ifdef __AVX512F__
    if constexpr (sizeof(T) * Word<T>::STEP == 4)
        for (; (at + 16) * Word<T>::STEP <= width; at += 16)
            for (long k = 0; k < keys; k += 16)
                turn(reinterpret_cast<const void* const*>(rows + k), at * 4, to + at * keys + k, keys);
#endif
    if (at == words) return;
    static thread_local std::vector<W> kept;
    kept.resize(words);
    W* row = kept.data();
    for (long k = 0; k < keys; k++) {
        if (rows[k])
            widen(rows[k], row, width, words);
        else
            std::fill(row, row + words, W{});
        for (long word = at; word < words; word++) to[word * keys + k] = row[word];
    }
}

// Rows [keys, width] as words of a sum over keys: [keys in words][padded width]; a null row is zeros.
template <class T>
void lay_values(const T* const* rows, float* to, long keys, long width, long padded) {
    for (long k = 0; k < keys; k++) {
        if (rows[k])
            widen(rows[k], to + k * padded, width, padded);
        else
            std::fill(to + k * padded, to + (k + 1) * padded, 0.0f);
    }
}

#ifdef __AVX512BF16__
inline void lay_values(const BFloat16* const* rows, uint32_t* to, long keys, long width, long padded) {
    const auto sixteen = [&](const BFloat16* row, long at) {
        if (!row) return _mm512_setzero_si512();
        const __mmask16 some = at + 16 <= width ? 0xffff : static_cast<__mmask16>((1u << (width - at)) - 1);
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, row + at));
    };
    for (long k = 0; k < keys; k += 2)
        for (long at = 0; at < padded; at += 16)
            _mm512_storeu_si512(to + k / 2 * padded + at,
                                _mm512_or_si512(sixteen(rows[k], at), _mm512_slli_epi32(sixteen(rows[k + 1], at), 16)));
}
#endif

}  // namespace
