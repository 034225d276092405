// Vectors of the widest kind that the processor has, and bfloat16 numbers. A kernel is written once for all of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

// Bytes of a vector, and how many of them sums may take so that all stay in registers.
#if defined(__AVX512F__)
constexpr int VECTOR = 64, WIDE = 24;
#elif defined(__AVX2__)
constexpr int VECTOR = 32, WIDE = 8;
#else
constexpr int VECTOR = 16, WIDE = 16;
#endif

constexpr int LANES = VECTOR / 4;

// What the order of sums and their rounding depend on.
#if defined(__AVX512BF16__)
constexpr const char* INSTRUCTIONS = "AVX-512 BF16";
#elif defined(__AVX512F__)
constexpr const char* INSTRUCTIONS = "AVX-512";
#elif defined(__AVX2__) && defined(__FMA__)
constexpr const char* INSTRUCTIONS = "AVX2";
#elif defined(__ARM_NEON) && defined(__aarch64__)
constexpr const char* INSTRUCTIONS = "NEON";
#else
constexpr const char* INSTRUCTIONS = "plain";
#endif

typedef uint32_t Words __attribute__((vector_size(VECTOR)));
typedef uint16_t Halves __attribute__((vector_size(VECTOR / 2)));

// a * b + c, and one number in all lanes. Written out, and contraction by the compiler is off: it would fuse in some
// places and not in others, and a row would depend on the rows beside it.
#if defined(__AVX512F__)
typedef __m512 Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats all(float value) { return _mm512_set1_ps(value); }
#elif defined(__AVX2__) && defined(__FMA__)
typedef __m256 Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats all(float value) { return _mm256_set1_ps(value); }
#elif defined(__ARM_NEON) && defined(__aarch64__)
typedef float32x4_t Floats;
inline Floats fused(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats all(float value) { return vdupq_n_f32(value); }
#else
typedef float Floats __attribute__((vector_size(VECTOR)));
inline Floats fused(Floats a, Floats b, Floats c) { return a * b + c; }
inline Floats all(float value) { return Floats{} + value; }
#endif

struct BFloat16 {
    uint16_t bits;
};

inline Floats load(const float* from) {
    Floats values;
    memcpy(&values, from, VECTOR);
    return values;
}

inline Floats load(const BFloat16* from) {
    Halves halves;
    memcpy(&halves, from, VECTOR / 2);
    return (Floats)(__builtin_convertvector(halves, Words) << 16);
}

inline void store(Floats values, float* out) { memcpy(out, &values, VECTOR); }

// Rounded to nearest, ties to even.
inline void store(Floats values, BFloat16* out) {
#ifdef __AVX512BF16__
    const __m256bh halves = _mm512_cvtneps_pbh(values);
#else
    const Words bits = (Words)values;
    const Words number = (Words)((bits & 0x7fffffffu) <= 0x7f800000u);
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, quiet = (bits >> 16) | 0x40u;
    const Halves halves = __builtin_convertvector((rounded & number) | (quiet & ~number), Halves);
#endif
    memcpy(out, &halves, VECTOR / 2);
}

// Rounded to a dtype and back: what a tensor of that dtype would have kept.
inline Floats as(Floats values, const float*) { return values; }

inline Floats as(Floats values, const BFloat16*) {
    BFloat16 kept[LANES];
    store(values, kept);
    return load(kept);
}

// The first `count` numbers of a vector; zeros, or nothing, for the others.
template <class T>
inline Floats load_some(const T* from, long count) {
    T padded[LANES] = {};
    memcpy(padded, from, count * sizeof(T));
    return load(padded);
}

template <class T>
inline void store_some(Floats values, T* out, long count) {
    T padded[LANES];
    store(values, padded);
    memcpy(out, padded, count * sizeof(T));
}

inline float sum(Floats values) {
    float each[LANES], total = 0;
    store(values, each);
    for (int lane = 0; lane < LANES; lane++) total += each[lane];
    return total;
}

// The largest of them, NaN left out.
inline float largest(Floats values) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps(values);
#else
    float each[LANES];
    store(values, each);
    return *std::max_element(each, each + LANES);
#endif
}

inline Floats select(Words where, Floats one, Floats other) {
    return (Floats)(((Words)one & where) | ((Words)other & ~where));
}

// e to the power of numbers that are not positive; zero below -87.
inline Floats exponential(Floats x) {
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    const Floats magic = all(12582912.0f);
#ifdef __AVX512F__
    const Floats clamped = _mm512_max_ps(all(-87.0f), x);
#else
    const Floats clamped = select((Words)(x < all(-87.0f)), all(-87.0f), x);
#endif
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
#ifdef __AVX512F__
    const Floats number = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, all(-87.0f), _CMP_NLT_UQ), scaled);
    return _mm512_mask_mov_ps(number, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
#else
    return select((Words)(x == x), select((Words)(x < all(-87.0f)), Floats{}, scaled), x);
#endif
}

inline Floats magnitude(Floats x) { return (Floats)((Words)x & 0x7fffffffu); }
inline Floats with_sign(Floats x, Floats sign) { return (Floats)((Words)x | ((Words)sign & 0x80000000u)); }

inline Floats hyperbolic_tangent(Floats x) {
    const Floats power = exponential(all(-2.0f) * magnitude(x));
    return with_sign((all(1.0f) - power) / (all(1.0f) + power), x);
}

}  // namespace
