// A folded model as `native_weights.py` lays it out: see `folded_weights.py` for what each part is, and for the shapes.
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

// B segments and what becomes of them. Nothing overlaps.
struct Batch {
  int64_t rows;
  const int64_t *lengths, *ranks;
  const uint8_t* fresh;
  const float* elapsed_s;
  const float* frames;    // of all segments, one after the other
  const float* contexts;  // [B, K, D]
  float* next_contexts;   // [B, K, D]
  float* answers;         // [B, O + 1]: the outputs, and the mean gate
};

}  // namespace grf
