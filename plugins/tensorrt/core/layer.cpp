#include "core/layer.h"

#include <algorithm>

#include "core/error.h"

namespace acm {
namespace {

void check_pointers(Operator op, const Pointers& pointers) {
  for (std::int32_t i = 0; i < num_tensors(op); ++i) {
    const TensorIndex tensor = tensor_at(op, i);
    if (!pointers.tensors[tensor]) {
      fail("the address of ", name_of(tensor), " is null");
    }
  }
  if (!pointers.workspace) {
    fail("the address of the workspace is null");
  }
}

}  // namespace

Layer::Layer(const Signature& signature) : signature_(signature) { acm::check(signature); }

Problem Layer::plan_for(const Tensors& largest) {
  const Problem problem = acm::check(signature_, largest);
  most_tokens_ = planned_ ? std::max(most_tokens_, problem.tokens) : problem.tokens;
  planned_ = true;
  return problem;
}

std::size_t Layer::workspace_size(const Tensors& tensors) const {
  const Problem problem = acm::check(signature_, tensors);
  return problem.tokens == 0 ? 0 : static_cast<std::size_t>(workspace(problem).size);
}

void Layer::prepare(const Tensors& tensors) { load(check(tensors), tensors[kX].type); }

void Layer::enqueue(const Tensors& tensors, const Pointers& pointers, Stream stream) {
  const Problem problem = check(tensors);
  if (problem.tokens == 0) {
    return;
  }
  check_pointers(signature_.op, pointers);
  if (!kernels_ || !kernels_->serve(problem, tensors[kX].type)) {
    load(problem, tensors[kX].type);
  }
  run(*kernels_, problem, signature_.activation, pointers, entry_, stream);
}

std::vector<std::int32_t> Layer::tactics(const Tensors& tensors) const {
  const Problem problem = check(tensors);
  const Device device = driver().current_device();
  const std::int32_t arch = architecture_for(device.major, device.minor, device.integrated);
  const Precision precision = precision_of(signature_, tensors[kX].type);
  const bool is_aligned = aligned(problem, {});
  std::vector<std::int32_t> found;
  for (std::size_t i = 0; i < pack().entries.size(); ++i) {
    const Entry& entry = pack().entries[i];
    if (entry.is_for(arch, precision, driver().encodes_tensor_maps()) && entry.can_run(problem, is_aligned)) {
      found.push_back(static_cast<std::int32_t>(i) + 1);
    }
  }
  return found;
}

void Layer::set_tactic(std::int32_t tactic) {
  const auto count = static_cast<std::int32_t>(pack().entries.size());
  if (tactic < 0 || tactic > count) {
    fail("tactic ", tactic, " does not exist; there are 0 to ", count);
  }
  entry_ = tactic - 1;
}

Problem Layer::check(const Tensors& tensors) const {
  const Problem problem = acm::check(signature_, tensors);
  if (problem.tokens > most_tokens_) {
    fail("x has ", problem.tokens, " tokens; the optimization profile allows up to ", most_tokens_);
  }
  return problem;
}

void Layer::load(const Problem& problem, Type type) {
  kernels_ = std::make_shared<const LayerKernels>(signature_, problem, type);
}

}  // namespace acm
