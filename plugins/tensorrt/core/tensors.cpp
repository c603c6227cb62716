#include "core/tensors.h"

#include <limits>

#include "core/error.h"

namespace acm {
namespace {

constexpr const char* kNames[] = {"x", "gate_logits", "thresholds", "w1", "b1", "w2", "b2", "y", "counts"};
constexpr std::int64_t kMaxIndex = std::numeric_limits<std::int32_t>::max();

void check_types(const Tensors& tensors) {
  const Type type = tensors[kX].type;
  if (!is_element_type(type)) {
    fail("x is ", name_of(type), "; it must be float32, float16 or bfloat16");
  }
  for (int i = kX; i < kNumTensors; ++i) {
    const auto tensor = static_cast<TensorIndex>(i);
    const Type expected = expected_type(tensor, type);
    if (tensors[i].type != expected) {
      fail(name_of(tensor), " is ", name_of(tensors[i].type), "; with x of ", name_of(type), " it must be ",
           name_of(expected));
    }
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

Type expected_type(TensorIndex tensor, Type type_of_x) {
  switch (tensor) {
    case kGateLogits:
    case kThresholds:
      return Type::float32;
    case kCounts:
      return Type::int32;
    default:
      return type_of_x;
  }
}

bool is_element_type(Type type) {
  return type == Type::float32 || type == Type::float16 || type == Type::bfloat16;
}

std::int64_t size_of(Type type) { return type == Type::float32 ? 4 : 2; }

Precision precision_of(Type type, bool allow_tf32) {
  if (type != Type::float32) {
    return Precision::kHalf;
  }
  return allow_tf32 ? Precision::kTf32 : Precision::kFp32;
}

Problem check(const Signature& signature, const Tensors& tensors) {
  check_types(tensors);
  const Shape& x = tensors[kX].shape;
  if (x.rank < 1 || x.rank > kMaxRank) {
    fail("x has rank ", x.rank, ", expected 1 to ", kMaxRank);
  }
  check_rank(tensors, kW1, 2);
  const std::int64_t n = signature.num_learners;
  const std::int64_t d = x.last();
  const std::int64_t width = tensors[kW1].shape.last();
  if (d < 1 || d > kMaxIndex) {
    fail("x has shape ", text_of(x), "; D must be in 1..", kMaxIndex);
  }
  if (width < 1 || width % n != 0) {
    fail("N*h is ", width, " in w1, which is not a positive multiple of num_learners = ", n);
  }
  const std::int64_t h = width / n;
  // N * padded h > kMaxIndex; the product could overflow
  if (ceil_div(h, kHiddenMultiple) > kMaxIndex / (n * kHiddenMultiple)) {
    fail("N*h is ", width, " in w1; the kernels support up to ", kMaxIndex);
  }
  check_shape(tensors, kThresholds, {n});
  check_shape(tensors, kW1, {d, width});
  check_shape(tensors, kB1, {width});
  check_shape(tensors, kW2, {width, d});
  check_shape(tensors, kB2, {n + 1, d});
  check_leading(tensors, kGateLogits, signature.num_choices());
  check_leading(tensors, kY, d);
  check_leading(tensors, kCounts, -1);
  return {count_tokens(x), d, h, n, signature.min_learners, size_of(tensors[kX].type)};
}

}  // namespace acm
