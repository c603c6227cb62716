#include "core/tensors.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "core/error.h"

namespace acm {
namespace {

constexpr const char* kNames[] = {"x",  "gate_logits", "thresholds", "x_mult", "w1",     "s1",
                                  "b1", "v1",          "t1",         "c1",     "h_mult", "h_zero",
                                  "w2", "s2",          "b2",         "y",      "counts"};
static_assert(std::size(kNames) == kNumTensors);

constexpr TensorIndex kInputs[] = {kX, kGateLogits, kThresholds, kW1, kB1, kW2, kB2};
constexpr TensorIndex kQuantizedInputs[] = {kX,  kGateLogits, kThresholds, kXMult, kW1, kS1,
                                            kB1, kHMult,      kHZero,      kW2,    kS2, kB2};
constexpr TensorIndex kGluInputs[] = {kX, kGateLogits, kThresholds, kW1, kB1, kV1, kC1, kW2, kB2};
constexpr TensorIndex kQuantizedGluInputs[] = {kX,  kGateLogits, kThresholds, kXMult, kW1, kS1, kB1, kV1,
                                               kT1, kC1,         kHMult,      kHZero, kW2, kS2, kB2};
static_assert(std::size(kQuantizedGluInputs) == kMostInputs);

constexpr std::int64_t kMaxIndex = std::numeric_limits<std::int32_t>::max();

// Largest D and N*h of int8 products: 128 * 127 * 130,000 < 2^31, so an int32 sum cannot overflow.
constexpr std::int64_t kMaxSum = 130'000;

constexpr std::int64_t kPackedValues = 4;  // int8 values in an int32

bool is_int8(TensorIndex tensor) {
  return tensor == kW1 || tensor == kV1 || tensor == kHZero || tensor == kW2;
}

void check_types(Operator op, const Tensors& tensors) {
  const Type type = tensors[kX].type;
  if (!is_element_type(type)) {
    fail("x is ", name_of(type), "; it must be float32, float16 or bfloat16");
  }
  for (std::int32_t i = 0; i < num_tensors(op); ++i) {
    const TensorIndex tensor = tensor_at(op, i);
    check_type(op, tensor, tensors[tensor].type, type);
  }
}

void check_rank(const Tensors& tensors, TensorIndex tensor, std::int32_t expected) {
  const Shape& shape = tensors[tensor].shape;
  if (shape.rank != expected) {
    fail(name_of(tensor), " has rank ", shape.rank, ", expected ", expected);
  }
}

void check_shape(const Tensors& tensors, TensorIndex tensor, std::initializer_list<std::int64_t> expected) {
  check_rank(tensors, tensor, static_cast<std::int32_t>(expected.size()));
  Shape wanted;
  for (const std::int64_t dim : expected) {
    wanted.dims[static_cast<std::size_t>(wanted.rank++)] = dim;
  }
  const Shape& found = tensors[tensor].shape;
  if (found.dims != wanted.dims) {
    fail(name_of(tensor), " has shape ", text_of(found), ", expected ", text_of(wanted));
  }
}

// The shape of a packed tensor of this many int8 values.
void check_packed_shape(const Tensors& tensors, TensorIndex tensor, std::int64_t values) {
  check_shape(tensors, tensor, {ceil_div(values, kPackedValues)});
}

// N*h, from a tensor with that dimension; w1 of the int8 operators is flat.
std::int64_t width_of(const Signature& signature, const Tensors& tensors) {
  const bool quantized = is_quantized(signature.op);
  const TensorIndex tensor = quantized ? kS1 : kW1;
  check_rank(tensors, tensor, quantized ? 1 : 2);
  const std::int64_t width = tensors[tensor].shape.last();
  if (width < 1 || width % signature.num_learners != 0) {
    fail("N*h is ", width, " in ", name_of(tensor),
         ", which is not a positive multiple of num_learners = ", signature.num_learners);
  }
  return width;
}

// The second weight of GLU learners and what belongs to it; they have the shapes of w1, s1 and b1.
void check_glu_shapes(const Tensors& tensors, bool quantized, std::int64_t d, std::int64_t width) {
  if (quantized) {
    check_packed_shape(tensors, kV1, checked_multiply(d, width));
    check_shape(tensors, kT1, {width});
  } else {
    check_shape(tensors, kV1, {d, width});
  }
  check_shape(tensors, kC1, {width});
}

// Those tensors of the int8 operators that the ones in float do not have in this shape.
void check_quantized_shapes(const Tensors& tensors, std::int64_t n, std::int64_t d, std::int64_t width) {
  check_shape(tensors, kXMult, {d});
  check_packed_shape(tensors, kW1, checked_multiply(d, width));
  check_shape(tensors, kS1, {width});
  check_shape(tensors, kHMult, {n});
  check_packed_shape(tensors, kHZero, n);
  check_packed_shape(tensors, kW2, checked_multiply(d, width));
  check_shape(tensors, kS2, {d});
}

// The shape must be the leading dimensions of x, followed by `last` unless that is negative.
void check_leading(const Tensors& tensors, TensorIndex tensor, std::int64_t last) {
  Shape wanted = tensors[kX].shape;
  --wanted.rank;
  wanted.dims[static_cast<std::size_t>(wanted.rank)] = 0;
  if (last >= 0) {
    wanted.dims[static_cast<std::size_t>(wanted.rank++)] = last;
  }
  const Shape& found = tensors[tensor].shape;
  if (found.rank != wanted.rank || found.dims != wanted.dims) {
    fail(name_of(tensor), " has shape ", text_of(found), ", expected ", text_of(wanted), " with x of shape ",
         text_of(tensors[kX].shape));
  }
}

std::int64_t count_tokens(const Shape& x) {
  std::int64_t tokens = 1;
  bool empty = false;
  for (std::int32_t i = 0; i + 1 < x.rank; ++i) {
    const std::int64_t dim = x.dims[static_cast<std::size_t>(i)];
    if (dim < 0) {
      fail("x has shape ", text_of(x), "; every dimension must be known");
    }
    empty = empty || dim == 0;
    tokens = dim == 0 || tokens > kMaxTokens / dim ? kMaxTokens + 1 : tokens * dim;
  }
  if (empty) {
    return 0;
  }
  if (tokens > kMaxTokens) {
    fail("x has shape ", text_of(x), "; the kernels support up to ", kMaxTokens, " tokens");
  }
  return tokens;
}

}  // namespace

Span<TensorIndex> inputs_of(Operator op) {
  switch (op) {
    case Operator::quantized_gated_learners:
      return {kQuantizedInputs, std::size(kQuantizedInputs)};
    case Operator::glu_gated_learners:
      return {kGluInputs, std::size(kGluInputs)};
    case Operator::quantized_glu_gated_learners:
      return {kQuantizedGluInputs, std::size(kQuantizedGluInputs)};
    case Operator::gated_learners:
      break;
  }
  return {kInputs, std::size(kInputs)};
}

std::int32_t num_inputs(Operator op) { return static_cast<std::int32_t>(inputs_of(op).size()); }

std::int32_t num_tensors(Operator op) { return num_inputs(op) + kNumOutputs; }

TensorIndex tensor_at(Operator op, std::int32_t position) {
  if (position < num_inputs(op)) {
    return inputs_of(op)[static_cast<std::size_t>(position)];
  }
  return position == num_inputs(op) ? kY : kCounts;
}

const char* name_of(TensorIndex tensor) { return kNames[tensor]; }

const char* name_of(Type type) {
  switch (type) {
    case Type::float32:
      return "float32";
    case Type::float16:
      return "float16";
    case Type::bfloat16:
      return "bfloat16";
    case Type::int32:
      return "int32";
    case Type::int8:
      return "int8";
    case Type::other:
      break;
  }
  return "of another type";
}

std::string text_of(const Shape& shape) {
  std::string content;
  for (std::int32_t i = 0; i < shape.rank; ++i) {
    content += text(i ? ", " : "", shape.dims[static_cast<std::size_t>(i)]);
  }
  return "[" + content + "]";
}

Type expected_type(Operator op, TensorIndex tensor, Type type_of_x) {
  switch (tensor) {
    case kX:
    case kY:
      return type_of_x;
    case kGateLogits:
    case kThresholds:
      return Type::float32;
    case kCounts:
      return Type::int32;
    default:
      break;
  }
  if (!is_quantized(op)) {
    return type_of_x;
  }
  return is_int8(tensor) ? Type::int32 : Type::float32;
}

void check_type(Operator op, TensorIndex tensor, Type type, Type type_of_x) {
  const Type expected = expected_type(op, tensor, type_of_x);
  if (type == expected) {
    return;
  }
  if (is_quantized(op) && is_int8(tensor) && type == Type::int8) {
    fail(name_of(tensor), " is int8; files for TensorRT pack int8 values into int32: rewrite this file with ",
         "acm-export build-engine --save-onnx FILE");
  }
  fail(name_of(tensor), " is ", name_of(type), "; with x of ", name_of(type_of_x), " it must be ",
       name_of(expected));
}

bool is_element_type(Type type) {
  return type == Type::float32 || type == Type::float16 || type == Type::bfloat16;
}

std::int64_t size_of(Type type) { return type == Type::float32 ? 4 : 2; }

Precision precision_of(const Signature& signature, Type type) {
  if (is_quantized(signature.op)) {
    return Precision::kInt8;
  }
  if (type != Type::float32) {
    return Precision::kHalf;
  }
  return signature.allow_tf32 ? Precision::kTf32 : Precision::kFp32;
}

Problem check(const Signature& signature, const Tensors& tensors) {
  const bool quantized = is_quantized(signature.op);
  check_types(signature.op, tensors);
  const Shape& x = tensors[kX].shape;
  if (x.rank < 1 || x.rank > kMaxRank) {
    fail("x has rank ", x.rank, ", expected 1 to ", kMaxRank);
  }
  const std::int64_t n = signature.num_learners;
  const std::int64_t d = x.last();
  if (d < 1 || d > kMaxIndex) {
    fail("x has shape ", text_of(x), "; D must be in 1..", kMaxIndex);
  }
  const std::int64_t width = width_of(signature, tensors);
  if (quantized && std::max(d, width) > kMaxSum) {
    fail("D is ", d, " and N*h is ", width, "; int32 sums of int8 products allow at most ", kMaxSum,
         " of each");
  }
  const std::int64_t h = width / n;
  // N * padded h > kMaxIndex; the product could overflow
  if (ceil_div(h, kHiddenMultiple) > kMaxIndex / (n * kHiddenMultiple)) {
    fail("N*h is ", width, " in w1; the kernels support up to ", kMaxIndex);
  }
  check_shape(tensors, kThresholds, {n});
  if (quantized) {
    check_quantized_shapes(tensors, n, d, width);
  } else {
    check_shape(tensors, kW1, {d, width});
    check_shape(tensors, kW2, {width, d});
  }
  check_shape(tensors, kB1, {width});
  if (is_glu(signature.op)) {
    check_glu_shapes(tensors, quantized, d, width);
  }
  check_shape(tensors, kB2, {n + 1, d});
  check_leading(tensors, kGateLogits, signature.num_choices());
  check_leading(tensors, kY, d);
  check_leading(tensors, kCounts, -1);
  const std::int64_t element_size = quantized ? kInt8Bytes : size_of(tensors[kX].type);
  return {count_tokens(x), d, h, n, signature.min_learners, element_size, is_glu(signature.op)};
}

}  // namespace acm
