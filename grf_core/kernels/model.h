// A folded model as `weights.py` lays it out: see `folded_weights.py` for what each part is, and for the shapes.
//
// Every vector and every row is padded with zeros to whole registers.
#pragma once

#include "matmul.h"

namespace grf {

struct SelfAttention {
  const float* shift;
  Affine qkv, out;
  Norm norm;
};

struct FeedForward {
  Affine widen, narrow;
  Norm norm;
};

struct ContextLayer {
  Affine through;  // of one slot; through_norm as well
  Norm through_norm;
  SelfAttention attention;  // of several
  Affine seek, take;
  Norm norm;
  FeedForward feed;
};

struct FrameLayer {
  SelfAttention attention;
  Affine slots_query, slots_out;  // of several slots
  Norm norm;
  FeedForward feed;
};

struct Entry {
  const float *mean, *nearest, *farthest;
  Affine weight;
  const float* table;  // [frames, padded D]
  int64_t width, max_frames;
};

struct Head {
  int64_t start, stop, classifies;
};

struct Model {
  int64_t d_model, slots, heads, layers, keeps_enriched, n_entries, n_outputs;
  const Entry* entries;
  const float* start;   // [K, padded D]
  const float* ageing;  // [padded D], or null
  Affine spread;
  const ContextLayer* context_layers;
  const FrameLayer* frame_layers;
  Affine gate_enriched, gate_modality;
  Norm gate_norm;
  Affine head_hidden, head_values;
  const Head* outputs;
};

// One segment: it is fused into context `from`, and context `to` is what becomes of it.
struct Row {
  int64_t from, to;  // from -1 a context is started
  int64_t rank, length;
  int64_t n_values;  // so many
  const float* frames;
  double elapsed_s;
};

// Segments of one step. The contexts to write are none of those to read.
struct Batch {
  int64_t count;
  const Row* rows;
  const float* contexts;  // [n_contexts, K, D]
  float* next_contexts;   // [n_contexts, K, D]
  float* answers;         // [n_contexts, O + M + 1]: outputs, shares, and the mean gate
  int64_t n_contexts;
  int64_t n_shares;  // M: of each modality in the context, or 0
  uint8_t* finite;   // [count], or null
};

}  // namespace grf
