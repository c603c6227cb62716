// Types shared by the C interfaces of both harness libraries. Test only.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

#include "core/launch.h"
#include "core/tensors.h"

#define ACM_API extern "C" __attribute__((visibility("default")))

// One tensor: type 0 float32, 1 float16, 2 bfloat16, 3 int32, 4 int8, 5 something else; format 0 linear, 1
// other.
struct AcmTensor {
  std::int32_t type;
  std::int32_t format;
  std::int32_t rank;
  std::int64_t dims[acm::kMaxRank];
};

// Device addresses of one call, in the order of docs/op.md; an operator may have fewer inputs.
struct AcmPointers {
  const void* inputs[acm::kMostInputs];
  void* outputs[acm::kNumOutputs];
  void* workspace;
  void* stream;
};
