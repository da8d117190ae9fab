// A part of a loop.
#pragma once
#include <cstdint>

namespace nimlite {

struct Range {
    int64_t begin, end;
};

}  // namespace nimlite
