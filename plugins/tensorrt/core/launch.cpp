#include "core/launch.h"

#include <algorithm>

#include "core/arguments.h"
#include "core/hopper.h"

namespace acm {
namespace {

static_assert(static_cast<int>(Argument::x) == kX && static_cast<int>(Argument::counts) == kCounts,
              "arguments begin with the tensors, in the same order");

void set_tensors(Arguments& arguments, const Workspace& layout, const Pointers& pointers) {
  const auto* space = static_cast<const unsigned char*>(pointers.workspace);
  for (std::int32_t i = 0; i < kNumTensors; ++i) {
    arguments.set(static_cast<Argument>(i), pointers.tensors[static_cast<std::size_t>(i)]);
  }
  arguments.set(Argument::w1_t, pointers.tensors[kW1]);
  arguments.set(Argument::v1_t, pointers.tensors[kV1]);
  arguments.set(Argument::w2_t, pointers.tensors[kW2]);
  arguments.set(Argument::q, space + layout.q);
  arguments.set(Argument::reach, space + layout.reach);
  arguments.set(Argument::order, space + layout.order);
  arguments.set(Argument::histograms, space + layout.histograms);
  arguments.set(Argument::arrivals, space + layout.arrivals);
  arguments.set(Argument::hidden, space + layout.hidden);
  arguments.set(Argument::partial, space + layout.partial);
}

void set_sizes(Arguments& arguments, const Problem& problem) {
  arguments.set(Argument::num_tokens, problem.tokens);
  arguments.set(Argument::num_choices, problem.num_choices());
  arguments.set(Argument::min_learners, problem.min_learners);
  arguments.set(Argument::num_pieces, routing(problem).num_pieces);
  arguments.set(Argument::model_dim, problem.model_dim);
  arguments.set(Argument::hidden_dim, problem.hidden_dim);
  arguments.set(Argument::num_learners, problem.num_learners);
}

void route(const RoutingKernels& kernels, const Problem& problem, Arguments& arguments, Stream stream) {
  const std::int64_t num_blocks = routing(problem).num_blocks;
  if (num_blocks == 1) {
    arguments.launch(kernels.one_block, {1}, stream);
    return;
  }
  arguments.launch(kernels.count, {num_blocks}, stream);
  arguments.launch(kernels.place, {num_blocks}, stream);
}

std::int32_t choose_entry(const LayerKernels& kernels, const Problem& problem, const Pointers& pointers,
                          std::int32_t forced) {
  const auto& t = pointers.tensors;
  const bool is_aligned =
      aligned(problem, {t[kX], t[kXMult], t[kW1], t[kS1], t[kB1], t[kV1], t[kT1], t[kC1], t[kHMult],
                        t[kHZero], t[kW2], t[kS2], t[kB2], t[kY], pointers.workspace});
  const bool tensor_maps = driver().encodes_tensor_maps();
  if (forced >= 0 && static_cast<std::size_t>(forced) < pack().entries.size()) {
    const Entry& entry = pack().entries[static_cast<std::size_t>(forced)];
    if (entry.is_for(kernels.arch(), kernels.precision(), tensor_maps) &&
        entry.can_run(problem, is_aligned)) {
      return forced;
    }
  }
  return select_entry(kernels.arch(), kernels.precision(), problem, is_aligned, tensor_maps);
}

void run_hopper_gemms(const LayerKernels& kernels, const GemmKernels& gemms, const Problem& problem,
                      const Entry& entry, const Pointers& pointers, const void* hidden, std::int64_t rows,
                      Arguments& arguments, Stream stream) {
  const MapType type = kernels.type() == Type::bfloat16 ? MapType::bfloat16 : MapType::float16;
  const HopperMaps maps = hopper_maps(problem, entry, rows);
  const HopperGrids grids = hopper_grids(problem, entry, rows, kernels.multiprocessors());
  arguments.set(Argument::w1_map, driver().encode(maps.w1, type, pointers.tensors[kW1]));
  arguments.set(Argument::hidden_map, driver().encode(maps.hidden, type, hidden));
  arguments.set(Argument::w2_map, driver().encode(maps.w2, type, pointers.tensors[kW2]));
  arguments.launch(gemms.up, {grids.up}, stream, Start::early);
  arguments.launch(gemms.down, {grids.down}, stream, Start::early);
}

}  // namespace

void run(const LayerKernels& kernels, const Problem& problem, Activation activation, const Pointers& pointers,
         std::int32_t forced, Stream stream) {
  const std::int32_t index = choose_entry(kernels, problem, pointers, forced);
  const Entry& entry = pack().entries[static_cast<std::size_t>(index)];
  const GemmKernels& gemms = kernels.gemms(index);
  const Workspace layout = workspace(problem);
  const void* hidden = static_cast<const unsigned char*>(pointers.workspace) + layout.hidden;
  Arguments arguments;
  set_tensors(arguments, layout, pointers);
  set_sizes(arguments, problem);
  arguments.set(Argument::activation, static_cast<std::int64_t>(activation));
  arguments.set(Argument::num_arrivals, entry.split ? down_grid(problem, entry, problem.tokens) : 0);
  route(kernels.routing(), problem, arguments, stream);
  const std::int64_t chunk_rows = problem.chunk_rows();
  for (std::int64_t first = 0; first < problem.tokens; first += chunk_rows) {
    const std::int64_t rows = std::min(chunk_rows, problem.tokens - first);
    arguments.set(Argument::first_row, first);
    arguments.set(Argument::num_rows, rows);
    if (entry.language == Language::kCuda) {
      run_hopper_gemms(kernels, gemms, problem, entry, pointers, hidden, rows, arguments, stream);
      continue;
    }
    if (kernels.precision() == Precision::kInt8) {
      arguments.launch(kernels.quantize(entry), quantize_grid(problem, rows), stream);
    }
    arguments.launch(gemms.up, {up_grid(problem, entry, rows)}, stream);
    if (entry.split == 0) {
      arguments.launch(gemms.down, {down_grid(problem, entry, rows)}, stream);
      continue;
    }
    const std::int64_t slices = problem.num_learners * entry.split;
    arguments.launch(gemms.down, {down_grid(problem, entry, rows), slices}, stream);
  }
}

}  // namespace acm
