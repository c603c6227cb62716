// The kernels in this library. embed.py writes the table (pack_table.cpp) and the cubins that it refers to.
#pragma once

#include <cstdint>
#include <string>

#include "core/span.h"
#include "core/tiles.h"

namespace acm {

enum class KernelName {
  up,
  up_glu,
  down,
  down_split,
  up_hopper,
  down_hopper,
  quantize_rows,
  up_int8,
  up_int8_glu,
  down_int8,
  down_split_int8,
  route_one_block,
  count_tokens,
  place_tokens
};

// T of a kernel; `any` if T does not matter.
enum class KernelType { any, fp16, bf16, fp32, tf32 };

// Every run-time argument of the kernels, named as in their sources.
enum class Argument {
  // pointers: the tensors of the operators in the order of TensorIndex, then the workspace
  x,
  gate_logits,
  thresholds,
  x_mult,
  w1,
  s1,
  b1,
  v1,
  t1,
  c1,
  h_mult,
  h_zero,
  w2,
  s2,
  b2,
  y,
  counts,
  w1_t,  // weights of the int8 operators, which are transposed
  v1_t,
  w2_t,
  q,
  order,
  reach,
  histograms,
  arrivals,
  hidden,
  partial,
  // int32
  num_tokens,
  num_choices,
  min_learners,
  num_pieces,
  num_arrivals,
  first_row,
  num_rows,
  model_dim,
  hidden_dim,
  num_learners,
  activation,
  // tensor maps
  w1_map,
  hidden_map,
  w2_map,
  kCount,
};

constexpr std::int32_t kNoActivation = -1;

struct Kernel {
  std::int32_t arch;
  KernelName name;
  KernelType type;
  std::int32_t entry;       // index into the tile table, or CHOICES of a routing kernel
  bool even;                // without masks
  std::int32_t activation;  // that it applies; kNoActivation: none, or the one that a launch names
  const char* symbol;
  std::int32_t threads;       // per block
  std::int32_t shared_bytes;  // dynamic shared memory per block
  Span<Argument> arguments;   // in order; Triton's kernels take two more pointers, which may be null
  std::uint64_t offset;       // of the cubin in `cubins`
};

struct Pack {
  const char* triton;         // version of its compiler
  const char* source_digest;  // SHA-256 of the sources of the kernels
  Span<Entry> entries;
  Span<Kernel> kernels;
  const unsigned char* cubins;
};

const Pack& pack();

// For messages, as in "sm_80, sm_90".
std::string architectures();

// The architecture whose kernels a GPU runs: its own, or sm_80 on discrete 8.x chips. Binaries are never
// shared between Tegra and desktop chips. Throws if the pack has no kernels for the GPU.
std::int32_t architecture_for(std::int32_t major, std::int32_t minor, bool integrated);

// Throws if the pack has no such kernel.
const Kernel& find_kernel(std::int32_t arch, KernelName name, KernelType type, std::int32_t entry, bool even,
                          std::int32_t activation = kNoActivation);

}  // namespace acm
