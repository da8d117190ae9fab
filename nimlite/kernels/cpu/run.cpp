// The only entry: a list of operations, run in order, each on the team where it is worth that.
#include <algorithm>
#include <utility>

#include "op.h"
#include "team.h"

namespace nimlite {
namespace {

Weight weight_of(const Op& op) {
    return {Scheme(op.sizes[0]),
            op.pointers[1],
            op.pointers[2],
            (const uint16_t*)op.pointers[3],
            op.sizes[1],
            op.sizes[2],
            op.scalars[0]};
}

KvCache kv_of(const Op& op) {
    return {KvType(op.sizes[0]), op.pointers[1], op.pointers[2],
            op.sizes[2],         op.sizes[3],    op.sizes[4]};
}

AttentionInputs attention_of(const Op& op, int64_t sequences) {
    const auto ints = [&](int i) { return (const int32_t*)op.pointers[i]; };
    return {(const float*)op.pointers[0], kv_of(op), ints(3),   ints(4),     ints(5), op.sizes[5],
            (float*)op.pointers[6],       sequences, op.sizes[1], op.scalars[0],
            op.scalars[1], (const float*)op.pointers[7], op.sizes[6], op.sizes[7],
            op.sizes[8] != 0, (const float*)op.pointers[8], op.sizes[9]};
}

// The scratch memory is cut up in the order that `CpuKernels.moe` counts it in.
Moe moe_of(const Op& op, int64_t rows) {
    Moe moe = {};
    moe.x = (const float*)op.pointers[0];
    const auto experts = [&](const Weight& all, const int64_t* bytes) {
        return Experts{all, bytes[0], bytes[1], bytes[2], all.num_rows / op.sizes[6]};
    };
    moe.up = experts(weight_of(op), op.sizes + 10);
    moe.router = (const float*)op.pointers[4];
    Weight down = weight_of(op);
    down = {Scheme(op.sizes[3]), op.pointers[5], decltype(down.scale)(op.pointers[6]),
            decltype(down.minimum)(op.pointers[7]), op.sizes[4], op.sizes[5]};
    moe.down = experts(down, op.sizes + 13);
    moe.y = (float*)op.pointers[8];
    moe.num_experts = op.sizes[6];
    moe.per_token = op.sizes[7];
    moe.normalize = op.sizes[8];
    moe.activation = Activation(op.sizes[9]);
    const int64_t places = rows * moe.per_token, inner = down.num_columns;
    float* scratch = (float*)op.pointers[9];
    const auto take = [&](int64_t count) { return std::exchange(scratch, scratch + count); };
    moe.starts = (int32_t*)take(moe.num_experts + 1);
    moe.chosen = (int32_t*)take(places);
    moe.places = (int32_t*)take(places);
    moe.sources = (int32_t*)take(places);
    moe.weights = take(places);
    moe.inputs = moe.outputs = take(places * moe.up.all.num_columns);
    moe.gate_up = take(places * 2 * inner);
    moe.inner = take(places * inner);
    moe.packed = scratch;
    return moe;
}

// A part of a loop is at least this much work: less is done sooner than another thread has come.
constexpr double kPartNanoseconds = 1000;
// Several for each: who is kept from its processor for a while leaves the rest to the others.
constexpr int64_t kPartsPerThread = 4;

// Runs the operations of one step. Each loop comes with the nanoseconds that one thread would take
// for it, roughly.
struct Step {
    Team* team;  // null: no others
    Counts counts;

    template <class Body>
    void share(int64_t count, double nanoseconds, const Body& body) const {
        const int64_t most = team ? std::min(count, kPartsPerThread * team->num_threads()) : 1;
        const int64_t num_parts = std::min(most, int64_t(nanoseconds / kPartNanoseconds));
        if (num_parts > 1)
            team->share(count, num_parts, body);
        else
            body(Range{0, count});
    }

    void run(const Op& op) const;
    void run_linear(const Op& op, int64_t rows) const;
    void run_attention(const AttentionInputs& inputs) const;
    void run_moe(const Moe& moe, int64_t rows) const;
    void multiply_experts(const Moe& moe, const Experts& experts, const float* x, float* y) const;
};

void Step::run_linear(const Op& op, int64_t rows) const {
    const Weight weight = weight_of(op);
    const double num_inputs = double(rows * weight.num_columns);
    void* packed = op.pointers[6];
    share(num_blocks(rows), 0.2 * num_inputs,
          [&](Range blocks) { pack((float*)op.pointers[0], weight, packed, rows, blocks); });
    share(num_tiles(weight), 0.01 * num_inputs * double(weight.num_rows), [&](Range tiles) {
        multiply(packed, weight, (float*)op.pointers[4], (float*)op.pointers[5], rows, tiles);
    });
}

void Step::run_attention(const AttentionInputs& inputs) const {
    double num_pairs = 0;
    for (int64_t s = 0; s < inputs.sequences; ++s) {
        const int32_t num_queries = inputs.query_starts[s + 1] - inputs.query_starts[s];
        num_pairs += double(num_queries) * inputs.context_lens[s];
    }
    const double width = double(inputs.num_heads * inputs.kv.head_dim);
    share(num_attention_tasks(inputs), 0.05 * num_pairs * width,
          [&](Range tasks) { attention(inputs, tasks); });
}

// Each expert's rows of x times its matrix.
void Step::multiply_experts(const Moe& moe, const Experts& experts, const float* x,
                            float* y) const {
    const Weight& all = experts.all;
    const int64_t row_bytes = packed_row_bytes(all), num_places = moe.starts[moe.num_experts];
    const double num_inputs = double(num_places * all.num_columns);
    const auto packed = [&](int64_t e) { return (char*)moe.packed + moe.starts[e] * row_bytes; };
    share(moe.num_experts, 0.2 * num_inputs, [&](Range range) {
        for (int64_t e = range.begin; e < range.end; ++e) {
            const Weight one = experts[e];
            const int64_t rows = moe.num_places(e);
            pack(x + moe.starts[e] * all.num_columns, one, packed(e), rows,
                 Range{0, num_blocks(rows)});
        }
    });
    const int64_t tiles = num_tiles(all) / moe.num_experts, outputs = experts.outputs;
    share(num_tiles(all), 0.01 * num_inputs * double(outputs), [&](Range range) {
        for (int64_t t = range.begin; t < range.end; ++t) {
            const int64_t e = t / tiles;
            if (const int64_t rows = moe.num_places(e))
                multiply(packed(e), experts[e], nullptr, y + moe.starts[e] * outputs, rows,
                         Range{t % tiles, t % tiles + 1});
        }
    });
}

void Step::run_moe(const Moe& moe, int64_t rows) const {
    const int64_t dim = moe.up.all.num_columns, inner = moe.down.all.num_columns;
    const int64_t num_places = rows * moe.per_token;
    const auto share_rows = [&](int64_t count, double nanoseconds, const auto& body) {
        share(count, nanoseconds * double(count), body);
    };
    share_rows(rows, 4.0 * double(moe.num_experts * (1 + moe.per_token)),
               [&](Range range) { route(moe, range); });
    sort_by_expert(moe, rows);
    share_rows(num_places, 0.1 * double(dim), [&](Range range) {
        take_rows(moe.x, moe.sources, moe.inputs, dim, range);
    });
    multiply_experts(moe, moe.up, moe.inputs, moe.gate_up);
    share_rows(num_places, 0.3 * double(inner), [&](Range range) {
        gated_activation(moe.gate_up, moe.inner, inner, moe.activation, range);
    });
    multiply_experts(moe, moe.down, moe.inner, moe.outputs);
    share_rows(rows, 0.2 * double(dim * moe.per_token),
               [&](Range range) { combine(moe, dim, range); });
}

void Step::run(const Op& op) const {
    const int64_t rows = op.rows == Rows::kTokens ? counts.tokens : counts.logits;
    const int64_t dim = op.sizes[0];
    const auto floats = [&](int i) { return (float*)op.pointers[i]; };
    const auto ints = [&](int i) { return (const int32_t*)op.pointers[i]; };
    const auto share_rows = [&](double nanoseconds, int64_t columns, const auto& body) {
        share(rows, nanoseconds * double(rows * columns), body);
    };
    switch (op.code) {
        case OpCode::kEmbed:
            return share_rows(1, op.sizes[2], [&](Range range) {
                embed(weight_of(op), ints(0), floats(4), op.scalars[0], op.sizes[3], range);
            });
        case OpCode::kRmsNorm:
            return share_rows(0.15, dim, [&](Range range) {
                rms_norm(floats(0), floats(1), floats(2), dim, op.scalars[0], range);
            });
        case OpCode::kAddRmsNorm:
            return share_rows(0.2, dim, [&](Range range) {
                add_rms_norm(floats(0), floats(1), floats(2), floats(3), dim, op.scalars[0], range);
            });
        case OpCode::kLinear: return run_linear(op, rows);
        case OpCode::kRopeAndCache: {
            const KvCache kv = kv_of(op);
            const int64_t num_heads = op.sizes[1];
            return share_rows(0.3, (num_heads + 2 * kv.num_kv_heads) * kv.head_dim, [&](Range r) {
                rope_and_cache(floats(0), floats(3), ints(4), ints(5), kv, num_heads, op.sizes[5],
                               r);
            });
        }
        case OpCode::kAttention: return run_attention(attention_of(op, counts.sequences));
        case OpCode::kGatedActivation:
            return share_rows(0.3, dim, [&](Range range) {
                gated_activation(floats(0), floats(1), dim, Activation(op.sizes[1]), range);
            });
        case OpCode::kTakeRows:
            return share_rows(0.1, dim, [&](Range range) {
                take_rows(floats(0), ints(1), floats(2), dim, range);
            });
        case OpCode::kActivation:
            return share_rows(0.3, dim, [&](Range range) {
                activation(floats(0), floats(1), dim, Activation(op.sizes[1]), range);
            });
        case OpCode::kLayerNorm:
            return share_rows(0.2, dim, [&](Range range) {
                layer_norm(floats(0), floats(1), floats(2), floats(3), dim, op.scalars[0], range);
            });
        case OpCode::kAddLayerNorm:
            return share_rows(0.3, dim, [&](Range range) {
                add(floats(1), floats(0), dim, range);
                layer_norm(floats(1), floats(2), floats(3), floats(4), dim, op.scalars[0], range);
            });
        case OpCode::kAdd:
            return share_rows(0.1, dim,
                              [&](Range range) { add(floats(0), floats(1), dim, range); });
        case OpCode::kAddPositions:
            return share_rows(0.1, dim, [&](Range range) {
                add_positions(floats(0), floats(1), ints(2), dim, range);
            });
        case OpCode::kSoftCap:
            return share_rows(0.3, dim, [&](Range range) {
                soft_cap(floats(0), dim, op.scalars[0], range);
            });
        case OpCode::kClip:
            return share_rows(0.1, dim,
                              [&](Range range) { clip(floats(0), dim, op.scalars[0], range); });
        case OpCode::kMoe: return run_moe(moe_of(op, rows), rows);
        case OpCode::kAddGated:
            return share_rows(0.1, dim, [&](Range range) {
                add_gated(floats(0), floats(1), floats(2), dim, range);
            });
        case OpCode::kNormHeads: {
            const int64_t num_heads = op.sizes[1], num_kv_heads = op.sizes[2];
            return share_rows(0.2, (num_heads + num_kv_heads) * op.sizes[3], [&](Range range) {
                norm_heads(floats(0), floats(1), floats(2), num_heads, num_kv_heads, op.sizes[3],
                           op.scalars[0], range);
            });
        }
    }
}

}  // namespace
}  // namespace nimlite

extern "C" {

nimlite::Team* nimlite_team_new(int32_t num_threads) { return new nimlite::Team(num_threads); }

void nimlite_team_delete(nimlite::Team* team) { delete team; }

// Where another thread is using the team already, this one works alone.
void nimlite_run(nimlite::Team* team, const nimlite::Op* ops, int64_t num_ops,
                 const nimlite::Counts* counts) {
    const std::unique_lock lock(team->mutex(), std::try_to_lock);
    const bool alone = !lock || team->num_threads() == 1;
    const nimlite::Step step{alone ? nullptr : team, *counts};
    for (int64_t i = 0; i < num_ops; ++i) step.run(ops[i]);
}
}
