// The tensors of the operators, their types and shapes, and the checks of docs/op.md.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/plan.h"
#include "core/signature.h"
#include "core/span.h"
#include "core/tiles.h"

namespace acm {

// Every tensor that an operator may have; `inputs_of` says which ones it has.
enum TensorIndex {
  kX,
  kGateLogits,
  kThresholds,
  kXMult,
  kW1,
  kS1,
  kB1,
  kV1,
  kT1,
  kC1,
  kHMult,
  kHZero,
  kW2,
  kS2,
  kB2,
  kY,
  kCounts,
  kNumTensors
};

constexpr std::int32_t kNumOutputs = 2;  // y and counts
constexpr std::int32_t kMostInputs = 15;
constexpr std::int32_t kMaxRank = 8;

// The int8 tensors of the operators (w1, v1, h_zero, w2) arrive packed: flat int32 tensors with four values
// in each element, weights transposed (acm_export/onnx_file/lowering/pack_int8.py).
enum class Type { float32, float16, bfloat16, int32, int8, other };

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

// Inputs of an operator in order.
Span<TensorIndex> inputs_of(Operator op);

// Number of inputs, and number of inputs and outputs.
std::int32_t num_inputs(Operator op);
std::int32_t num_tensors(Operator op);

// The tensor at a position among inputs and outputs.
TensorIndex tensor_at(Operator op, std::int32_t position);

const char* name_of(TensorIndex tensor);
const char* name_of(Type type);
std::string text_of(const Shape& shape);

// Type that a tensor must have, given the type of x.
Type expected_type(Operator op, TensorIndex tensor, Type type_of_x);

// Throws if the type of a tensor does not fit that of x; the message says what to do if it is not packed.
void check_type(Operator op, TensorIndex tensor, Type type, Type type_of_x);

// Whether T may be this type.
bool is_element_type(Type type);

std::int64_t size_of(Type type);
Precision precision_of(const Signature& signature, Type type);

// Checks that all types and shapes fit together; 0 tokens are allowed. Throws an Error with both values.
Problem check(const Signature& signature, const Tensors& tensors);

}  // namespace acm
