// Frames as they come in: clipped to what training saw, projected, with positions. And their mean.
//
// Shapes: D model width; a row of width D takes padded(D) floats.
#pragma once

#include <cstring>

#include "model.h"
#include "scratch.h"

namespace grf {

struct Embedding {
  const int wide;
  float* clipped;  // [ROWS, padded width of the widest entry]

  Embedding(const Model& model, Pieces& pieces) : wide(padded(model.d_model)) {
    int64_t widest = 1;
    for (int i = 0; i < model.n_entries; i++) widest = at_least(widest, model.entries[i].width);
    clipped = pieces.take(ROWS * padded(widest));
  }

  // to[length, D]
  void embed(const Entry& entry, const float* frames, int length, float* to) {
    const int width = entry.width, stride = padded(width);
    std::memcpy(to, entry.table, sizeof(float) * length * wide);
    for (int first = 0; first < length; first += ROWS) {
      const int rows = at_most(ROWS, length - first);
      for (int i = 0; i < rows; i++) clip(entry, frames + (first + i) * width, width, clipped + i * stride);
      apply(entry.weight, clipped, stride, rows, to + first * wide, wide);
    }
  }

  static void clip(const Entry& entry, const float* frame, int width, float* to) {
    int f = 0;
    for (; f + LANES <= width; f += LANES) {
      const vec off = load(frame + f) - load(entry.mean + f);
      store(to + f, larger(load(entry.nearest + f), smaller(load(entry.farthest + f), off)));
    }
    for (; f < width; f++) {
      const float off = frame[f] - entry.mean[f];
      const float near = off > entry.farthest[f] ? entry.farthest[f] : off;
      to[f] = near < entry.nearest[f] ? entry.nearest[f] : near;
    }
  }

  // to[D], of rows[count, D]
  void mean_of(const float* rows, int count, float* to) const {
    const float share = 1.0f / count;
    for (int j = 0; j < wide; j += LANES) {
      vec total{};
      for (int i = 0; i < count; i++) total += load(rows + i * wide + j);
      store(to + j, total * share);
    }
  }
};

}  // namespace grf
