// Scratch memory of a step: each part of it takes its pieces once, and keeps them for every batch.
#pragma once

#include <cstdint>

#include "vector.h"

namespace grf {

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Handed out piece by piece; with no memory it only counts.
struct Pieces {
  float* base;
  int64_t taken = 0;

  float* take(int64_t floats) {
    float* piece = base ? base + taken : nullptr;
    taken += (floats + LANES + 15) / 16 * 16;  // a register more: some loads begin within the last one
    return piece;
  }
};

}  // namespace grf
