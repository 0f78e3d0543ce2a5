// One step of folded GRF for a batch: the function of `folded.py`, in float32 on a CPU, without a call for every operation.
//
// Segments go through the whole step in groups whose intermediates stay in the second-level cache. Linear layers take the
// packed frames of a group, attention one segment at a time, so that nothing is computed for padding between segments.
// No sum depends on what else is in the group: a segment gives the same bits in every batch.
//
// Shapes: N frames and M context slots of a group, B its segments, K slots of a context, D model width, W of `spread`.
// A row of width D takes padded(D) floats.

#include <cstddef>
#include <cstring>

#include "answers.h"
#include "attention.h"
#include "frames.h"
#include "model.h"
#include "scratch.h"

namespace grf {
namespace {

constexpr int GROUP_FRAMES = 256;
constexpr int GROUP_SLOTS = 128;
constexpr int FEED_ROWS = 4 * ROWS;  // whose hidden values stay in the first-level cache

struct Group {
  int segments = 0, frames = 0;
  int rows[GROUP_SLOTS], lengths[GROUP_SLOTS];  // rows of the batch
};

// Does the batch fit the model? Nothing of it is read where it does not say it is.
bool fits(const Model& m, const Batch& batch) {
  for (int64_t i = 0; i < batch.count; i++) {
    const Row& row = batch.rows[i];
    if (row.rank < 0 || row.rank >= m.n_entries) return false;
    if (row.length < 1 || row.length > m.entries[row.rank].max_frames) return false;
    if (row.from < -1 || row.from >= batch.n_contexts || row.to < 0 || row.to >= batch.n_contexts) return false;
    if (row.n_values != row.length * m.entries[row.rank].width) return false;
  }
  return true;
}

// The step of one model, with the memory for one group.
struct Step {
  const Model& m;
  Embedding frames;
  Answers answers;
  const int d, wide, slots, spread_stride, sought_stride, both_stride, qkv_stride, feed_stride;
  float *memory, *x, *qkv, *mixed, *hidden;                           // by frame
  float *h, *s, *spread, *sought, *found, *modality, *shared, *both;  // by slot, or by segment
  float *transposed, *values, *scores, *seen;                         // of attention
  Group group;

  Step(const Model& model, Pieces& pieces)
      : m(model),
        frames(model, pieces),
        answers(model, GROUP_SLOTS, pieces),
        d(model.d_model),
        wide(padded(model.d_model)),
        slots(model.slots),
        spread_stride(padded(model.spread.width)),
        sought_stride(padded(model.context_layers[0].seek.width)),
        both_stride(padded(2 * model.d_model)),
        qkv_stride(padded(3 * model.d_model)),
        feed_stride(padded(model.frame_layers[0].feed.widen.width)) {
    int64_t longest = 1;
    for (int i = 0; i < m.n_entries; i++) longest = at_least(longest, m.entries[i].max_frames);
    const int64_t packed = at_least(GROUP_FRAMES, longest), many = at_least(GROUP_SLOTS, slots);
    const int64_t keys = at_least(longest, slots);
    memory = pieces.take(packed * wide);
    x = pieces.take(packed * wide);
    qkv = pieces.take(at_least(packed, many) * qkv_stride);
    mixed = pieces.take(at_least(packed, many) * wide);
    hidden = pieces.take(FEED_ROWS * feed_stride);
    h = pieces.take(many * wide);
    s = pieces.take(many * wide);
    spread = pieces.take(many * spread_stride);
    sought = pieces.take(many * sought_stride);
    found = pieces.take(many * sought_stride);
    modality = pieces.take(many * wide);
    shared = pieces.take(many * both_stride);
    both = pieces.take(many * both_stride);
    transposed = pieces.take(transposed_floats(keys, d));
    values = pieces.take(keys * wide);
    scores = pieces.take(ROWS * padded(keys));
    seen = pieces.take(ROWS * wide);
  }

  void run(const Batch& batch) {
    group.segments = group.frames = 0;
    for (int i = 0; i < batch.count; i++) {
      const Row& row = batch.rows[i];
      if (row.from < 0) {
        start(batch, row);
      } else {
        const bool full = (group.segments + 1) * slots > GROUP_SLOTS || group.frames + row.length > GROUP_FRAMES;
        if (full && group.segments) fuse(batch);
        group.rows[group.segments] = i;
        group.lengths[group.segments++] = row.length;
        group.frames += row.length;
      }
    }
    if (group.segments) fuse(batch);
    answers.answer_all(batch);
  }

  // The first context of a session.
  void start(const Batch& batch, const Row& row) {
    frames.embed(m.entries[row.rank], row.frames, row.length, x);
    frames.mean_of(x, row.length, modality);
    float* next = batch.next_contexts + row.to * slots * d;
    for (int k = 0; k < slots; k++)
      for (int j = 0; j < d; j++) next[k * d + j] = modality[j] + m.start[k * wide + j];
    gate_of(m, batch, row) = 1.0f;
  }

  // ---- parts of layers ----

  void feed(const FeedForward& layer, float* rows, int count) {
    for (int first = 0; first < count; first += FEED_ROWS) {
      const int here = at_most(FEED_ROWS, count - first);
      float* own = rows + first * wide;
      apply(layer.widen, own, wide, here, hidden, feed_stride);
      for (int i = 0; i < here * feed_stride; i += LANES) store(hidden + i, gelu(load(hidden + i)));
      apply(layer.narrow, hidden, feed_stride, here, own, wide);
      normalise(layer.norm, own, wide, here, own, wide);
    }
  }

  // Every `count` rows, of which there are several, among themselves.
  void self_attend(const SelfAttention& layer, const int* counts, int several, int one_count, float* rows) {
    const int per_head = d / m.heads;
    int total = 0;
    for (int i = 0; i < several; i++) total += counts ? counts[i] : one_count;
    apply(layer.qkv, rows, wide, total, qkv, qkv_stride);
    const float* own = qkv;
    float* to = mixed;
    for (int i = 0; i < several; i++) {
      const int count = counts ? counts[i] : one_count;
      for (int first = 0; first < d; first += per_head) {
        const float* query = own + first;
        const Keys keys = lay_out(query + d, query + 2 * d, qkv_stride, count, per_head, transposed, values);
        attend(keys, query, qkv_stride, count, to + first, wide, scores, seen);
      }
      own += count * qkv_stride;
      to += count * wide;
    }
    apply(layer.out, mixed, wide, total, rows, wide);
    normalise(layer.norm, rows, wide, total, rows, wide);
  }

  // ---- the fusion block ----

  void fuse(const Batch& batch) {
    const int many = group.segments * slots;
    gather(batch);
    apply(m.spread, h, wide, many, spread, spread_stride);
    enrich();
    contextualise();
    gate(batch);
    group.segments = group.frames = 0;
  }

  // The embedded frames, and the contexts, faded by age.
  void gather(const Batch& batch) {
    float *to = memory, *context = h;
    for (int b = 0; b < group.segments; b++) {
      const Row& row = batch.rows[group.rows[b]];
      const float* from = batch.contexts + row.from * slots * d;
      const float elapsed_s = row.elapsed_s;
      frames.embed(m.entries[row.rank], row.frames, row.length, to);
      to += group.lengths[b] * wide;
      for (int k = 0; k < slots; k++, context += wide) {
        std::memcpy(context, from + k * d, sizeof(float) * d);
        for (int j = 0; m.ageing && j < wide; j += LANES)
          store(context + j, load(context + j) * exponential(load(m.ageing + j) * elapsed_s));
      }
    }
  }

  // s[M, D]: the contexts, having attended to the frames.
  void enrich() {
    const int many = group.segments * slots;
    if (slots > 1) {
      for (int i = 0; i < many; i++)
        for (int j = 0; j < wide; j += LANES)
          store(s + i * wide + j, load(h + i * wide + j) + load(m.context_layers[0].attention.shift + j));
    }
    for (int number = 0; number < m.layers; number++) {
      const ContextLayer& layer = m.context_layers[number];
      if (slots > 1) {
        self_attend(layer.attention, nullptr, group.segments, slots, s);
      } else if (number == 0) {
        normalise(layer.through_norm, spread, spread_stride, many, s, wide);
      } else {
        apply(layer.through, s, wide, many, mixed, wide);
        normalise(layer.through_norm, mixed, wide, many, s, wide);
      }
      apply(layer.seek, s, wide, many, sought, sought_stride);
      look_at_frames();
      apply(layer.take, found, sought_stride, many, s, wide);
      normalise(layer.norm, s, wide, many, s, wide);
      feed(layer.feed, s, many);
    }
  }

  // Each head of a slot looks at the embedded frames themselves.
  void look_at_frames() {
    const float* own = memory;
    for (int b = 0; b < group.segments; b++) {
      const Keys keys = lay_out(own, own, wide, group.lengths[b], d, transposed, values);
      for (int k = 0; k < slots; k++) {
        const int64_t slot = static_cast<int64_t>(b * slots + k) * sought_stride;
        attend(keys, sought + slot, d, m.heads, found + slot, d, scores, seen);
      }
      own += group.lengths[b] * wide;
    }
  }

  // modality[B, D]: the frames, having attended to the context, and their mean.
  void contextualise() {
    std::memcpy(x, memory, sizeof(float) * group.frames * wide);
    for (int number = 0; number < m.layers; number++) {
      const FrameLayer& layer = m.frame_layers[number];
      self_attend(layer.attention, group.lengths, group.segments, 0, x);
      if (slots > 1)
        look_at_slots(layer, number);
      else
        add_slot(number);
      normalise(layer.norm, x, wide, group.frames, x, wide);
      feed(layer.feed, x, group.frames);
    }
    const float* own = x;
    for (int b = 0; b < group.segments; b++) {
      frames.mean_of(own, group.lengths[b], modality + b * wide);
      own += group.lengths[b] * wide;
    }
  }

  // All frames of a segment get the same of its one slot.
  void add_slot(int number) {
    float* row = x;
    for (int b = 0; b < group.segments; b++) {
      const float* slot = spread + static_cast<int64_t>(b) * spread_stride + (number + 1) * d;
      for (int t = 0; t < group.lengths[b]; t++, row += wide)
        for (int j = 0; j < wide; j += LANES) store(row + j, load(row + j) + load(slot + j));
    }
  }

  void look_at_slots(const FrameLayer& layer, int number) {
    const int per_head = d / m.heads;
    apply(layer.slots_query, x, wide, group.frames, qkv, wide);
    int64_t frame = 0;
    for (int b = 0; b < group.segments; b++) {
      const float* key = spread + static_cast<int64_t>(b) * slots * spread_stride + 2 * number * d;
      for (int first = 0; first < d; first += per_head) {
        const Keys keys =
            lay_out(key + first, key + first + d, spread_stride, slots, per_head, transposed, values);
        attend(keys, qkv + frame * wide + first, wide, group.lengths[b], mixed + frame * wide + first, wide, scores,
               seen);
      }
      frame += group.lengths[b];
    }
    apply(layer.slots_out, mixed, wide, group.frames, x, wide);
  }

  // The next contexts, and their mean gate.
  void gate(const Batch& batch) {
    apply(m.gate_modality, modality, wide, group.segments, shared, both_stride);
    const int many = group.segments * slots;
    for (int i = 0; i < many; i++)
      std::memcpy(both + i * both_stride, shared + i / slots * both_stride, sizeof(float) * both_stride);
    apply(m.gate_enriched, s, wide, many, both, both_stride);
    const float* kept = m.keeps_enriched ? s : h;
    for (int b = 0; b < group.segments; b++) {
      vec open{};
      for (int i = b * slots; i < (b + 1) * slots; i++) {
        float* row = both + i * both_stride;
        for (int j = 0; j < wide; j += LANES) {
          const vec z = sigmoid(load(row + j)), old = load(kept + i * wide + j);
          const vec next = fused(z, tanh(load(row + d + j)) - old, old);
          open += first_lanes(z, d - j);
          store(mixed + i * wide + j, next);
        }
      }
      gate_of(m, batch, batch.rows[group.rows[b]]) = sum(open) / (slots * d);
    }
    normalise(m.gate_norm, mixed, wide, many, mixed, wide);
    for (int i = 0; i < many; i++) {
      const int64_t to = batch.rows[group.rows[i / slots]].to;
      std::memcpy(batch.next_contexts + (to * slots + i % slots) * d, mixed + i * wide, sizeof(float) * d);
    }
  }

};

}  // namespace
}  // namespace grf

// ---- what ctypes calls ----

extern "C" {

int64_t grf_lanes() { return grf::LANES; }
int64_t grf_panel() { return grf::PANEL; }
const char* grf_sources() { return GRF_SOURCES; }

// How many floats of scratch memory a step of this model needs, whatever the batch.
int64_t grf_scratch_floats(const grf::Model* model) {
  grf::Pieces pieces{nullptr};
  grf::Step count(*model, pieces);
  return pieces.taken;
}

// 0, or 1 if the batch does not fit the model: then nothing has been done.
int64_t grf_step(const grf::Model* model, const grf::Batch* batch, float* scratch) {
  if (!grf::fits(*model, *batch)) return 1;
  grf::Pieces pieces{scratch};
  grf::Step(*model, pieces).run(*batch);
  return 0;
}
}
