// y = x W^T + bias, and the rows of W: one driver for every scheme of weights.h.
#include <algorithm>
#include <array>
#include <utility>

#include "weights.h"

namespace nimlite {
namespace {

constexpr int kMaxRows = kRegisters * 3 / 8;  // a sum and an integer dot each, and operands

// The split of `rows` into the fewest blocks of at most kMaxRows rows, whose sizes differ by one at
// most.
struct Blocks {
    int64_t count, size, larger;

    explicit Blocks(int64_t rows)
        : count((rows + kMaxRows - 1) / kMaxRows),
          size(count ? rows / count : 0),
          larger(count ? rows % count : 0) {}

    int64_t first_row(int64_t block) const { return block * size + std::min(block, larger); }
    int rows(int64_t block) const { return int(size + (block < larger)); }
};

// Stores the sums of a block, plus the bias, into `width` <= 16 columns of y.
void store_block(const f32x16* sums, int rows, const float* bias, float* y, int64_t stride,
                 int64_t width) {
    for (int r = 0; r < rows; ++r, y += stride) {
        if (width == kTile)
            store(y, bias ? sums[r] + load<f32x16>(bias) : sums[r]);
        else
            for (int64_t n = 0; n < width; ++n) y[n] = sums[r][n] + (bias ? bias[n] : 0.0f);
    }
}

template <class Policy, int MR>
void multiply_block(const char* packed, const Weight& weight, int64_t tile, const float* bias,
                    float* y) {
    f32x16 sums[MR] = {};
    Policy::template multiply<MR>(packed, weight, tile, sums);
    const int64_t n = tile * kTile;
    store_block(sums, MR, bias ? bias + n : nullptr, y + n, weight.num_rows,
                std::min(kTile, weight.num_rows - n));
}

using BlockKernel = void (*)(const char*, const Weight&, int64_t, const float*, float*);

template <class Policy, size_t... Rows>
constexpr std::array<BlockKernel, sizeof...(Rows)> block_kernels(std::index_sequence<Rows...>) {
    return {&multiply_block<Policy, int(Rows) + 1>...};
}

template <class Policy>
void pack(const float* x, const Weight& weight, char* packed, int64_t rows, Range range) {
    const Blocks blocks(rows);
    const int64_t row_bytes = Policy::row_bytes(weight.num_columns);
    for (int64_t block = range.begin; block < range.end; ++block) {
        const int64_t first = blocks.first_row(block);
        Policy::pack(x + first * weight.num_columns, weight, blocks.rows(block),
                     packed + first * row_bytes);
    }
}

template <class Policy>
void multiply(const char* packed, const Weight& weight, const float* bias, float* y, int64_t rows,
              Range tiles) {
    static constexpr auto kKernels = block_kernels<Policy>(std::make_index_sequence<kMaxRows>());
    const Blocks blocks(rows);
    const int64_t row_bytes = Policy::row_bytes(weight.num_columns);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile)
        for (int64_t block = 0; block < blocks.count; ++block) {
            const int64_t first = blocks.first_row(block);
            kKernels[blocks.rows(block) - 1](packed + first * row_bytes, weight, tile, bias,
                                             y + first * weight.num_rows);
        }
}

// Calls visit(policy) with the policy of a scheme.
template <class Visit>
void with_policy(Scheme scheme, Visit visit) {
    switch (scheme) {
        case Scheme::kFp32: return visit(FloatWeight<DenseColumns<Fp32>>());
        case Scheme::kBf16: return visit(FloatWeight<DenseColumns<Bf16>>());
        case Scheme::kInt8: return visit(Int8Weight());
        case Scheme::kInt4: return visit(Int4Weight());
        case Scheme::kInt8Wo: return visit(FloatWeight<DenseColumns<Int8, true>>());
        case Scheme::kInt4Wo: return visit(FloatWeight<Int4Columns>());
        case Scheme::kFp8: return visit(FloatWeight<Fp8Columns>());
    }
}

// Element (n, c) of a weight.
float element(const Weight& w, int64_t n, int64_t c) {
    const int64_t tile = n / kTile, lane = n % kTile;
    const int64_t index = (tile * w.num_columns + c) * kTile;
    switch (w.scheme) {
        case Scheme::kFp32: return Fp32::load((const float*)w.weight + index)[lane];
        case Scheme::kBf16: return Bf16::load((const uint16_t*)w.weight + index)[lane];
        case Scheme::kInt8Wo:
            return Int8::load((const int8_t*)w.weight + index)[lane] * *w.row_scales(n);
        case Scheme::kFp8:
            return Fp8::load((const uint8_t*)w.weight + index)[lane] * *w.row_scales(n);
        default: break;
    }
    const int64_t group = tile * (w.num_columns / kGroup) + c / kGroup;
    const float scale = from_fp16(u16x16{} + *w.group_scales(group * kTile + lane))[0];
    const int64_t quad = c % kGroup / 4, byte = lane * 4 + c % 4;
    const uint8_t* bytes = (const uint8_t*)w.weight;
    if (w.scheme == Scheme::kInt8)
        return float(bytes[(group * 8 + quad) * 64 + byte] - 128) * scale;
    const uint8_t both = bytes[(group * 4 + quad / 2) * 64 + byte];
    const float minimum = from_fp16(u16x16{} + w.minimum[group * kTile + lane])[0];
    return float(quad % 2 ? both >> 4 : both & 15) * scale + minimum;
}

}  // namespace

int64_t num_blocks(int64_t rows) { return Blocks(rows).count; }

void pack(const float* x, const Weight& weight, void* packed, int64_t rows, Range blocks) {
    with_policy(weight.scheme, [&](auto policy) {
        pack<decltype(policy)>(x, weight, (char*)packed, rows, blocks);
    });
}

int64_t packed_row_bytes(const Weight& weight) {
    int64_t bytes = 0;
    with_policy(weight.scheme,
                [&](auto policy) { bytes = decltype(policy)::row_bytes(weight.num_columns); });
    return bytes;
}

int64_t num_tiles(const Weight& weight) { return (weight.num_rows + kTile - 1) / kTile; }

void multiply(const void* packed, const Weight& weight, const float* bias, float* y, int64_t rows,
              Range tiles) {
    with_policy(weight.scheme, [&](auto policy) {
        multiply<decltype(policy)>((const char*)packed, weight, bias, y, rows, tiles);
    });
}

void embed(const Weight& weight, const int32_t* ids, float* y, float scale, int64_t first,
           Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        const int64_t id = ids[row] - first;
        const bool is_here = id >= 0 && id < weight.num_rows;
        for (int64_t c = 0; c < weight.num_columns; ++c)
            y[row * weight.num_columns + c] = is_here ? scale * element(weight, id, c) : 0.0f;
    }
}

}  // namespace nimlite
