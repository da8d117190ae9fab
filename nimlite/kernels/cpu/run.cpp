// The only entry: a list of operations, run by one team of threads.
#include "op.h"

namespace nimlite {
namespace {

Weight weight_of(const Op& op) {
    return {Scheme(op.sizes[0]),          op.pointers[1],  (const uint16_t*)op.pointers[2],
            (const uint16_t*)op.pointers[3], op.sizes[1], op.sizes[2]};
}

KvCache kv_of(const Op& op) {
    return {KvType(op.sizes[0]), op.pointers[1], op.pointers[2],
            op.sizes[2],         op.sizes[3],    op.sizes[4]};
}

void run(const Op& op, const Counts& counts) {
    const int64_t rows = op.rows == Rows::kTokens ? counts.tokens : counts.logits;
    const auto floats = [&](int i) { return (float*)op.pointers[i]; };
    const auto ints = [&](int i) { return (const int32_t*)op.pointers[i]; };
    switch (op.code) {
        case OpCode::kEmbed: return embed(weight_of(op), ints(0), floats(4), rows);
        case OpCode::kRmsNorm:
            return rms_norm(floats(0), floats(1), floats(2), rows, op.sizes[0], op.scalar);
        case OpCode::kAddRmsNorm:
            return add_rms_norm(floats(0), floats(1), floats(2), floats(3), rows, op.sizes[0],
                                op.scalar);
        case OpCode::kLinear:
            return linear(floats(0), weight_of(op), floats(4), floats(5), op.pointers[6], rows);
        case OpCode::kRopeAndCache:
            return rope_and_cache(floats(0), floats(3), ints(4), ints(5), kv_of(op), rows,
                                  op.sizes[1]);
        case OpCode::kAttention:
            return attention(floats(0), kv_of(op), ints(3), ints(4), ints(5), op.sizes[5],
                             floats(6), counts.sequences, op.sizes[1], op.scalar);
        case OpCode::kGatedActivation:
            return gated_activation(floats(0), floats(1), rows, op.sizes[0],
                                    Activation(op.sizes[1]));
        case OpCode::kTakeRows:
            return take_rows(floats(0), ints(1), floats(2), rows, op.sizes[0]);
    }
}

}  // namespace
}  // namespace nimlite

extern "C" void nimlite_run(const nimlite::Op* ops, int64_t num_ops, const nimlite::Counts* counts,
                            int32_t num_threads) {
#pragma omp parallel num_threads(num_threads)
    for (int64_t i = 0; i < num_ops; ++i) nimlite::run(ops[i], *counts);
}
