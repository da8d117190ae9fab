// Sixteen lanes of fp32 in GCC's portable vector types, with intrinsics only where they decide.
//
// The build forbids the compiler to contract a * b + c (-ffp-contract=off): `fma` says where one
// rounding is meant, so that a row's result never depends on how a loop around it was unrolled.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nimlite {

constexpr int64_t kLanes = 16;

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));

// How many 512-bit vectors the registers hold.
#if defined(__AVX512F__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 8;
#endif

#define NIMLITE_INLINE inline __attribute__((always_inline))

// Keeps the compiler from holding what it has loaded in registers that are needed for sums.
#define NIMLITE_LOAD_AGAIN() asm volatile("" ::: "memory")

template <class Vector>
NIMLITE_INLINE Vector load(const void* source) {
    Vector vector;
    memcpy(&vector, source, sizeof vector);
    return vector;
}

template <class Vector>
NIMLITE_INLINE void store(void* target, Vector vector) {
    memcpy(target, &vector, sizeof vector);
}

// Calls body(offset, lanes) for each vector of a row; only the last may have fewer than 16 lanes.
template <class Body>
NIMLITE_INLINE void for_each_vector(int64_t dim, Body body) {
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) body(d, kLanes);
    if (d < dim) body(d, dim - d);
}

NIMLITE_INLINE f32x16 load_lanes(const float* p, int64_t lanes) {
    if (lanes == kLanes) return load<f32x16>(p);
    f32x16 x = {};
    memcpy(&x, p, lanes * sizeof(float));
    return x;
}

NIMLITE_INLINE void store_lanes(float* p, f32x16 x, int64_t lanes) {
    if (lanes == kLanes) return store(p, x);
    memcpy(p, &x, lanes * sizeof(float));
}

NIMLITE_INLINE void prefetch(const void* address) { __builtin_prefetch(address); }

NIMLITE_INLINE f32x16 broadcast(float value) { return value - f32x16{}; }
NIMLITE_INLINE f32x16 as_floats(i32x16 bits) { return (f32x16)bits; }
NIMLITE_INLINE i32x16 as_bits(f32x16 floats) { return (i32x16)floats; }
NIMLITE_INLINE f32x16 to_float(i32x16 x) { return __builtin_convertvector(x, f32x16); }

// a * b + c, rounded once where the machine can.
NIMLITE_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    __m256 x[2], y[2], z[2];
    memcpy(x, &a, 64), memcpy(y, &b, 64), memcpy(z, &c, 64);
    for (int half = 0; half < 2; ++half) z[half] = _mm256_fmadd_ps(x[half], y[half], z[half]);
    return load<f32x16>(z);
#else
    return a * b + c;
#endif
}

// sums[i] += the dot product of the four unsigned bytes in lane i of `bytes` with the four signed
// bytes at `four`.
NIMLITE_INLINE i32x16 dot4(i32x16 sums, u8x64 bytes, const int8_t* four) {
    int32_t packed;
    memcpy(&packed, four, 4);
#if defined(__AVX512VNNI__)
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)bytes, _mm512_set1_epi32(packed));
#else
    const u32x16 words = (u32x16)bytes;
    for (int i = 0; i < 4; ++i) sums += (i32x16)(words >> (8 * i) & 0xFF) * four[i];
    return sums;
#endif
}

NIMLITE_INLINE u32x16 widen(u16x16 x) {
#if defined(__AVX512F__)
    return (u32x16)_mm512_cvtepu16_epi32((__m256i)x);
#else
    return __builtin_convertvector(x, u32x16);
#endif
}

// Finite numbers only: scales are never infinite.
NIMLITE_INLINE f32x16 from_fp16(u16x16 x) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps((__m256i)x);
#else
    const u32x16 bits = widen(x);
    const f32x16 magnitude = (f32x16)((bits & 0x7FFF) << 13) * 0x1p112f;
    return (f32x16)((u32x16)magnitude | (bits & 0x8000) << 16);
#endif
}

// Element types of weights and of the KV pool. The pool keeps the elements of kPair consecutive
// steps of a dot product side by side: one load of 512 bits brings two vectors of bf16, which a
// shift and a mask widen.
struct Fp32 {
    using Element = float;
    static constexpr int kPair = 1;
    static NIMLITE_INLINE Element from(float x) { return x; }
    static NIMLITE_INLINE f32x16 load(const Element* p) { return nimlite::load<f32x16>(p); }
    static NIMLITE_INLINE f32x16 load_step(const Element* p, int) { return load(p); }
};

struct Bf16 {
    using Element = uint16_t;
    static constexpr int kPair = 2;
    // Rounded to nearest, ties to even.
    static NIMLITE_INLINE Element from(float x) {
        uint32_t bits;
        memcpy(&bits, &x, 4);
        return Element((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
    static NIMLITE_INLINE f32x16 load(const Element* p) {
        return (f32x16)(widen(nimlite::load<u16x16>(p)) << 16);
    }
    static NIMLITE_INLINE f32x16 load_step(const Element* p, int step) {
        const u32x16 both = nimlite::load<u32x16>(p);
        return (f32x16)(step ? both & 0xFFFF0000 : both << 16);
    }
};

struct Int8 {
    using Element = int8_t;
    static NIMLITE_INLINE f32x16 load(const Element* p) {
#if defined(__AVX512F__)
        return (f32x16)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(nimlite::load<__m128i>(p)));
#else
        return __builtin_convertvector(nimlite::load<i8x16>(p), f32x16);
#endif
    }
};

NIMLITE_INLINE f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }
NIMLITE_INLINE f32x16 min(f32x16 a, f32x16 b) { return a < b ? a : b; }
NIMLITE_INLINE f32x16 abs(f32x16 x) { return as_floats(as_bits(x) & 0x7FFFFFFF); }

// e4m3: a sign, 4 bits of exponent about 7, 3 of mantissa; at most 448, no infinity.
constexpr float kFp8Max = 448.0f;

// To the nearest value of e4m3, ties to even; beyond the largest, to that. Below 2^-6 values are
// multiples of 2^-9, which an addition rounds to.
NIMLITE_INLINE f32x16 round_to_fp8(f32x16 x) {
    x = max(min(x, broadcast(kFp8Max)), broadcast(-kFp8Max));
    const i32x16 bits = as_bits(x);
    const f32x16 normal = as_floats((bits + 0x7FFFF + (bits >> 20 & 1)) & ~0xFFFFF);
    const f32x16 small = x + 24576.0f - 24576.0f;
    return abs(x) < 0x1p-6f ? small : normal;
}

struct Fp8 {
    using Element = uint8_t;
    static constexpr int kPair = 1;
    static NIMLITE_INLINE Element from(float x) {
        const float rounded = round_to_fp8(broadcast(x))[0];
        const float magnitude = rounded < 0 ? -rounded : rounded;
        uint32_t bits;
        memcpy(&bits, &magnitude, 4);
        const uint32_t code =
            magnitude < 0x1p-6f ? uint32_t(magnitude * 512.0f) : (bits >> 20) - (120 << 3);
        return Element(code | (rounded < 0 ? 0x80 : 0));
    }
    // The bits shifted to where fp16 has them give 2^-8 of the value: its exponent is about 15.
    static NIMLITE_INLINE f32x16 load(const Element* p) {
#if defined(__AVX512F__)
        const i16x16 wide = (i16x16)_mm256_cvtepi8_epi16(nimlite::load<__m128i>(p));
#else
        const i16x16 wide = __builtin_convertvector(nimlite::load<i8x16>(p), i16x16);
#endif
        return from_fp16((u16x16)(wide << 7 & int16_t(0xBFFF))) * 256.0f;
    }
    static NIMLITE_INLINE f32x16 load_step(const Element* p, int) { return load(p); }
};

// Adding 1.5 * 2^23 to |x| < 2^22 rounds it to the nearest integer, ties to even, and leaves that
// integer in the low bits.
constexpr float kRound = 12582912.0f;

NIMLITE_INLINE i32x16 round_to_int(f32x16 x) {
    return as_bits(x + kRound) - as_bits(broadcast(kRound));
}

template <class Vector, class Combine>
NIMLITE_INLINE auto reduce(Vector x, Combine combine) {
    x = combine(x, __builtin_shuffle(
                       x, i32x16{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
    x = combine(x, __builtin_shuffle(
                       x, i32x16{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));
    x = combine(x, __builtin_shuffle(
                       x, i32x16{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));
    x = combine(x, __builtin_shuffle(
                       x, i32x16{1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14}));
    return x[0];
}

NIMLITE_INLINE float sum(f32x16 x) {
    return reduce(x, [](f32x16 a, f32x16 b) { return a + b; });
}
NIMLITE_INLINE int32_t sum(i32x16 x) {
    return reduce(x, [](i32x16 a, i32x16 b) { return a + b; });
}
NIMLITE_INLINE float largest(f32x16 x) {
    return reduce(x, [](f32x16 a, f32x16 b) { return max(a, b); });
}

// e^x to 2 ulp for x <= 88, and e^88 above; exactly 1 at 0, exactly 0 where the result would not be
// a normal number. x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts; the polynomial is
// Taylor's, of degree 7.
NIMLITE_INLINE f32x16 exp(f32x16 x) {
    x = x < 88.0f ? x : broadcast(88.0f);
    const f32x16 shifted = fma(x, broadcast(1.44269504f), broadcast(kRound));
    const f32x16 n = shifted - kRound;
    const f32x16 r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), x));
    f32x16 y = fma(broadcast(1.0f / 5040), r, broadcast(1.0f / 720));
    y = fma(y, r, broadcast(1.0f / 120));
    y = fma(y, r, broadcast(1.0f / 24));
    y = fma(y, r, broadcast(1.0f / 6));
    y = fma(y, r, broadcast(0.5f));
    y = fma(y, r, broadcast(1.0f));
    y = fma(y, r, broadcast(1.0f));
    const f32x16 scaled = as_floats(as_bits(y) + (as_bits(shifted) << 23));
    return x > -86.6f ? scaled : f32x16{};
}

// cap * tanh(x / cap) = cap * (1 - 2 / (1 + e^(2 x / cap))).
NIMLITE_INLINE f32x16 capped(f32x16 x, float cap) {
    return cap * (1.0f - 2.0f / (1.0f + exp(x * (2.0f / cap))));
}

}  // namespace nimlite
