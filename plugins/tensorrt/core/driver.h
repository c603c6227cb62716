// The CUDA driver, opened by name when it is first needed. This library links neither to it nor to the CUDA
// runtime, so that it loads on machines without a GPU. The required entry points exist in CUDA 11.4 to 13.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"

namespace acm {

using Context = void*;   // CUcontext
using Module = void*;    // CUmodule
using Function = void*;  // CUfunction
using Stream = void*;    // CUstream, cudaStream_t

struct Grid {
  std::int64_t x;
  std::int64_t y = 1;
};

// When a kernel starts: after the kernels before it in the stream, or as soon as they leave room
// (programmatic dependent launch). Only kernels that wait for earlier results themselves may start early.
enum class Start { in_turn, early };

// The CUDA context that is current on the calling thread, and its device.
struct Device {
  Context context = nullptr;
  std::uint64_t context_id = 0;  // distinguishes contexts at the same address; 0 before CUDA 12
  std::int32_t major = 0;
  std::int32_t minor = 0;
  bool integrated = false;
  std::int32_t multiprocessors = 0;
};

// A tensor of 16-bit values with three dimensions, innermost first, and the box that one copy reads.
struct TensorMap {
  std::array<std::uint64_t, 3> dims;
  std::array<std::uint64_t, 2> strides;  // of the second and third dimension, in bytes
  std::array<std::uint32_t, 3> box;
};

// CUtensorMap, as kernels take it.
struct alignas(64) EncodedTensorMap {
  std::array<unsigned char, 128> bytes;
};

// Values of CUtensorMapDataType.
enum class MapType : int { float16 = 6, bfloat16 = 9 };

struct LaunchConfig;

class Driver {
 public:
  // Throws if the library or a required entry point is missing.
  explicit Driver(const char* library);

  Device current_device() const;
  bool is_current(const Device& device) const;

  // Whether the driver has the entry point that `encode` calls: from CUDA 12 on.
  bool encodes_tensor_maps() const { return encode_tiled_ != nullptr; }

  // Works on the host only and allocates nothing. Boxes are swizzled by 128 bytes; values past the tensor are
  // 0.
  EncodedTensorMap encode(const TensorMap& map, MapType type, const void* address) const;

  Module load_module(const void* cubin) const;
  Function get_function(Module module, const char* symbol, std::int32_t shared_bytes) const;

  // A driver that cannot capture an early start in a graph ignores Start::early.
  void launch(Function function, Grid grid, std::int32_t threads, std::int32_t shared_bytes, Stream stream,
              void** arguments, Start start) const;

 private:
  using Result = int;

  // The message is built only if the call failed, so that enqueue allocates nothing.
  template <typename... Parts>
  void require(Result result, const Parts&... action) const {
    if (result != 0) {
      refuse(result, text(action...));
    }
  }

  [[noreturn]] void refuse(Result result, const std::string& action) const;
  Context current_context() const;
  std::uint64_t id_of(Context context) const;
  std::int32_t attribute(int which, int device) const;

  Result (*get_error_name_)(Result, const char**);
  Result (*get_current_)(Context*);
  Result (*get_device_)(int*);
  Result (*get_attribute_)(int*, int, int);
  Result (*get_id_)(Context, unsigned long long*);  // null before CUDA 12
  Result (*load_data_)(Module*, const void*);
  Result (*get_function_)(Function*, Module, const char*);
  Result (*set_attribute_)(Function, int, int);
  Result (*launch_)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream,
                    void**, void**);
  // Null if kernels cannot start early.
  Result (*launch_with_)(const LaunchConfig*, Function, void**, void**);
  // Null before CUDA 12.
  Result (*encode_tiled_)(EncodedTensorMap*, int, std::uint32_t, void*, const std::uint64_t*,
                          const std::uint64_t*, const std::uint32_t*, const std::uint32_t*, int, int, int,
                          int);
};

// The driver of this process, opened at the first call. A failure is thrown, and the next call tries again.
const Driver& driver();

// File name of the driver; the test harness defines it differently to name a double.
const char* driver_library();

}  // namespace acm
