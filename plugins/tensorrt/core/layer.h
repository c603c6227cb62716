// One layer of an execution context, of any operator; both adapters use it.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/launch.h"

namespace acm {

class Layer {
 public:
  // Throws if an attribute is out of range.
  explicit Layer(const Signature& signature);

  const Signature& signature() const { return signature_; }

  // Checks the shapes, and remembers the largest number of tokens that was planned for; more are rejected
  // afterwards.
  Problem plan_for(const Tensors& largest);

  // Bytes of workspace for these shapes and for all with fewer tokens.
  std::size_t workspace_size(const Tensors& tensors) const;

  // Checks types and shapes, and loads all kernels that the layer may need on the current device.
  void prepare(const Tensors& tensors);

  // Enqueues the layer on a stream; does nothing for 0 tokens. Throws before the first launch if an argument
  // is wrong.
  void enqueue(const Tensors& tensors, const Pointers& pointers, Stream stream);

  // A tactic is 1 + the index of a tile table entry that can run these shapes on the current device; tactic 0
  // lets the table choose.
  std::vector<std::int32_t> tactics(const Tensors& tensors) const;
  void set_tactic(std::int32_t tactic);

 private:
  Problem check(const Tensors& tensors) const;
  void load(const Problem& problem, Type type);

  Signature signature_;
  std::int64_t most_tokens_ = kMaxTokens;
  bool planned_ = false;
  std::int32_t entry_ = kEntryOfTable;
  std::shared_ptr<const LayerKernels> kernels_;
};

}  // namespace acm
