// What is told of a new context: the outputs of the heads, the modalities' shares, and whether all of it is finite.
//
// Shapes: K slots of a context, D model width, O outputs, M modalities. A row of width D takes padded(D) floats.
#pragma once

#include <cstring>

#include "model.h"
#include "scratch.h"

namespace grf {

// [O + M + 1] of a context: outputs, shares, gate.
static float* answer_of(const Model& m, const Batch& batch, int64_t context) {
  return batch.answers + context * (m.n_outputs + batch.n_shares + 1);
}

static float& gate_of(const Model& m, const Batch& batch, const Row& row) {
  return answer_of(m, batch, row.to)[m.n_outputs + batch.n_shares];
}

// At most `most` rows at a time. The contexts and their gates stand in the batch already.
struct Answers {
  const Model& m;
  const int d, wide, slots, most;
  float *means, *hidden, *values;

  Answers(const Model& model, int at_once, Pieces& pieces)
      : m(model), d(model.d_model), wide(padded(model.d_model)), slots(model.slots), most(at_once) {
    means = pieces.take(most * wide);
    hidden = pieces.take(most * padded(m.head_hidden.width));
    values = pieces.take(most * padded(m.head_values.width));
  }

  void answer_all(const Batch& batch) {
    for (int first = 0; first < batch.count; first += most) answer(batch, first, at_most(most, batch.count - first));
  }

  void answer(const Batch& batch, int first, int rows) {
    for (int i = 0; i < rows; i++) average_slots(batch.next_contexts + batch.rows[first + i].to * slots * d, i);
    const int hidden_stride = padded(m.head_hidden.width), value_stride = padded(m.head_values.width);
    apply(m.head_hidden, means, wide, rows, hidden, hidden_stride);
    for (int i = 0; i < rows * hidden_stride; i += LANES) store(hidden + i, larger(vec{}, load(hidden + i)));
    apply(m.head_values, hidden, hidden_stride, rows, values, value_stride);
    for (int i = 0; i < rows; i++) {
      const Row& row = batch.rows[first + i];
      tell(values + i * value_stride, answer_of(m, batch, row.to));
      if (batch.n_shares) share(batch, row);
      if (batch.finite) batch.finite[first + i] = is_finite(batch, row);
    }
  }

  void average_slots(const float* context, int row) {
    float* to = means + row * wide;
    std::memcpy(to, context, sizeof(float) * d);
    for (int k = 1; k < slots; k++)
      for (int j = 0; j < d; j++) to[j] += context[k * d + j];
    for (int j = 0; slots > 1 && j < d; j++) to[j] *= 1.0f / slots;
  }

  void tell(const float* own, float* to) const {
    for (const Head* head = m.outputs; head->stop; head++) {
      const int count = head->stop - head->start;
      std::memcpy(to + head->start, own + head->start, sizeof(float) * count);
      if (head->classifies) probabilities(to + head->start, count);
    }
  }

  static void probabilities(float* values, int count) {
    float highest = values[0], total = 0.0f;
    for (int i = 1; i < count; i++) highest = values[i] > highest ? values[i] : highest;
    for (int i = 0; i < count; i++) total += values[i] = __builtin_expf(values[i] - highest);
    for (int i = 0; i < count; i++) values[i] /= total;
  }

  // Every share is scaled by (1 - z), then the segment's own modality gains z: shares always sum to 1.
  void share(const Batch& batch, const Row& row) const {
    float* shares = answer_of(m, batch, row.to) + m.n_outputs;
    const float z = gate_of(m, batch, row);
    for (int i = 0; i < batch.n_shares; i++)
      shares[i] = row.from < 0 ? 0.0f : (answer_of(m, batch, row.from) + m.n_outputs)[i] * (1.0f - z);
    shares[row.rank] += z;
  }

  bool is_finite(const Batch& batch, const Row& row) const {
    const float *next = batch.next_contexts + row.to * slots * d, *known = answer_of(m, batch, row.to);
    float nothing = 0.0f;  // 0 times what is finite; NaN otherwise
    for (int i = 0; i < slots * d; i++) nothing += 0.0f * next[i];
    for (int i = 0; i < m.n_outputs + batch.n_shares + 1; i++) nothing += 0.0f * known[i];
    return nothing == 0.0f;
  }
};

}  // namespace grf
