// The nine tensors of the operator, their types and shapes, and the checks of docs/op.md.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/plan.h"
#include "core/signature.h"
#include "core/tiles.h"

namespace acm {

enum TensorIndex { kX, kGateLogits, kThresholds, kW1, kB1, kW2, kB2, kY, kCounts, kNumTensors };

constexpr std::int32_t kNumInputs = 7;
constexpr std::int32_t kNumOutputs = 2;
constexpr std::int32_t kMaxRank = 8;

enum class Type { float32, float16, bfloat16, int32, other };

struct Shape {
  std::int32_t rank = 0;
  std::array<std::int64_t, kMaxRank> dims{};

  std::int64_t last() const { return dims[static_cast<std::size_t>(rank - 1)]; }
};

struct Tensor {
  Type type = Type::other;
  Shape shape;
};

using Tensors = std::array<Tensor, kNumTensors>;

const char* name_of(TensorIndex tensor);
const char* name_of(Type type);
std::string text_of(const Shape& shape);

// Type that a tensor must have, given the type of x.
Type expected_type(TensorIndex tensor, Type type_of_x);

// Whether T may be this type.
bool is_element_type(Type type);

std::int64_t size_of(Type type);
Precision precision_of(Type type, bool allow_tf32);

// Checks that all types and shapes fit together; 0 tokens are allowed. Throws an Error with both values.
Problem check(const Signature& signature, const Tensors& tensors);

}  // namespace acm
