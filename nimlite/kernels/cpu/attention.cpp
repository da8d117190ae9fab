// Attention of a step's queries over the paged pool, with a running softmax (FlashAttention:
// Dao et al., 2022, arXiv:2205.14135).
//
// The work is cut into tiles: up to kMaxRows (query, head) pairs that read the same keys and
// values. A tile walks its context in chunks of 64 keys that begin at multiples of 64, whatever the
// tile: a query's result does not depend on how the queries of the step were cut or batched.
#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "op.h"
#include "vector.h"

namespace nimlite {
namespace {

constexpr int kVectors = 4;  // of 16 keys, or of 16 dimensions of a value
constexpr int kMaxRows = kRegisters * 3 / 16;  // 4 sums each, with room for operands
constexpr int64_t kChunk = kVectors * kLanes;
constexpr int64_t kMaxHeadDim = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kUnseen = -1e30f;  // the maximum of no scores

struct Problem : AttentionInputs {
    int64_t heads_per_group() const { return num_heads / kv.num_kv_heads; }
    int64_t rows(int64_t s) const {
        return (query_starts[s + 1] - query_starts[s]) * heads_per_group();
    }
    int64_t first_position(int64_t s) const {
        return context_lens[s] - (query_starts[s + 1] - query_starts[s]);
    }
    int64_t tiles(int64_t s) const { return (rows(s) + kMaxRows - 1) / kMaxRows; }
    int64_t tasks(int64_t s) const { return tiles(s) * kv.num_kv_heads; }
    bool bends() const { return soft_cap > 0 || slopes || bias || window > 0; }
    // That the query at `position` of sequence s sees.
    int64_t last_key(int64_t s, int64_t position) const {
        return causal ? position : context_lens[s] - 1;
    }
    // Of the first chunk that the query at `position` sees something of.
    int64_t first_chunk(int64_t position) const {
        const int64_t first_key = window > 0 ? std::max(position - window + 1, int64_t(0)) : 0;
        return first_key / kChunk * kChunk;
    }
};

// Rows first … first + count of sequence s: row = query * heads_per_group + head.
struct Tile {
    int64_t sequence, kv_head, first;
    int count;
    int64_t first_key;  // of the first chunk that a row sees something of
    int64_t num_keys;   // that the last row sees
};

// State of MR rows: the sums so far, relative to the largest score so far.
template <int MR>
struct State {
    float queries[MR][kMaxHeadDim];
    int64_t positions[MR], last_keys[MR];
    float slopes[MR];
    const float* biases[MR];  // of distance 0
    f32x16 scores[MR][kVectors];
    f32x16 values[MR][kMaxHeadDim / kLanes];
    f32x16 totals[MR];
    float maxima[kLanes], rescale[kLanes];  // of row r
};

// Where 64 keys and their values lie: tiles of 16.
template <class Number>
struct Chunk {
    using Element = typename Number::Element;

    int64_t first_key, num_keys;
    const Element *keys[kVectors], *values[kVectors];

    Chunk(const Problem& p, const Tile& tile, int64_t first_key)
        : first_key(first_key), num_keys(std::min(kChunk, tile.num_keys - first_key)) {
        const int32_t* table = p.block_tables + tile.sequence * p.table_width;
        for (int v = 0; v < kVectors; ++v) {
            const int64_t key = first_key + std::min(v, vectors() - 1) * kLanes;
            const int64_t block = table[key / p.kv.block_size];
            const int64_t index = p.kv.tile(block, tile.kv_head, key % p.kv.block_size);
            keys[v] = (const Element*)p.kv.keys + index;
            values[v] = (const Element*)p.kv.values + index;
        }
    }

    int vectors() const { return int((num_keys + kLanes - 1) / kLanes); }
};

// scores[r][v] = query r . keys of vector v. Meanwhile the keys of the next chunk are fetched.
template <class Number, int MR, int V>
void score(State<MR>& state, const Chunk<Number>& chunk, const Chunk<Number>& next,
           int64_t head_dim) {
    constexpr int kPair = Number::kPair;
    const typename Number::Element *keys[V], *ahead[kVectors];
    for (int v = 0; v < V; ++v) keys[v] = chunk.keys[v];
    for (int v = 0; v < kVectors; ++v) ahead[v] = next.keys[v];
    f32x16 sums[MR][V] = {};
    const float* queries = state.queries[0];
    for (int64_t i = 0; i < head_dim * kLanes; i += kLanes * kPair, queries += kPair) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) prefetch(ahead[v] + i);
#pragma GCC unroll 2
        for (int step = 0; step < kPair; ++step) {
            NIMLITE_LOAD_AGAIN();
            f32x16 k[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) k[v] = Number::load_step(keys[v] + i, step);
#pragma GCC unroll 8
            for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v)
                    sums[r][v] = fma(broadcast(queries[r * kMaxHeadDim + step]), k[v], sums[r][v]);
        }
    }
    for (int r = 0; r < MR; ++r)
        for (int v = 0; v < V; ++v) state.scores[r][v] = sums[r][v];
}

constexpr i32x16 kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// What a model does to its scores: a cap, a loss with distance or a value for it, a window.
template <int MR, int V>
void bend(State<MR>& state, const Problem& p, int64_t first_key) {
    for (int r = 0; r < MR; ++r) {
        const int32_t position = int32_t(state.positions[r] - first_key);
        for (int v = 0; v < V; ++v) {
            f32x16& scores = state.scores[r][v];
            const i32x16 distances = position - v * int32_t(kLanes) - kIota;
            if (p.soft_cap > 0) scores = capped(scores, p.soft_cap);
            if (p.slopes) scores -= to_float(distances) * state.slopes[r];
            if (p.bias)
                for (int i = 0; i < kLanes; ++i)
                    scores[i] += state.biases[r][std::clamp(int64_t(distances[i]), -p.reach, p.reach)];
            if (p.window > 0)
                scores = distances >= int32_t(p.window) ? broadcast(-kInfinity) : scores;
        }
    }
}

// scores -> e^(score - maximum), masked behind each row's last key.
template <int MR, int V>
void soften(State<MR>& state, int64_t first_key) {
    float maxima[kLanes] = {};
    for (int r = 0; r < MR; ++r) {
        const int32_t last = int32_t(state.last_keys[r] - first_key);
        f32x16 row = broadcast(-kInfinity);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            f32x16& scores = state.scores[r][v];
            scores = kIota > int32_t(last - v * kLanes) ? broadcast(-kInfinity) : scores;
            row = max(row, scores);
        }
        maxima[r] = std::max(state.maxima[r], largest(row));
    }
    store(state.rescale, exp(load<f32x16>(state.maxima) - load<f32x16>(maxima)));
    memcpy(state.maxima, maxima, sizeof maxima);
    for (int r = 0; r < MR; ++r) {
        f32x16 total = state.totals[r] * state.rescale[r];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            state.scores[r][v] = exp(state.scores[r][v] - maxima[r]);
            total += state.scores[r][v];
        }
        state.totals[r] = total;
    }
}

// sums[r][v] += probability of row r and key j * values[v] of key j, for the keys j and up to kPair
// - 1 after it.
template <class Number, int MR, int V, int kSteps>
NIMLITE_INLINE void weigh_keys(f32x16 (&sums)[MR][V], const float* probabilities,
                               const typename Number::Element* values) {
#pragma GCC unroll 2
    for (int step = 0; step < kSteps; ++step) {
        NIMLITE_LOAD_AGAIN();
        f32x16 x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
            x[v] = Number::load_step(values + v * kLanes * Number::kPair, step);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v)
                sums[r][v] = fma(broadcast(probabilities[r * kChunk + step]), x[v], sums[r][v]);
    }
}

// values[r][first … first + V] = values * rescale + probabilities . values of the chunk. Meanwhile
// those of the next are fetched.
template <class Number, int MR, int V>
void weigh(State<MR>& state, const Chunk<Number>& chunk, const Chunk<Number>& next,
           int64_t head_dim, int64_t first) {
    constexpr int kPair = Number::kPair;
    f32x16 sums[MR][V];
    for (int r = 0; r < MR; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = state.values[r][first + v] * state.rescale[r];
    const auto* probabilities = (const float*)state.scores;
    for (int tile = 0; tile < kVectors; ++tile) {
        const auto* values = chunk.values[tile] + first * kLanes * kPair;
        const auto* ahead = next.values[tile] + first * kLanes * kPair;
        const int64_t count = std::clamp(chunk.num_keys - tile * kLanes, int64_t(0), kLanes);
        for (int64_t key = 0; key < kLanes; key += kPair, ahead += head_dim * kPair) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) prefetch(ahead + v * kLanes * kPair);
            if (key + kPair <= count)
                weigh_keys<Number, MR, V, kPair>(sums, probabilities, values);
            else if (key < count)
                weigh_keys<Number, MR, V, 1>(sums, probabilities, values);
            values += head_dim * kPair;
            probabilities += kPair;
        }
    }
    for (int r = 0; r < MR; ++r)
        for (int v = 0; v < V; ++v) state.values[r][first + v] = sums[r][v];
}

template <class Number, int MR, int V>
void score_and_soften(State<MR>& state, const Problem& p, const Chunk<Number>& chunk,
                      const Chunk<Number>& next) {
    score<Number, MR, V>(state, chunk, next, p.kv.head_dim);
    if (p.bends()) bend<MR, V>(state, p, chunk.first_key);
    soften<MR, V>(state, chunk.first_key);
}

template <class Number, int MR>
void run_chunk(State<MR>& state, const Problem& p, const Chunk<Number>& chunk,
               const Chunk<Number>& next) {
    const int64_t dim = p.kv.head_dim;
    switch (chunk.vectors()) {
        case 1: score_and_soften<Number, MR, 1>(state, p, chunk, next); break;
        case 2: score_and_soften<Number, MR, 2>(state, p, chunk, next); break;
        case 3: score_and_soften<Number, MR, 3>(state, p, chunk, next); break;
        default: score_and_soften<Number, MR, 4>(state, p, chunk, next);
    }
    for (int64_t first = 0; first < dim / kLanes; first += kVectors) switch (dim / kLanes - first) {
            case 1: weigh<Number, MR, 1>(state, chunk, next, dim, first); break;
            case 2: weigh<Number, MR, 2>(state, chunk, next, dim, first); break;
            case 3: weigh<Number, MR, 3>(state, chunk, next, dim, first); break;
            default: weigh<Number, MR, 4>(state, chunk, next, dim, first);
        }
}

template <class Number, int MR>
void run_tile(const Problem& p, const Tile& tile, const Tile& next_tile) {
    const int64_t dim = p.kv.head_dim, heads = p.heads_per_group(), s = tile.sequence;
    const int64_t first_token = p.query_starts[s];
    State<MR> state;
    float* targets[MR];
    for (int r = 0; r < MR; ++r) {
        const int64_t query = (tile.first + r) / heads;
        const int64_t head = tile.kv_head * heads + (tile.first + r) % heads;
        const float* source = p.qkv + (first_token + query) * p.query_width + head * dim;
        for (int64_t v = 0; v < dim / kLanes; ++v) {
            store(state.queries[r] + v * kLanes, load<f32x16>(source + v * kLanes) * p.scale);
            state.values[r][v] = f32x16{};
        }
        state.positions[r] = p.first_position(s) + query;
        state.last_keys[r] = p.last_key(s, state.positions[r]);
        state.biases[r] = p.bias ? p.bias + head * (2 * p.reach + 1) + p.reach : nullptr;
        state.slopes[r] = p.slopes ? p.slopes[head] : 0.0f;
        state.totals[r] = f32x16{};
        targets[r] = p.y + ((first_token + query) * p.num_heads + head) * dim;
    }
    // finite: a row may see nothing of its first chunks
    store(state.maxima, broadcast(kUnseen));
    Chunk<Number> chunk(p, tile, tile.first_key);
    for (int64_t key = tile.first_key + kChunk;; key += kChunk) {
        const bool last = key >= tile.num_keys;
        const Chunk<Number> next(p, last ? next_tile : tile, last ? next_tile.first_key : key);
        run_chunk<Number>(state, p, chunk, next);
        if (last) break;
        chunk = next;
    }
    for (int r = 0; r < MR; ++r) {
        const float inverse = 1.0f / sum(state.totals[r]);
        for (int64_t v = 0; v < dim / kLanes; ++v)
            store(targets[r] + v * kLanes, state.values[r][v] * inverse);
    }
}

using TileKernel = void (*)(const Problem&, const Tile&, const Tile&);

template <class Number, size_t... Rows>
constexpr std::array<TileKernel, sizeof...(Rows)> tile_kernels(std::index_sequence<Rows...>) {
    return {&run_tile<Number, int(Rows) + 1>...};
}

// Finds the tile of a task. A cursor walks forward: a range's tasks come in rising order.
struct Cursor {
    const Problem& problem;
    int64_t sequence = 0, first_task = 0;

    Tile find(int64_t task) {
        for (; task - first_task >= problem.tasks(sequence); ++sequence)
            first_task += problem.tasks(sequence);
        const int64_t tiles = problem.tiles(sequence), rows = problem.rows(sequence);
        const int64_t kv_head = (task - first_task) / tiles, tile = (task - first_task) % tiles;
        const int64_t begin = tile * rows / tiles, end = (tile + 1) * rows / tiles;
        const int64_t last_query = (end - 1) / problem.heads_per_group();
        const int64_t first_position = problem.first_position(sequence);
        const int64_t first_query = begin / problem.heads_per_group();
        const int64_t first_key = problem.first_chunk(first_position + first_query);
        const int64_t num_keys = problem.last_key(sequence, first_position + last_query) + 1;
        return {sequence, kv_head, begin, int(end - begin), first_key, num_keys};
    }
};

template <class Number>
void run(const Problem& p, Range tasks) {
    static constexpr auto kKernels = tile_kernels<Number>(std::make_index_sequence<kMaxRows>());
    Cursor cursor{p};
    for (int64_t task = tasks.begin; task < tasks.end; ++task) {
        const Tile tile = cursor.find(task);
        kKernels[tile.count - 1](p, tile, cursor.find(std::min(task + 1, tasks.end - 1)));
    }
}

}  // namespace

int64_t num_attention_tasks(const AttentionInputs& inputs) {
    const Problem problem{inputs};
    int64_t total = 0;
    for (int64_t s = 0; s < inputs.sequences; ++s) total += problem.tasks(s);
    return total;
}

void attention(const AttentionInputs& inputs, Range tasks) {
    const Problem problem{inputs};
    switch (inputs.kv.type) {
        case KvType::kFp32: return run<Fp32>(problem, tasks);
        case KvType::kBf16: return run<Bf16>(problem, tasks);
        case KvType::kFp8: return run<Fp8>(problem, tasks);
    }
}

}  // namespace nimlite
