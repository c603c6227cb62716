// Activations for values that are rounded to T afterwards; plugins/kernels/activation.py explains the formulas.
#pragma once

#include "device.cuh"

namespace acm {

// Indices into acm_export.op.ACTIVATIONS.
enum Activation { kGelu, kGeluTanh, kRelu, kSilu, kIdentity };

template <int Kind>
__device__ __forceinline__ float activate(float v) {
  if constexpr (Kind == kIdentity) {
    return v;
  } else if constexpr (Kind == kRelu) {
    return v < 0.0f ? 0.0f : v;  // NaN stays NaN
  } else {
    // v * sigmoid(2 s) = v / 2 * (1 + tanh(s)), with s = v * q(v^2)
    float s;
    if constexpr (Kind == kSilu) {
      s = 0.5f * v;
    } else {
      const float square = v * v;
      if constexpr (Kind == kGeluTanh) {
        s = v * fmaf(0.035677408136300125f, square, 0.7978845608028654f);
      } else {
        const float bounded = fminf(square, 20.0f);
        s = v * fmaf(fmaf(-3.5151942e-4f, bounded, 3.7005663e-2f), bounded, 0.79750786f);
      }
    }
    const float half = 0.5f * v;
    return fmaf(half, tanh_approx(s), half);
  }
}

}  // namespace acm
