// How each scheme stores a tile of 16 output features, and how a block of rows is multiplied with
// it.
//
// A policy has two halves. `pack` lays MR rows of activations out so that the inner loop reads them
// in order: [group][…][MR]. `multiply` runs one block of MR rows against one tile. The order of
// every sum is the same for all MR: a row's result does not depend on the rows beside it.
#pragma once
#include <algorithm>

#include "op.h"
#include "vector.h"

namespace nimlite {

constexpr int64_t kTile = 16;
constexpr int64_t kGroup = 32;
constexpr int64_t kSection = 32;  // columns
constexpr int64_t kAhead = 8192;  // bytes between a read and the prefetch that runs before it

// fp32, bf16, int8_wo, int4_wo and fp8: multiplied in fp32; activations [C][MR].
//
// Each section of the columns is summed apart and then added: rounding errors grow with the length
// of the chains instead of with C, and the processor overlaps the chains of two sections.
template <class Columns>
struct FloatWeight {
    static int64_t row_bytes(int64_t num_columns) { return 4 * num_columns; }

    static void pack(const float* x, const Weight& weight, int mr, char* packed) {
        const int64_t num_columns = weight.num_columns;
        float* target = (float*)packed;
        if constexpr (Columns::kRoundsInputs)
            for (int r = 0; r < mr; ++r, x += num_columns) Columns::pack_row(x, weight, target + r, mr);
        else
            for (int64_t c = 0; c < num_columns; ++c)
                for (int r = 0; r < mr; ++r) *target++ = x[r * num_columns + c];
    }

    template <int MR>
    static NIMLITE_INLINE void multiply(const char* packed, const Weight& weight, int64_t tile,
                                        f32x16* sums) {
        const float* x = (const float*)packed;
        for (int64_t first = 0; first < weight.num_columns; first += kSection) {
            f32x16 section[MR] = {};
            const int64_t count = std::min(weight.num_columns - first, kSection);
            Columns::for_each(weight, tile, first, count, [&](f32x16 column) {
#pragma GCC unroll 16
                for (int r = 0; r < MR; ++r) section[r] = fma(broadcast(x[r]), column, section[r]);
                x += MR;
            });
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) sums[r] += section[r];
        }
        if constexpr (Columns::kScalesRows) {
            const f32x16 scale = load<f32x16>(weight.row_scales(tile * kTile));
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) sums[r] *= scale;
        }
    }
};

// Weight [N/16, C, 16], and where rows have scales, fp32 [N/16, 16].
template <class Number, bool kScaled = false>
struct DenseColumns {
    using Element = typename Number::Element;
    static constexpr bool kScalesRows = kScaled, kRoundsInputs = false;

    template <class Body>
    static NIMLITE_INLINE void for_each(const Weight& weight, int64_t tile, int64_t first,
                                        int64_t count, Body body) {
        const auto* w =
            (const Element*)weight.weight + (tile * weight.num_columns + first) * kTile;
        for (int64_t c = 0; c < count; ++c, w += kTile) {
            prefetch((const char*)w + kAhead);
            body(Number::load(w));
        }
    }
};

struct Fp8Columns : DenseColumns<Fp8, true> {
    static constexpr bool kRoundsInputs = true;

    // A row, each value as what its fp8 stands for, to every `stride`th of `target`.
    static void pack_row(const float* x, const Weight& weight, float* target, int stride) {
        const int64_t num_columns = weight.num_columns;
        float scale = weight.input_scale;
        if (scale == 0) {
            f32x16 most = broadcast(1e-12f);
            for_each_vector(num_columns, [&](int64_t c, int64_t lanes) {
                most = max(most, abs(load_lanes(x + c, lanes)));
            });
            scale = largest(most) / kFp8Max;
        }
        for_each_vector(num_columns, [&](int64_t c, int64_t lanes) {
            const f32x16 rounded = round_to_fp8(load_lanes(x + c, lanes) / scale) * scale;
            for (int64_t i = 0; i < lanes; ++i) target[(c + i) * stride] = rounded[i];
        });
    }
};

// The layout of Int4Weight.
struct Int4Columns {
    static constexpr bool kScalesRows = false, kRoundsInputs = false;

    template <class Body>
    static NIMLITE_INLINE void for_each(const Weight& weight, int64_t tile, int64_t first, int64_t,
                                        Body body) {
        const int64_t group = (tile * weight.num_columns + first) / kGroup;
        const f32x16 scale = from_fp16(load<u16x16>(weight.group_scales(group * kTile)));
        const f32x16 minimum = from_fp16(load<u16x16>(weight.minimum + group * kTile));
        const auto* w = (const uint8_t*)weight.weight + group * kGroup * kTile / 2;
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) {
            prefetch(w + p * 64 + kAhead);
            const i32x16 eight = load<i32x16>(w + p * 64);
#pragma GCC unroll 2
            for (int high = 0; high < 8; high += 4)
#pragma GCC unroll 4
                for (int byte = 0; byte < 4; ++byte)
                    body(fma(to_float(eight >> (8 * byte + high) & 15), scale, minimum));
        }
    }
};

// Activations of int8 and int4 weights, rounded to int8 in groups of 32. A group of MR rows is
// int8 values [8][MR][4], fp32 scales [MR], and per row a word that carries the sum of the values.
template <class Policy>
struct GroupedWeight {
    static constexpr int64_t kRowBytes = kGroup + 8;

    static int64_t row_bytes(int64_t num_columns) { return num_columns / kGroup * kRowBytes; }

    static void pack(const float* x, const Weight& weight, int mr, char* packed) {
        const int64_t num_columns = weight.num_columns;
        for (int64_t c = 0; c < num_columns; c += kGroup, packed += mr * kRowBytes)
            for (int r = 0; r < mr; ++r) pack_group(x + r * num_columns + c, r, mr, packed);
    }

    static NIMLITE_INLINE void pack_group(const float* x, int r, int mr, char* group) {
        const f32x16 low = load<f32x16>(x), high = load<f32x16>(x + kLanes);
        const float amax = largest(max(abs(low), abs(high)));
        const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
        const i32x16 q[2] = {round_to_int(low * inverse), round_to_int(high * inverse)};
        int32_t words[8];
        for (int half = 0; half < 2; ++half)
            store(words + 4 * half, __builtin_convertvector(q[half], i8x16));
        for (int p = 0; p < 8; ++p) memcpy(group + (p * mr + r) * 4, words + p, 4);
        const float scale = amax / 127.0f;
        memcpy(group + mr * kGroup + r * 4, &scale, 4);
        const auto carried = Policy::carried(scale, sum(q[0] + q[1]));
        memcpy(group + mr * (kGroup + 4) + r * 4, &carried, 4);
    }

    template <int MR>
    static NIMLITE_INLINE void multiply(const char* packed, const Weight& weight, int64_t tile,
                                        f32x16* sums) {
        const int64_t num_groups = weight.num_columns / kGroup;
        const int64_t first = tile * num_groups;
        const uint8_t* w = (const uint8_t*)weight.weight + first * Policy::kGroupBytes;
        for (int64_t g = first; g < first + num_groups; ++g) {
            const char* carried = packed + MR * (kGroup + 4);
            const f32x16 scale = from_fp16(load<u16x16>(weight.group_scales(g * kTile)));
            i32x16 dots[MR];
            Policy::template dot<MR>((const int8_t*)packed, w, carried, dots);
            const float* x_scale = (const float*)(packed + MR * kGroup);
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r)
                sums[r] = fma(broadcast(x_scale[r]), to_float(dots[r]) * scale, sums[r]);
            Policy::template finish<MR>(carried, weight, g, sums);
            packed += MR * kRowBytes;
            w += Policy::kGroupBytes;
        }
    }
};

// Symmetric: weight uint8 [N/16, C/32, 8, 16, 4] = q + 128. The offset leaves with the first term
// of the integer sum.
struct Int8Weight : GroupedWeight<Int8Weight> {
    static constexpr int64_t kGroupBytes = kGroup * kTile;

    static NIMLITE_INLINE int32_t carried(float, int32_t sum) { return -128 * sum; }

    template <int MR>
    static NIMLITE_INLINE void dot(const int8_t* x, const uint8_t* w, const char* carried,
                                   i32x16* dots) {
        const int32_t* offsets = (const int32_t*)carried;
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) dots[r] = i32x16{} + offsets[r];
#pragma GCC unroll 8
        for (int p = 0; p < 8; ++p) {
            prefetch(w + p * 64 + kAhead);
            const u8x64 four = load<u8x64>(w + p * 64);
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) dots[r] = dot4(dots[r], four, x + (p * MR + r) * 4);
        }
    }

    template <int MR>
    static NIMLITE_INLINE void finish(const char*, const Weight&, int64_t, f32x16*) {}
};

// Asymmetric: weight uint8 [N/16, C/32, 4, 16, 4], low nibble columns 8p … 8p+3, high nibble 8p+4 …
// 8p+7.
struct Int4Weight : GroupedWeight<Int4Weight> {
    static constexpr int64_t kGroupBytes = kGroup * kTile / 2;

    static NIMLITE_INLINE float carried(float scale, int32_t sum) { return scale * (float)sum; }

    template <int MR>
    static NIMLITE_INLINE void dot(const int8_t* x, const uint8_t* w, const char*, i32x16* dots) {
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) dots[r] = i32x16{};
#pragma GCC unroll 4
        for (int p = 0; p < 4; ++p) {
            prefetch(w + p * 64 + kAhead);
            const u8x64 both = load<u8x64>(w + p * 64);
            const u8x64 low = both & 15, high = both >> 4;
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) dots[r] = dot4(dots[r], low, x + (2 * p * MR + r) * 4);
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r)
                dots[r] = dot4(dots[r], high, x + ((2 * p + 1) * MR + r) * 4);
        }
    }

    template <int MR>
    static NIMLITE_INLINE void finish(const char* carried, const Weight& weight, int64_t g,
                                      f32x16* sums) {
        const float* x_sums = (const float*)carried;
        const f32x16 minimum = from_fp16(load<u16x16>(weight.minimum + g * kTile));
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) sums[r] = fma(broadcast(x_sums[r]), minimum, sums[r]);
    }
};

}  // namespace nimlite
