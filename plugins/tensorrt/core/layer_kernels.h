// The kernels that one layer may launch in one CUDA context. They are looked up and loaded before the first
// launch, so that enqueue neither searches, nor locks, nor allocates.
#pragma once

#include <cstdint>
#include <vector>

#include "core/driver.h"
#include "core/modules.h"
#include "core/plan.h"
#include "core/tensors.h"

namespace acm {

struct RoutingKernels {
  LoadedKernel one_block;
  LoadedKernel count;
  LoadedKernel place;
};

// Kernels of one entry of the tile table. `down` is down_split if the entry splits K. Both are those for
// Hopper if the language of the entry is CUDA.
struct GemmKernels {
  LoadedKernel up;
  LoadedKernel down;
};

// Kernels that round x to int8, for the int8 operators alone.
struct QuantizeKernels {
  LoadedKernel aligned;  // for D and addresses that are multiples of 16
  LoadedKernel any;
};

class LayerKernels {
 public:
  // Loads for the current device. Kernels do not depend on the number of tokens, so any number will do.
  LayerKernels(const Signature& signature, const Problem& problem, Type type);

  // Whether these are the kernels for a problem on the current device.
  bool serve(const Problem& problem, Type type) const;

  std::int32_t arch() const { return arch_; }
  Type type() const { return type_; }
  Precision precision() const { return precision_; }
  std::int32_t multiprocessors() const { return device_.multiprocessors; }
  const RoutingKernels& routing() const { return routing_; }
  const LoadedKernel& quantize(const Entry& entry) const {
    return entry.alignment > 1 ? quantize_.aligned : quantize_.any;
  }
  const GemmKernels& gemms(std::int32_t entry) const { return gemms_[static_cast<std::size_t>(entry)]; }

 private:
  LoadedKernel load(KernelName name, KernelType type, std::int64_t entry, bool even,
                    std::int32_t activation = kNoActivation) const;
  void load_gemms(const Problem& problem, KernelType type, Activation activation);
  GemmKernels gemms_of(const Entry& entry, std::int64_t index, KernelType type, Even tiles) const;

  Device device_;
  std::int32_t arch_;
  Problem sizes_;
  Type type_;
  Precision precision_;
  RoutingKernels routing_;
  QuantizeKernels quantize_;
  std::vector<GemmKernels>
      gemms_;  // by index in the tile table; empty for entries that cannot serve the layer
};

}  // namespace acm
