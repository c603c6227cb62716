// One GatedLearners layer as an execution context holds it: what both adapters are made of.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "core/launch.h"

namespace acm {

class Layer {
 public:
  // Throws where an attribute is out of range.
  explicit Layer(const Signature& signature);

  const Signature& signature() const { return signature_; }

  // Remembers the largest number of tokens that was planned for; more are refused from then on. Checks as
  // `check`.
  Problem plan_for(const Tensors& largest);

  // Bytes of workspace for these shapes, and for all with fewer tokens.
  std::size_t workspace_size(const Tensors& tensors) const;

  // Checks types and shapes and loads all kernels that the layer may need on the current device.
  void prepare(const Tensors& tensors);

  // Queues the layer on a stream. With 0 tokens there is nothing to do. Throws before the first launch where
  // something is wrong with the arguments.
  void enqueue(const Tensors& tensors, const Pointers& pointers, Stream stream);

  // Tactics are the indices of tile table entries that can run these shapes on the current device, plus 1; 0
  // leaves the choice to the table.
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
