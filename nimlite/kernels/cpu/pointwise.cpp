// The operations between the matrix products, one row at a time.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "op.h"
#include "vector.h"

namespace nimlite {
namespace {

void norm_row(const float* x, const float* weight, float* y, int64_t dim, float eps) {
    f32x16 squares = {};
    for_each_vector(dim, [&](int64_t d, int64_t lanes) {
        const f32x16 v = load_lanes(x + d, lanes);
        squares = fma(v, v, squares);
    });
    const float scale = 1.0f / std::sqrt(sum(squares) / float(dim) + eps);
    for_each_vector(dim, [&](int64_t d, int64_t lanes) {
        store_lanes(y + d, load_lanes(x + d, lanes) * scale * load_lanes(weight + d, lanes), lanes);
    });
}

// erfc(z) for z >= 0, to 1.5e-7: Abramowitz and Stegun, 7.1.26.
NIMLITE_INLINE f32x16 erfc(f32x16 z) {
    const f32x16 t = 1.0f / fma(z, broadcast(0.3275911f), broadcast(1.0f));
    f32x16 y = fma(t, broadcast(1.061405429f), broadcast(-1.453152027f));
    y = fma(y, t, broadcast(1.421413741f));
    y = fma(y, t, broadcast(-0.284496736f));
    y = fma(y, t, broadcast(0.254829592f));
    return y * t * exp(-z * z);
}

template <Activation kind>
NIMLITE_INLINE f32x16 activate(f32x16 x) {
    if constexpr (kind == Activation::kSilu) {
        return x / (1.0f + exp(-x));
    } else if constexpr (kind == Activation::kGelu) {
        const f32x16 tail = 0.5f * erfc(abs(x) * 0.70710678f);
        return x * (x > 0 ? 1.0f - tail : tail);
    } else if constexpr (kind == Activation::kRelu) {
        return max(x, f32x16{});
    } else if constexpr (kind == Activation::kRelu2) {
        return max(x, f32x16{}) * max(x, f32x16{});
    } else {
        // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
        const f32x16 u = 0.79788456f * (x + 0.044715f * x * x * x);
        return x / (1.0f + exp(-2.0f * u));
    }
}

template <Activation kind>
void gated_activation(const float* gate_up, float* y, int64_t dim, Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        const float* gate = gate_up + row * 2 * dim;
        for_each_vector(dim, [&](int64_t d, int64_t lanes) {
            const f32x16 up = load_lanes(gate + dim + d, lanes);
            store_lanes(y + row * dim + d, activate<kind>(load_lanes(gate + d, lanes)) * up, lanes);
        });
    }
}

template <Activation kind>
void activation(const float* x, float* y, int64_t dim, Range rows) {
    for_each_vector((rows.end - rows.begin) * dim, [&](int64_t d, int64_t lanes) {
        const int64_t i = rows.begin * dim + d;
        store_lanes(y + i, activate<kind>(load_lanes(x + i, lanes)), lanes);
    });
}

// body(std::integral_constant) of the kind.
template <class Body>
void with_kind(Activation kind, Body body) {
    using enum Activation;
    switch (kind) {
        case kSilu: return body(std::integral_constant<Activation, kSilu>{});
        case kGelu: return body(std::integral_constant<Activation, kGelu>{});
        case kGeluTanh: return body(std::integral_constant<Activation, kGeluTanh>{});
        case kRelu: return body(std::integral_constant<Activation, kRelu>{});
        case kRelu2: return body(std::integral_constant<Activation, kRelu2>{});
    }
}

// Two passes: a mean far from zero leaves the deviation exact.
void layer_norm_row(const float* x, const float* weight, const float* bias, float* y, int64_t dim,
                    float eps) {
    f32x16 total = {}, squares = {};
    for_each_vector(dim, [&](int64_t d, int64_t lanes) { total += load_lanes(x + d, lanes); });
    const float mean = sum(total) / float(dim);
    for_each_vector(dim, [&](int64_t d, int64_t lanes) {
        f32x16 v = load_lanes(x + d, lanes) - mean;
        if (lanes < kLanes) {
            float rest[kLanes] = {};
            store_lanes(rest, v, lanes);
            v = load<f32x16>(rest);
        }
        squares = fma(v, v, squares);
    });
    const float scale = 1.0f / std::sqrt(sum(squares) / float(dim) + eps);
    for_each_vector(dim, [&](int64_t d, int64_t lanes) {
        const f32x16 v = (load_lanes(x + d, lanes) - mean) * scale * load_lanes(weight + d, lanes);
        store_lanes(y + d, bias ? v + load_lanes(bias + d, lanes) : v, lanes);
    });
}

void add_row(float* x, const float* y, int64_t dim) {
    for_each_vector(dim, [&](int64_t d, int64_t lanes) {
        store_lanes(x + d, load_lanes(x + d, lanes) + load_lanes(y + d, lanes), lanes);
    });
}

// Rotates the pairs (x[i], x[i + R/2]) of the first R dimensions.
void rotate(float* head, const float* cos_sin, int64_t rotary_dim) {
    const int64_t half = rotary_dim / 2;
    for_each_vector(half, [&](int64_t d, int64_t lanes) {
        const f32x16 cosine = load_lanes(cos_sin + d, lanes);
        const f32x16 sine = load_lanes(cos_sin + half + d, lanes);
        const f32x16 a = load_lanes(head + d, lanes), b = load_lanes(head + half + d, lanes);
        store_lanes(head + d, a * cosine - b * sine, lanes);
        store_lanes(head + half + d, b * cosine + a * sine, lanes);
    });
}

// Into the tile of 16 keys that holds the slot: keys [K/pair][16][pair], values [16/pair][K][pair].
template <class Number>
void cache_head(const float* key, const float* value, const KvCache& kv, int64_t head,
                int64_t slot) {
    using Element = typename Number::Element;
    constexpr int64_t kPair = Number::kPair;
    const int64_t lane = slot % kLanes, dim = kv.head_dim;
    const int64_t tile = kv.tile(slot / kv.block_size, head, slot % kv.block_size);
    Element* keys = (Element*)kv.keys + tile + lane * kPair;
    Element* values = (Element*)kv.values + tile + lane / kPair * dim * kPair + lane % kPair;
    for (int64_t d = 0; d < dim; ++d) {
        keys[d / kPair * kLanes * kPair + d % kPair] = Number::from(key[d]);
        values[d * kPair] = Number::from(value[d]);
    }
}

}  // namespace

void rms_norm(const float* x, const float* weight, float* y, int64_t dim, float eps,
              Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row)
        norm_row(x + row * dim, weight, y + row * dim, dim, eps);
}

void add_rms_norm(const float* x, float* residual, const float* weight, float* y, int64_t dim,
                  float eps, Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        float* target = residual + row * dim;
        add_row(target, x + row * dim, dim);
        norm_row(target, weight, y + row * dim, dim, eps);
    }
}

void layer_norm(const float* x, const float* weight, const float* bias, float* y, int64_t dim,
                float eps, Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row)
        layer_norm_row(x + row * dim, weight, bias, y + row * dim, dim, eps);
}

void add(float* x, const float* y, int64_t dim, Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row)
        add_row(x + row * dim, y + row * dim, dim);
}

void add_positions(float* x, const float* table, const int32_t* positions, int64_t dim,
                   Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row)
        add_row(x + row * dim, table + positions[row] * dim, dim);
}

void soft_cap(float* x, int64_t dim, float cap, Range rows) {
    for_each_vector((rows.end - rows.begin) * dim, [&](int64_t d, int64_t lanes) {
        float* p = x + rows.begin * dim + d;
        store_lanes(p, capped(load_lanes(p, lanes), cap), lanes);
    });
}

void clip(float* x, int64_t dim, float limit, Range rows) {
    for (int64_t i = rows.begin * dim; i < rows.end * dim; ++i)
        x[i] = std::clamp(x[i], -limit, limit);
}

void norm_heads(float* qkv, const float* query_weight, const float* key_weight, int64_t num_heads,
                int64_t num_kv_heads, int64_t head_dim, float eps, Range rows) {
    const int64_t width = (num_heads + 2 * num_kv_heads) * head_dim;
    for (int64_t row = rows.begin; row < rows.end; ++row)
        for (int64_t h = 0; h < num_heads + num_kv_heads; ++h) {
            float* head = qkv + row * width + h * head_dim;
            norm_row(head, h < num_heads ? query_weight : key_weight, head, head_dim, eps);
        }
}

void rope_and_cache(float* qkv, const float* cos_sin, const int32_t* positions,
                    const int32_t* slots, const KvCache& kv, int64_t num_heads, int64_t rotary_dim,
                    Range rows) {
    const int64_t dim = kv.head_dim, num_kv_heads = kv.num_kv_heads;
    const int64_t width = (num_heads + 2 * num_kv_heads) * dim;
    const auto cache = kv.type == KvType::kFp32   ? &cache_head<Fp32>
                       : kv.type == KvType::kBf16 ? &cache_head<Bf16>
                                                  : &cache_head<Fp8>;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        float* heads = qkv + row * width;
        if (rotary_dim > 0)
            for (int64_t h = 0; h < num_heads + num_kv_heads; ++h)
                rotate(heads + h * dim, cos_sin + positions[row] * rotary_dim, rotary_dim);
        const float* keys = heads + num_heads * dim;
        for (int64_t g = 0; g < num_kv_heads; ++g)
            cache(keys + g * dim, keys + (num_kv_heads + g) * dim, kv, g, slots[row]);
    }
}

void gated_activation(const float* gate_up, float* y, int64_t dim, Activation kind, Range rows) {
    with_kind(kind, [&](auto k) { gated_activation<k()>(gate_up, y, dim, rows); });
}

void activation(const float* x, float* y, int64_t dim, Activation kind, Range rows) {
    with_kind(kind, [&](auto k) { activation<k()>(x, y, dim, rows); });
}

void take_rows(const float* x, const int32_t* ids, float* y, int64_t dim, Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row)
        memcpy(y + row * dim, x + ids[row] * dim, dim * sizeof(float));
}

}  // namespace nimlite
