// Attention: every kind of it in GRF is some queries that look at some keys.
#pragma once

#include "matmul.h"

namespace grf {

// The keys and values of one head, as the tiles of matmul.h take them.
struct Keys {
  float* transposed;    // [panels of PANEL keys][depth][PANEL]
  const float* values;  // [count, value_stride]
  int count, depth, value_stride;
};

constexpr int64_t transposed_floats(int64_t count, int64_t depth) {
  return (count + PANEL - 1) / PANEL * PANEL * depth;
}

// Lays out the keys; the values too, if they are not whole registers already.
static Keys lay_out(const float* keys, const float* values, int stride, int count, int depth, float* transposed,
                    float* copied_values) {
  for (int first = 0; first < count; first += PANEL) {
    float* panel = transposed + static_cast<int64_t>(first) * depth;
    const int here = count - first < PANEL ? count - first : PANEL;
    for (int t = 0; t < here; t++)
      for (int d = 0; d < depth; d++) panel[d * PANEL + t] = keys[(first + t) * stride + d];
    for (int d = 0; d < depth; d++)
      for (int t = here; t < padded(here); t++) panel[d * PANEL + t] = 0.0f;
  }
  if (depth % LANES == 0) return {transposed, values, count, depth, stride};
  const int wide = padded(depth);
  for (int t = 0; t < count; t++)
    for (int d = 0; d < wide; d++) copied_values[t * wide + d] = d < depth ? values[t * stride + d] : 0.0f;
  return {transposed, copied_values, count, depth, wide};
}

// Scores become weights that are not yet divided by their sum, whose reciprocal is returned.
static float soften(float* scores, int count) {
  const int wide = padded(count);
  for (int t = count; t < wide; t++) scores[t] = -__builtin_inff();
  vec high = load(scores);
  for (int t = LANES; t < wide; t += LANES) high = larger(high, load(scores + t));
  const float highest = largest(high);
  vec total{};
  for (int t = 0; t < wide; t += LANES) {
    const vec weight = exponential(load(scores + t) - highest);
    store(scores + t, weight);
    total += weight;
  }
  return 1.0f / sum(total);
}

// out[queries, depth] = softmax(queries @ keys) @ values. Scratch: scores [ROWS, padded count], found [ROWS, padded depth]
static void attend(const Keys& keys, const float* queries, int query_stride, int count, float* out, int out_stride,
                   float* scores, float* found) {
  static const float zeros[PANEL] = {};
  const int score_stride = padded(keys.count), wide = padded(keys.depth);
  for (int first = 0; first < count; first += ROWS) {
    const int rows = count - first < ROWS ? count - first : ROWS;
    for (int t = 0; t < keys.count; t += PANEL) {
      const int vectors = padded(keys.count - t < PANEL ? keys.count - t : PANEL) / LANES;
      any_tile(rows, vectors, queries + first * query_stride, query_stride,
               keys.transposed + static_cast<int64_t>(t) * keys.depth, PANEL, keys.depth, zeros, scores + t,
               score_stride);
    }
    float scale[ROWS];
    for (int i = 0; i < rows; i++) scale[i] = soften(scores + i * score_stride, keys.count);
    for (int d = 0; d < wide; d += PANEL) {
      const int vectors = (wide - d < PANEL ? wide - d : PANEL) / LANES;
      any_tile(rows, vectors, scores, score_stride, keys.values + d, keys.value_stride, keys.count, zeros, found + d,
               wide);
    }
    for (int i = 0; i < rows; i++) {
      float* row = out + (first + i) * out_stride;
      int d = 0;
      for (; d + LANES <= keys.depth; d += LANES) store(row + d, load(found + i * wide + d) * scale[i]);
      for (; d < keys.depth; d++) row[d] = found[i * wide + d] * scale[i];
    }
  }
}

}  // namespace grf
