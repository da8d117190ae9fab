// The interface to Python: one operation as a plain record, and the counts of the step that runs
// it.
#pragma once
#include <cstdint>

#include "range.h"

namespace nimlite {

enum class OpCode : int32_t {
    kEmbed,
    kRmsNorm,
    kAddRmsNorm,
    kLinear,
    kRopeAndCache,
    kAttention,
    kGatedActivation,
    kTakeRows,
    kActivation,
    kLayerNorm,
    kAddLayerNorm,
    kAdd,
    kAddPositions,
    kSoftCap,
    kClip,
    kNormHeads,
    kMoe,
    kAddGated,
};

// Which count of the step is an operation's number of rows.
enum class Rows : int32_t { kTokens, kLogits };

enum class Scheme : int64_t { kFp32, kBf16, kInt8, kInt4, kInt8Wo, kInt4Wo, kFp8 };

enum class KvType : int64_t { kFp32, kBf16, kFp8 };

enum class Activation : int64_t { kSilu, kGelu, kGeluTanh, kRelu, kRelu2 };

// Mirrors `Op` in op.py, where the meaning of each field is set; run.cpp unpacks it.
struct Op {
    OpCode code;
    Rows rows;
    void* pointers[10];
    int64_t sizes[16];
    float scalars[2];
};

struct Counts {
    int64_t tokens, sequences, logits;
};

// A weight as `PackedWeight` describes it; scale and minimum are null where the scheme has none.
struct Weight {
    Scheme scheme;
    const void* weight;
    const void* scale;  // fp16 of groups, fp32 of rows
    const uint16_t* minimum;
    int64_t num_rows, num_columns;
    float input_scale;  // of a product; 0: each row of the activations has its own

    const uint16_t* group_scales(int64_t group) const { return (const uint16_t*)scale + group; }
    const float* row_scales(int64_t row) const { return (const float*)scale + row; }
};

// One layer's part of the paged pool, [blocks, G, 2, block_size/16, tile]: a head's keys and values
// of one block lie side by side, each in tiles of 16 tokens. Inside a tile of bf16 keys are
// [K/2][16][2] and values [8][K][2]; of fp32 and fp8, [K][16] and [16][K].
struct KvCache {
    KvType type;
    void* keys;
    void* values;
    int64_t num_kv_heads, head_dim, block_size;

    // Index of the first element of the tile that holds token `offset` of a block.
    int64_t tile(int64_t block, int64_t head, int64_t offset) const {
        return ((block * num_kv_heads + head) * 2 * block_size + offset / 16 * 16) * head_dim;
    }
};

// What attention reads and writes; `sequences` of them.
struct AttentionInputs {
    const float* qkv;
    KvCache kv;
    const int32_t *query_starts, *context_lens, *block_tables;
    int64_t table_width;
    float* y;
    int64_t sequences, num_heads;
    float scale;
    float soft_cap;       // 0: none
    const float* slopes;  // of each query head; null: none
    int64_t window;       // 0: none
    int64_t query_width;  // of a row of qkv, which begins with the queries
    bool causal;          // else all of the context is seen
    const float* bias;    // [heads, 2 * reach + 1], by distance; null: none
    int64_t reach;
};

// A mixture of experts, with what its parts leave to each other. A token has `per_token` places
// among the inputs of all experts, which lie one expert after the other.
struct Experts {
    Weight all;                                          // one expert's rows after the other's
    int64_t weight_bytes, scale_bytes, minimum_bytes;  // of one expert
    int64_t outputs;                                     // of one expert

    Weight operator[](int64_t expert) const;
};

struct Moe {
    const float *x, *router;  // [rows, D], [rows, experts]
    Experts up, down;
    float* y;
    int64_t num_experts, per_token;
    bool normalize;
    Activation activation;
    int32_t* starts;           // [experts + 1]: of each expert's places
    int32_t *chosen, *places;  // [rows, per_token]: expert, place
    int32_t* sources;          // [places]: row of x
    float* weights;            // [rows, per_token]
    float *inputs, *outputs;   // [places, D]: may be the same
    float *gate_up, *inner;    // [places, 2 I], [places, I]
    void* packed;              // [places, a packed row of either product]

    int64_t num_places(int64_t e) const { return starts[e + 1] - starts[e]; }
};

// Each is one loop, and does a part of it: of the rows, of the blocks of rows (`pack`), of the
// tiles of output features (`multiply`) or of the tasks (`attention`).
void embed(const Weight&, const int32_t* ids, float* y, float scale, int64_t first, Range rows);
void add(float* x, const float* y, int64_t dim, Range rows);
void add_positions(float* x, const float* table, const int32_t* positions, int64_t dim,
                   Range rows);
void rms_norm(const float* x, const float* weight, float* y, int64_t dim, float eps, Range rows);
void add_rms_norm(const float* x, float* residual, const float* weight, float* y, int64_t dim,
                  float eps, Range rows);
void layer_norm(const float* x, const float* weight, const float* bias, float* y, int64_t dim,
                float eps, Range rows);
void norm_heads(float* qkv, const float* query_weight, const float* key_weight, int64_t num_heads,
                int64_t num_kv_heads, int64_t head_dim, float eps, Range rows);
void soft_cap(float* x, int64_t dim, float cap, Range rows);
void clip(float* x, int64_t dim, float limit, Range rows);
int64_t num_blocks(int64_t rows);
void pack(const float* x, const Weight&, void* packed, int64_t rows, Range blocks);
int64_t packed_row_bytes(const Weight&);
int64_t num_tiles(const Weight&);
void multiply(const void* packed, const Weight&, const float* bias, float* y, int64_t rows,
              Range tiles);
void rope_and_cache(float* qkv, const float* cos_sin, const int32_t* positions,
                    const int32_t* slots, const KvCache&, int64_t num_heads, int64_t rotary_dim,
                    Range rows);
int64_t num_attention_tasks(const AttentionInputs&);
void attention(const AttentionInputs&, Range tasks);
void gated_activation(const float* gate_up, float* y, int64_t dim, Activation, Range rows);
void activation(const float* x, float* y, int64_t dim, Activation, Range rows);
void take_rows(const float* x, const int32_t* ids, float* y, int64_t dim, Range rows);
void route(const Moe&, Range rows);
void sort_by_expert(const Moe&, int64_t rows);
void combine(const Moe&, int64_t dim, Range rows);
void add_gated(float* y, const float* x, const float* gate, int64_t dim, Range rows);

}  // namespace nimlite
