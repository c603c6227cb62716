#include "core/layer_kernels.h"

namespace acm {
namespace {

// Alignments of D and addresses, by which kernels of quantize_rows are found.
constexpr std::int64_t kWideLoads = 16;
constexpr std::int64_t kNarrowLoads = 1;

KernelType kernel_type(Type type, Precision precision) {
  if (precision == Precision::kTf32) {
    return KernelType::tf32;
  }
  switch (type) {
    case Type::float16:
      return KernelType::fp16;
    case Type::bfloat16:
      return KernelType::bf16;
    default:
      return KernelType::fp32;
  }
}

}  // namespace

LayerKernels::LayerKernels(const Signature& signature, const Problem& problem, Type type)
    : device_(driver().current_device()),
      arch_(architecture_for(device_.major, device_.minor, device_.integrated)),
      sizes_(problem),
      type_(type),
      precision_(precision_of(signature, type)),
      gemms_(pack().entries.size()) {
  const std::int64_t choices = acm::routing(problem).choices;
  routing_.one_block = load(KernelName::route_one_block, KernelType::any, choices, false);
  routing_.count = load(KernelName::count_tokens, KernelType::any, choices, false);
  routing_.place = load(KernelName::place_tokens, KernelType::any, choices, false);
  if (precision_ == Precision::kInt8) {
    quantize_.aligned = load(KernelName::quantize_rows, kernel_type(type, precision_), kWideLoads, false);
    quantize_.any = load(KernelName::quantize_rows, kernel_type(type, precision_), kNarrowLoads, false);
  }
  load_gemms(problem, kernel_type(type, precision_), signature.activation);
}

bool LayerKernels::serve(const Problem& problem, Type type) const {
  return type == type_ && problem.model_dim == sizes_.model_dim && problem.hidden_dim == sizes_.hidden_dim &&
         driver().is_current(device_);
}

LoadedKernel LayerKernels::load(KernelName name, KernelType type, std::int64_t entry, bool even,
                                std::int32_t activation) const {
  return modules().load(device_,
                        find_kernel(arch_, name, type, static_cast<std::int32_t>(entry), even, activation));
}

void LayerKernels::load_gemms(const Problem& problem, KernelType type, Activation activation) {
  const bool tensor_maps = driver().encodes_tensor_maps();
  for (std::size_t i = 0; i < gemms_.size(); ++i) {
    const Entry& entry = pack().entries[i];
    if (!entry.is_for(arch_, precision_, tensor_maps) || !entry.fits(problem)) {
      continue;
    }
    const auto index = static_cast<std::int64_t>(i);
    if (entry.language == Language::kCuda) {
      gemms_[i].up = load(KernelName::up_hopper, type, index, false, static_cast<std::int32_t>(activation));
      gemms_[i].down = load(KernelName::down_hopper, type, index, false);
      continue;
    }
    gemms_[i] = gemms_of(entry, index, type, even(problem, entry));
  }
}

GemmKernels LayerKernels::gemms_of(const Entry& entry, std::int64_t index, KernelType type,
                                   Even tiles) const {
  const bool is_int8 = precision_ == Precision::kInt8;
  // the pack has kernels without masks only for these (plugins/kernels/variants.py)
  const bool may_be_even = entry.alignment > 1 && (precision_ == Precision::kHalf || is_int8);
  const bool glu = sizes_.glu;
  tiles = {may_be_even && tiles.up && (!glu || entry.max_tokens == 0), may_be_even && tiles.down};
  if (is_int8) {
    const KernelName down = entry.split ? KernelName::down_split_int8 : KernelName::down_int8;
    const KernelName up = glu ? KernelName::up_int8_glu : KernelName::up_int8;
    return {load(up, KernelType::any, index, tiles.up), load(down, type, index, tiles.down)};
  }
  const KernelName down = entry.split ? KernelName::down_split : KernelName::down;
  const KernelName up = glu ? KernelName::up_glu : KernelName::up;
  return {load(up, type, index, tiles.up), load(down, type, index, tiles.down)};
}

}  // namespace acm
