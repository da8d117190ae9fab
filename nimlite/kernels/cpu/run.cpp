// The only entry: a list of operations, run in order, each on the team where it is worth that.
#include <algorithm>

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
            op.scalars[1], (const float*)op.pointers[7], op.sizes[6]};
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
                embed(weight_of(op), ints(0), floats(4), op.scalars[0], range);
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
