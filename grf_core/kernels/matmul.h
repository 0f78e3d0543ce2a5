// Products with weights, and what comes after them row by row.
//
// Weights [depth, width] are packed at load time into panels of PANEL columns, [panel][depth][PANEL], zeros at the end
// (`weights.py`). A tile of at most ROWS x PANEL results stays in registers while the depth goes by; each result
// is summed in the order of the depth, whatever the tile.
#pragma once

#include "vector.h"

namespace grf {

#if defined(GRF_NEON) || defined(__AVX512F__)
constexpr int ROWS = 6, VECTORS = 4;  // 24 sums, 4 weights and a value in 32 registers
#else
constexpr int ROWS = 6, VECTORS = 2;  // 12 sums, 2 weights and a value in 16 registers
#endif
constexpr int PANEL = VECTORS * LANES;

// y[rows, vectors] = x[rows, depth] @ b[depth, vectors], plus `bias` [vectors], or what is in y if that is null.
template <int rows, int vectors>
static inline __attribute__((always_inline)) void tile(
    const float* x, int x_stride, const float* b, int b_stride, int depth, const float* bias, float* y, int y_stride) {
  vec sums[rows][vectors] = {};
  for (int k = 0; k < depth; k++) {
    vec weights[vectors];
    for (int j = 0; j < vectors; j++) weights[j] = load(b + k * b_stride + j * LANES);
    for (int i = 0; i < rows; i++) {
      const vec value = all(x[i * x_stride + k]);
      for (int j = 0; j < vectors; j++) sums[i][j] = fused(value, weights[j], sums[i][j]);
    }
  }
  // Last, not first: added to a large number, each of many small ones would be rounded.
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++) {
      float* to = y + i * y_stride + j * LANES;
      store(to, sums[i][j] + load(bias ? bias + j * LANES : to));
    }
}

template <int vectors>
static inline __attribute__((always_inline)) void tile_of(
    int rows, const float* x, int x_stride, const float* b, int b_stride, int depth, const float* bias, float* y,
    int y_stride) {
  switch (rows) {
    case 1: return tile<1, vectors>(x, x_stride, b, b_stride, depth, bias, y, y_stride);
    case 2: return tile<2, vectors>(x, x_stride, b, b_stride, depth, bias, y, y_stride);
    case 3: return tile<3, vectors>(x, x_stride, b, b_stride, depth, bias, y, y_stride);
    case 4: return tile<4, vectors>(x, x_stride, b, b_stride, depth, bias, y, y_stride);
    case 5: return tile<5, vectors>(x, x_stride, b, b_stride, depth, bias, y, y_stride);
    default: return tile<6, vectors>(x, x_stride, b, b_stride, depth, bias, y, y_stride);
  }
}

// The same for at most ROWS rows and VECTORS vectors.
static __attribute__((noinline)) void any_tile(
    int rows, int vectors, const float* x, int x_stride, const float* b, int b_stride, int depth, const float* bias,
    float* y, int y_stride) {
  switch (vectors) {
    case 1: return tile_of<1>(rows, x, x_stride, b, b_stride, depth, bias, y, y_stride);
    case 2: return tile_of<2>(rows, x, x_stride, b, b_stride, depth, bias, y, y_stride);
#if defined(GRF_NEON) || defined(__AVX512F__)
    case 3: return tile_of<3>(rows, x, x_stride, b, b_stride, depth, bias, y, y_stride);
    case 4: return tile_of<4>(rows, x, x_stride, b, b_stride, depth, bias, y, y_stride);
#endif
  }
}

struct Affine {
  const float* weight;  // packed
  const float* bias;    // padded; null: added to what is there
  int64_t depth, width;
};

// y[rows, padded width] = x[rows, depth] @ weight + bias
static void apply(const Affine& affine, const float* x, int x_stride, int rows, float* y, int y_stride) {
  const int depth = affine.depth, vectors = padded(affine.width) / LANES;
  for (int v = 0; v < vectors; v += VECTORS) {
    const float* panel = affine.weight + static_cast<int64_t>(v) * LANES * depth;
    const float* bias = affine.bias ? affine.bias + v * LANES : nullptr;
    const int here = vectors - v < VECTORS ? vectors - v : VECTORS;
    for (int row = 0; row < rows; row += ROWS) {
      const int tall = rows - row < ROWS ? rows - row : ROWS;
      any_tile(tall, here, x + row * x_stride, x_stride, panel, PANEL, depth, bias, y + row * y_stride + v * LANES,
               y_stride);
    }
  }
}

struct Norm {
  const float* weight;  // padded
  const float* bias;    // padded
  int64_t width;
  float eps;
};

// y = (x - mean) / sqrt(variance + eps) * weight + bias, row by row; y may be x. Padding becomes 0.
static void normalise(const Norm& norm, const float* x, int x_stride, int rows, float* y, int y_stride) {
  const int width = norm.width, whole = width / LANES * LANES, rest = width - whole;
  const float per_width = 1.0f / width;
  for (int row = 0; row < rows; row++, x += x_stride, y += y_stride) {
    vec total{}, squares{};
    for (int j = 0; j < whole; j += LANES) total += load(x + j);
    if (rest) total += first_lanes(load(x + whole), rest);
    const float mean = sum(total) * per_width;
    for (int j = 0; j < whole; j += LANES) {
      const vec off = load(x + j) - mean;
      squares = fused(off, off, squares);
    }
    if (rest) {
      const vec off = first_lanes(load(x + whole) - mean, rest);
      squares = fused(off, off, squares);
    }
    const float scale = 1.0f / __builtin_sqrtf(__builtin_fmaf(sum(squares), per_width, norm.eps));
    for (int j = 0; j < whole; j += LANES)
      store(y + j, fused((load(x + j) - mean) * scale, load(norm.weight + j), load(norm.bias + j)));
    if (rest) {
      const vec off = first_lanes(load(x + whole) - mean, rest);
      store(y + whole, fused(off * scale, load(norm.weight + whole), load(norm.bias + whole)));
    }
  }
}

}  // namespace grf
