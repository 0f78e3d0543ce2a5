// A register full of floats, and the functions that the step needs of it.
//
// Compiled once for each instruction set (setup.py): 16 floats with AVX-512, 8 with AVX2, 4 with NEON. Nothing is
// reassociated, and where a product and a sum are one instruction the source says so (`fused`): left to compilers, GCC 13
// would fuse in a tile of some rows and not in one of others. So a row's bits depend on nothing but that row, whoever
// compiles this.
//
// GRF_NEON on another processor than ARM computes what NEON does, bit by bit, in that processor's instructions: for tests.
#pragma once

#if defined(GRF_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#elif !defined(GRF_NEON)
#include <immintrin.h>
#endif

#include <cstdint>

namespace grf {

#if defined(GRF_NEON)
constexpr int LANES = 4;
#elif defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// How many floats rows of `count` take: to the next whole register.
constexpr int padded(int count) { return (count + LANES - 1) / LANES * LANES; }

static inline vec load(const float* from) { return *reinterpret_cast<const unaligned_vec*>(from); }
static inline void store(float* to, vec value) { *reinterpret_cast<unaligned_vec*>(to) = value; }

#if defined(GRF_NEON)
static inline vec all(float value) { return vec{value, value, value, value}; }

static inline vec fused(vec a, vec b, vec c) {  // a * b + c, rounded once
#if defined(__aarch64__)
  return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

// As Intel's, and unlike NEON's own, b if one of them is NaN.
static inline vec larger(vec a, vec b) { return a > b ? a : b; }
static inline vec smaller(vec a, vec b) { return a < b ? a : b; }

static inline float sum(vec a) { return (a[0] + a[2]) + (a[1] + a[3]); }

static inline float largest(vec a) {
  const float even = a[0] > a[2] ? a[0] : a[2], odd = a[1] > a[3] ? a[1] : a[3];
  return even > odd ? even : odd;
}
#elif defined(__AVX512F__)
static inline vec all(float value) { return _mm512_set1_ps(value); }
static inline vec fused(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec larger(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec smaller(vec a, vec b) { return _mm512_min_ps(a, b); }
static inline float sum(vec a) { return _mm512_reduce_add_ps(a); }
static inline float largest(vec a) { return _mm512_reduce_max_ps(a); }
#else
static inline vec all(float value) { return _mm256_set1_ps(value); }
static inline vec fused(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec larger(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec smaller(vec a, vec b) { return _mm256_min_ps(a, b); }

static inline float sum(vec a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

static inline float largest(vec a) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
#endif

// The first `count` lanes of a, the rest 0.
static inline vec first_lanes(vec a, int count) {
  ivec lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  return lane < count ? a : vec{};
}

// e^x to 2 units in the last place; at least e^-87, so never denormal. NaN stays NaN.
static inline vec exponential(vec x) {
  x = larger(all(-87.0f), smaller(all(88.0f), x));  // in this order: of two, min and max return the second if one is NaN
  const vec to_integer = all(12582912.0f);          // 1.5 * 2^23: what is added to it is rounded
  const vec shifted = fused(x, all(1.44269504f), to_integer);
  const vec n = shifted - to_integer;
  const vec r = fused(n, all(2.12194440e-4f), fused(n, all(-0.693359375f), x));
  vec p = fused(r, all(1.9875691500e-4f), all(1.3981999507e-3f));  // Cephes, expf
  p = fused(p, r, all(8.3334519073e-3f));
  p = fused(p, r, all(4.1665795894e-2f));
  p = fused(p, r, all(1.6666665459e-1f));
  p = fused(p, r, all(5.0000001201e-1f));
  p = fused(p, r * r, r + 1.0f);
  const ivec two_to_n = (reinterpret_cast<ivec>(shifted) + (127 - 0x4B400000)) << 23;
  return p * reinterpret_cast<vec>(two_to_n);
}

static inline vec sigmoid(vec x) { return 1.0f / (exponential(-x) + 1.0f); }
static inline vec tanh(vec x) { return 2.0f / (exponential(x * -2.0f) + 1.0f) - 1.0f; }

// x P(X <= x) for a normal X, to 8e-7: P - 1/2 is x times a polynomial in x^2 up to 5.6, beyond which it is 1/2. The
// polynomial has the least largest error of its degree, found by linear programming; in u, from -1 to 1, it rounds least.
static inline vec gelu(vec x) {
  const float far = 5.6f;
  const vec near = larger(all(-far), smaller(all(far), x));
  const vec u = fused(near * near, all(2 / (far * far)), all(-1.0f));
  static const float terms[] = {
      0.000576544262f, -0.00167852559f, 0.00162174611f, -0.00155691081f, 0.00435565505f,
      -0.00835084729f, 0.0115522016f, -0.0154939918f, 0.0207751133f, -0.0263533387f,
      0.0319928117f, -0.038342718f, 0.0469797105f, -0.063051343f, 0.12625961f};
  vec p = all(terms[0]);
#pragma GCC unroll 16
  for (unsigned i = 1; i < sizeof terms / sizeof *terms; i++) p = fused(p, u, all(terms[i]));
  const vec probability = fused(near, p, all(0.5f));
  return x < -far ? vec{} : x * probability;
}

}  // namespace grf
