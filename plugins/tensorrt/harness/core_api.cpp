// C interface to the core, without TensorRT, for tests that compare plans and launches with the Python side.
//
//   const char* acm_error()                                  error of the last call that failed
//   int acm_plan(problem[7], out[15])                        problem as the fields of acm::Problem; out: 8
//                                                            offsets of the workspace, chunk rows, partial
//                                                            bytes, arrivals; block, choices, pieces and
//                                                            blocks of routing
//   int acm_splits(problem[7], split)
//   int acm_select(arch, precision, problem[7], aligned, tensor_maps)
//                                                            index, or -1
//   int acm_grids(problem[7], entry, rows, out[4])           0, or -1; out: GEMM 1, GEMM 2, even of each
//   void acm_quantize_grid(problem[7], rows, out[2])
//   int acm_tensor_maps(problem[7], entry, rows, out[24])    0, or -1; out: dims, strides, box of W1, of
//                                                            hidden and of W2
//   int acm_hopper_grids(problem[7], entry, rows, multiprocessors, out[2])
//                                                            0, or -1
//   int acm_architecture(major, minor, integrated)           80 and so on, or -1
//   void* acm_layer_create(op, num, min, activation, tf32)   op: number of acm::Operator
//                                                            or null; below, `tensors` are the inputs and
//                                                            outputs of the operator in order
//   int acm_layer_prepare(layer, tensors)                 0, or -1
//   int acm_layer_enqueue(layer, tensors, pointers)       0, or -1
//   int64 acm_layer_workspace(layer, tensors)             bytes, or -1
//   int acm_layer_tactics(layer, tensors, out, capacity)  how many, or -1
//   int acm_layer_set_tactic(layer, tactic)                  0, or -1
//   void acm_layer_destroy(layer)
#include <algorithm>

#include "core/error.h"
#include "core/hopper.h"
#include "core/layer.h"
#include "harness/api.h"

namespace {

thread_local std::string last_error;

template <typename R, typename F>
R guarded(R failure, F&& action) {
  try {
    return action();
  } catch (const std::exception& error) {
    last_error = error.what();
    return failure;
  }
}

acm::Problem problem_of(const std::int64_t* p) { return {p[0], p[1], p[2], p[3], p[4], p[5], p[6] != 0}; }

acm::Layer& layer_of(void* layer) { return *static_cast<acm::Layer*>(layer); }

acm::Operator operator_of(void* layer) { return layer_of(layer).signature().op; }

acm::Tensors tensors_of(void* layer, const AcmTensor* tensors) {
  acm::Tensors converted;
  for (std::int32_t i = 0; i < acm::num_tensors(operator_of(layer)); ++i) {
    acm::Tensor& tensor = converted[acm::tensor_at(operator_of(layer), i)];
    tensor.type = static_cast<acm::Type>(tensors[i].type);
    tensor.shape.rank = tensors[i].rank;
    std::copy_n(tensors[i].dims, tensors[i].rank, tensor.shape.dims.begin());
  }
  return converted;
}

acm::Pointers pointers_of(void* layer, const AcmPointers& p) {
  acm::Pointers pointers;
  for (std::int32_t i = 0; i < acm::num_inputs(operator_of(layer)); ++i) {
    pointers.tensors[acm::tensor_at(operator_of(layer), i)] = p.inputs[i];
  }
  pointers.tensors[acm::kY] = p.outputs[0];
  pointers.tensors[acm::kCounts] = p.outputs[1];
  pointers.workspace = p.workspace;
  return pointers;
}

}  // namespace

ACM_API const char* acm_error() { return last_error.c_str(); }

ACM_API int acm_plan(const std::int64_t* problem, std::int64_t* out) {
  return guarded(-1, [&] {
    const acm::Problem p = problem_of(problem);
    const acm::Workspace w = acm::workspace(p);
    const acm::Routing r = acm::routing(p);
    const std::int64_t values[] = {w.reach,      w.order,   w.histograms, w.arrivals,     w.q,
                                   w.hidden,     w.partial, w.size,       p.chunk_rows(), p.partial_bytes(),
                                   p.arrivals(), r.block,   r.choices,    r.num_pieces,   r.num_blocks};
    std::copy(std::begin(values), std::end(values), out);
    return 0;
  });
}

ACM_API int acm_splits(const std::int64_t* problem, std::int64_t split) {
  return problem_of(problem).splits(split);
}

ACM_API int acm_select(std::int32_t arch, std::int32_t precision, const std::int64_t* problem,
                       std::int32_t aligned, std::int32_t tensor_maps) {
  return guarded(-1, [&] {
    return acm::select_entry(arch, static_cast<acm::Precision>(precision), problem_of(problem), aligned != 0,
                             tensor_maps != 0);
  });
}

ACM_API int acm_grids(const std::int64_t* problem, std::int32_t entry, std::int64_t rows, std::int64_t* out) {
  return guarded(-1, [&] {
    const acm::Problem p = problem_of(problem);
    const acm::Entry& e = acm::pack().entries[static_cast<std::size_t>(entry)];
    const acm::Even tiles = acm::even(p, e);
    out[0] = acm::up_grid(p, e, rows);
    out[1] = acm::down_grid(p, e, rows);
    out[2] = tiles.up;
    out[3] = tiles.down;
    return 0;
  });
}

ACM_API void acm_quantize_grid(const std::int64_t* problem, std::int64_t rows, std::int64_t* out) {
  const acm::Grid grid = acm::quantize_grid(problem_of(problem), rows);
  out[0] = grid.x;
  out[1] = grid.y;
}

ACM_API int acm_tensor_maps(const std::int64_t* problem, std::int32_t entry, std::int64_t rows,
                            std::uint64_t* out) {
  return guarded(-1, [&] {
    const acm::Entry& e = acm::pack().entries[static_cast<std::size_t>(entry)];
    const acm::HopperMaps maps = acm::hopper_maps(problem_of(problem), e, rows);
    for (const acm::TensorMap& map : {maps.w1, maps.hidden, maps.w2}) {
      out = std::copy(map.dims.begin(), map.dims.end(), out);
      out = std::copy(map.strides.begin(), map.strides.end(), out);
      out = std::copy(map.box.begin(), map.box.end(), out);
    }
    return 0;
  });
}

ACM_API int acm_hopper_grids(const std::int64_t* problem, std::int32_t entry, std::int64_t rows,
                             std::int32_t multiprocessors, std::int64_t* out) {
  return guarded(-1, [&] {
    const acm::Entry& e = acm::pack().entries[static_cast<std::size_t>(entry)];
    const acm::HopperGrids grids = acm::hopper_grids(problem_of(problem), e, rows, multiprocessors);
    out[0] = grids.up;
    out[1] = grids.down;
    return 0;
  });
}

ACM_API int acm_architecture(std::int32_t major, std::int32_t minor, std::int32_t integrated) {
  return guarded(-1, [&] { return acm::architecture_for(major, minor, integrated != 0); });
}

ACM_API void* acm_layer_create(std::int32_t op, std::int32_t num, std::int32_t min, std::int32_t activation,
                               std::int32_t tf32) {
  return guarded(static_cast<void*>(nullptr), [&]() -> void* {
    return new acm::Layer(
        {static_cast<acm::Operator>(op), num, min, acm::activation_numbered(activation), tf32 != 0});
  });
}

ACM_API void acm_layer_destroy(void* layer) { delete &layer_of(layer); }

ACM_API int acm_layer_prepare(void* layer, const AcmTensor* tensors) {
  return guarded(-1, [&] {
    layer_of(layer).prepare(tensors_of(layer, tensors));
    return 0;
  });
}

ACM_API int acm_layer_enqueue(void* layer, const AcmTensor* tensors, const AcmPointers* pointers) {
  return guarded(-1, [&] {
    layer_of(layer).enqueue(tensors_of(layer, tensors), pointers_of(layer, *pointers), pointers->stream);
    return 0;
  });
}

ACM_API std::int64_t acm_layer_workspace(void* layer, const AcmTensor* tensors) {
  return guarded(std::int64_t{-1}, [&] {
    return static_cast<std::int64_t>(layer_of(layer).workspace_size(tensors_of(layer, tensors)));
  });
}

ACM_API int acm_layer_tactics(void* layer, const AcmTensor* tensors, std::int32_t* out,
                              std::int32_t capacity) {
  return guarded(-1, [&] {
    const std::vector<std::int32_t> tactics = layer_of(layer).tactics(tensors_of(layer, tensors));
    std::copy_n(tactics.begin(), std::min<std::size_t>(tactics.size(), static_cast<std::size_t>(capacity)),
                out);
    return static_cast<int>(tactics.size());
  });
}

ACM_API int acm_layer_set_tactic(void* layer, std::int32_t tactic) {
  return guarded(-1, [&] {
    layer_of(layer).set_tactic(tactic);
    return 0;
  });
}
