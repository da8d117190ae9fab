// Causal attention of a step's queries over the paged pool, with a running softmax (FlashAttention: Dao et al., 2022,
// arXiv:2205.14135).
//
// The work is cut into tiles: up to kMaxRows (query, head) pairs that read the same keys and values. A tile walks its context in
// chunks of 64 keys that begin at multiples of 64, whatever the tile: a query's result does not depend on how the queries of
// the step were cut or batched.
#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "op.h"
#include "vector.h"

namespace nimlite {
namespace {

constexpr int kMaxRows = 6;      // 6 rows x 4 vectors of sums, with operands, fill the 32 registers
constexpr int kVectors = 4;      // of 16 keys, or of 16 dimensions of a value
constexpr int64_t kChunk = kVectors * kLanes;
constexpr int64_t kMaxHeadDim = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Problem {
    const float* qkv;
    KvCache kv;
    const int32_t *query_starts, *context_lens, *block_tables;
    int64_t table_width;
    float* y;
    int64_t sequences, num_heads;
    float scale;

    int64_t heads_per_group() const { return num_heads / kv.num_kv_heads; }
    int64_t query_width() const { return (num_heads + 2 * kv.num_kv_heads) * kv.head_dim; }
    int64_t rows(int64_t s) const {
        return (query_starts[s + 1] - query_starts[s]) * heads_per_group();
    }
    int64_t tiles(int64_t s) const { return (rows(s) + kMaxRows - 1) / kMaxRows; }
};

// Rows first … first + count of sequence s: row = query * heads_per_group + head.
struct Tile {
    int64_t sequence, kv_head, first;
    int count;
};

// State of MR rows: the sums so far, relative to the largest score so far.
template <int MR>
struct State {
    float queries[kMaxHeadDim][MR];
    int64_t positions[MR];
    f32x16 scores[MR][kVectors];
    f32x16 values[MR][kMaxHeadDim / kLanes];
    f32x16 totals[MR];
    f32x16 maxima, rescale;  // lane r: row r
};

// scores[r][v] = query r . keys of vector v; keys[v] walks down the dimensions, block_size elements apart.
template <class Number, int MR, int V>
void score(State<MR>& state, const typename Number::Element* const* keys, int64_t head_dim,
           int64_t block_size) {
    f32x16 sums[MR][V] = {};
    for (int64_t d = 0; d < head_dim; ++d) {
        f32x16 k[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) k[v] = Number::load(keys[v] + d * block_size);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v)
                sums[r][v] = fma(broadcast(state.queries[d][r]), k[v], sums[r][v]);
    }
    for (int r = 0; r < MR; ++r)
        for (int v = 0; v < V; ++v) state.scores[r][v] = sums[r][v];
}

// scores -> e^(score - maximum), masked above each row's position.
template <int MR>
void soften(State<MR>& state, int64_t first_key, int vectors) {
    constexpr i32x16 kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    f32x16 maxima = state.maxima;
    for (int r = 0; r < MR; ++r) {
        f32x16 row = broadcast(-kInfinity);
        for (int v = 0; v < vectors; ++v) {
            const i32x16 keys = kIota + int32_t(first_key + v * kLanes);
            f32x16& scores = state.scores[r][v];
            scores = keys > int32_t(state.positions[r]) ? broadcast(-kInfinity) : scores;
            row = max(row, scores);
        }
        maxima[r] = std::max(maxima[r], largest(row));
    }
    state.rescale = exp(state.maxima - maxima);
    state.maxima = maxima;
    for (int r = 0; r < MR; ++r) {
        f32x16 total = state.totals[r] * state.rescale[r];
        for (int v = 0; v < vectors; ++v) {
            state.scores[r][v] = exp(state.scores[r][v] - maxima[r]);
            total += state.scores[r][v];
        }
        state.totals[r] = total;
    }
}

// values[r][first … first + V] = values * rescale + probabilities . values of `count` keys.
template <class Number, int MR, int V>
void weigh(State<MR>& state, const typename Number::Element* const* blocks, int64_t count,
           int64_t head_dim, int64_t first) {
    f32x16 sums[MR][V];
    for (int r = 0; r < MR; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = state.values[r][first + v] * state.rescale[r];
    for (int64_t begin = 0; begin < count; begin += kLanes) {
        const typename Number::Element* row = blocks[begin / kLanes] + first * kLanes;
        const float* probabilities = (const float*)&state.scores[0][begin / kLanes];
        for (int64_t j = 0; j < std::min(count - begin, kLanes); ++j, row += head_dim) {
            f32x16 x[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) x[v] = Number::load(row + v * kLanes);
#pragma GCC unroll 8
            for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v)
                    sums[r][v] = fma(broadcast(probabilities[r * kChunk + j]), x[v], sums[r][v]);
        }
    }
    for (int r = 0; r < MR; ++r)
        for (int v = 0; v < V; ++v) state.values[r][first + v] = sums[r][v];
}

template <class Number, int MR>
void run_chunk(State<MR>& state, const Problem& p, const Tile& tile, int64_t first_key,
               int64_t num_keys) {
    using Element = typename Number::Element;
    const KvCache& kv = p.kv;
    const int64_t size = kv.block_size, dim = kv.head_dim;
    const int vectors = int((num_keys + kLanes - 1) / kLanes);
    const Element *keys[kVectors], *values[kVectors];
    for (int v = 0; v < vectors; ++v) {
        const int64_t key = first_key + v * kLanes;
        const int64_t id = p.block_tables[tile.sequence * p.table_width + key / size];
        const int64_t block = (id * kv.num_kv_heads + tile.kv_head) * dim * size;
        keys[v] = (const Element*)kv.keys + block + key % size;
        values[v] = (const Element*)kv.values + block + key % size * dim;
    }
    switch (vectors) {
        case 1: score<Number, MR, 1>(state, keys, dim, size); break;
        case 2: score<Number, MR, 2>(state, keys, dim, size); break;
        case 3: score<Number, MR, 3>(state, keys, dim, size); break;
        default: score<Number, MR, 4>(state, keys, dim, size);
    }
    soften(state, first_key, vectors);
    for (int64_t first = 0; first < dim / kLanes; first += kVectors) switch (dim / kLanes - first) {
            case 1: weigh<Number, MR, 1>(state, values, num_keys, dim, first); break;
            case 2: weigh<Number, MR, 2>(state, values, num_keys, dim, first); break;
            case 3: weigh<Number, MR, 3>(state, values, num_keys, dim, first); break;
            default: weigh<Number, MR, 4>(state, values, num_keys, dim, first);
        }
}

template <class Number, int MR>
void run_tile(const Problem& p, const Tile& tile) {
    const int64_t dim = p.kv.head_dim, heads = p.heads_per_group(), s = tile.sequence;
    const int64_t first_token = p.query_starts[s];
    const int64_t first_position = p.context_lens[s] - (p.query_starts[s + 1] - first_token);
    State<MR> state;
    float* targets[MR];
    for (int r = 0; r < MR; ++r) {
        const int64_t query = (tile.first + r) / heads;
        const int64_t head = tile.kv_head * heads + (tile.first + r) % heads;
        const float* source = p.qkv + (first_token + query) * p.query_width() + head * dim;
        for (int64_t d = 0; d < dim; ++d) state.queries[d][r] = source[d] * p.scale;
        for (int64_t v = 0; v < dim / kLanes; ++v) state.values[r][v] = f32x16{};
        state.positions[r] = first_position + query;
        state.totals[r] = f32x16{};
        targets[r] = p.y + ((first_token + query) * p.num_heads + head) * dim;
    }
    state.maxima = broadcast(-kInfinity);
    const int64_t end = state.positions[MR - 1] + 1;
    for (int64_t key = 0; key < end; key += kChunk)
        run_chunk<Number>(state, p, tile, key, std::min(kChunk, end - key));
    for (int r = 0; r < MR; ++r) {
        const float inverse = 1.0f / sum(state.totals[r]);
        for (int64_t v = 0; v < dim / kLanes; ++v)
            store(targets[r] + v * kLanes, state.values[r][v] * inverse);
    }
}

using TileKernel = void (*)(const Problem&, const Tile&);

template <class Number, size_t... Rows>
constexpr std::array<TileKernel, sizeof...(Rows)> tile_kernels(std::index_sequence<Rows...>) {
    return {&run_tile<Number, int(Rows) + 1>...};
}

template <class Number>
void run(const Problem& p) {
    static constexpr auto kKernels = tile_kernels<Number>(std::make_index_sequence<kMaxRows>());
    int64_t num_tasks = 0;
    for (int64_t s = 0; s < p.sequences; ++s) num_tasks += p.tiles(s) * p.kv.num_kv_heads;
    int64_t s = 0, first_task = 0;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < num_tasks; ++task) {
        // Each thread meets its tasks in rising order.
        while (task - first_task >= p.tiles(s) * p.kv.num_kv_heads)
            first_task += p.tiles(s++) * p.kv.num_kv_heads;
        const int64_t tiles = p.tiles(s), tile = (task - first_task) % tiles;
        const int64_t begin = tile * p.rows(s) / tiles, end = (tile + 1) * p.rows(s) / tiles;
        kKernels[end - begin - 1](p, {s, (task - first_task) / tiles, begin, int(end - begin)});
    }
}

}  // namespace

void attention(const float* qkv, const KvCache& kv, const int32_t* query_starts,
               const int32_t* context_lens, const int32_t* block_tables, int64_t table_width,
               float* y, int64_t sequences, int64_t num_heads, float scale) {
    const Problem problem = {qkv,         kv, query_starts, context_lens, block_tables,
                             table_width, y,  sequences,    num_heads,    scale};
    kv.type == KvType::kFp32 ? run<Fp32>(problem) : run<Bf16>(problem);
}

}  // namespace nimlite
