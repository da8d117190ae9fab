// A mixture of experts: which experts each token goes to, the tokens of each side by side, and the
// sum of what comes back.
#include <algorithm>
#include <cmath>
#include <limits>

#include "op.h"
#include "vector.h"

namespace nimlite {

Weight Experts::operator[](int64_t expert) const {
    const auto part = [&](auto* all_of_them, int64_t bytes) {
        return (decltype(all_of_them))((const char*)all_of_them + expert * bytes);
    };
    Weight one = all;
    one.num_rows = outputs;
    one.weight = part(all.weight, weight_bytes);
    one.scale = part(all.scale, scale_bytes);
    one.minimum = part(all.minimum, minimum_bytes);
    return one;
}

void route(const Moe& moe, Range rows) {
    const int64_t num_experts = moe.num_experts;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        const float* logits = moe.router + row * num_experts;
        float* weights = moe.weights + row * moe.per_token;
        int32_t* chosen = moe.chosen + row * moe.per_token;
        const float largest = *std::max_element(logits, logits + num_experts);
        float all = 0, taken = 0;
        for (int64_t e = 0; e < num_experts; ++e) all += std::exp(logits[e] - largest);
        for (int64_t k = 0; k < moe.per_token; ++k) {
            int64_t best = -1;
            for (int64_t e = 0; e < num_experts; ++e)
                if (std::find(chosen, chosen + k, int32_t(e)) == chosen + k &&
                    (best < 0 || logits[e] > logits[best]))
                    best = e;
            chosen[k] = int32_t(best);
            weights[k] = std::exp(logits[best] - largest) / all;
            taken += weights[k];
        }
        if (moe.normalize)
            for (int64_t k = 0; k < moe.per_token; ++k) weights[k] /= taken;
    }
}

void sort_by_expert(const Moe& moe, int64_t rows) {
    int32_t* starts = moe.starts;
    std::fill(starts, starts + moe.num_experts + 1, 0);
    const int64_t count = rows * moe.per_token;
    for (int64_t i = 0; i < count; ++i) ++starts[moe.chosen[i] + 1];
    for (int64_t e = 0; e < moe.num_experts; ++e) starts[e + 1] += starts[e];
    for (int64_t i = 0; i < count; ++i) {
        const int32_t place = starts[moe.chosen[i]]++;
        moe.places[i] = place;
        moe.sources[place] = int32_t(i / moe.per_token);
    }
    // each has moved on to the start of the next
    for (int64_t e = moe.num_experts; e > 0; --e) starts[e] = starts[e - 1];
    starts[0] = 0;
}

void combine(const Moe& moe, int64_t dim, Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        float* y = moe.y + row * dim;
        std::fill(y, y + dim, 0.0f);
        for (int64_t k = 0; k < moe.per_token; ++k) {
            const int64_t i = row * moe.per_token + k;
            const float* z = moe.outputs + moe.places[i] * dim;
            for (int64_t d = 0; d < dim; ++d) y[d] += moe.weights[i] * z[d];
        }
    }
}

void add_gated(float* y, const float* x, const float* gate, int64_t dim, Range rows) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
        const float share = 1.0f / (1.0f + std::exp(-gate[row]));
        for (int64_t d = 0; d < dim; ++d) y[row * dim + d] += share * x[row * dim + d];
    }
}

}  // namespace nimlite
