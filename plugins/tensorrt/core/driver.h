// The CUDA driver, opened by name when it is first needed: this library links neither to it nor to the CUDA
// runtime, so that it loads on machines without a GPU. Entry points without which it fails exist in CUDA 11.4
// to 13.
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

// When a kernel starts: after those ahead of it in the stream, or as soon as they leave room (programmatic dependent
// launch). Only kernels that wait for the others' results themselves may start early.
enum class Start { in_turn, early };

// The CUDA context that is current on the calling thread, and its device.
struct Device {
  Context context = nullptr;
  std::uint64_t context_id = 0;  // tells a context from a later one at the same address; 0 before CUDA 12
  std::int32_t major = 0;
  std::int32_t minor = 0;
  bool integrated = false;
  std::int32_t multiprocessors = 0;
};

// A tensor of 16-bit values as three dimensions, the innermost first, and the box that one copy takes.
struct TensorMap {
  std::array<std::uint64_t, 3> dims;
  std::array<std::uint64_t, 2> strides;  // bytes to the next index of the second and of the third dimension
  std::array<std::uint32_t, 3> box;
};

// As a kernel takes it (CUtensorMap).
struct alignas(64) EncodedTensorMap {
  std::array<unsigned char, 128> bytes;
};

// Values of CUtensorMapDataType.
enum class MapType : int { float16 = 6, bfloat16 = 9 };

struct LaunchConfig;

class Driver {
 public:
  // Throws where the library or one of its entry points is missing.
  explicit Driver(const char* library);

  Device current_device() const;
  bool is_current(const Device& device) const;

  // Whether it has the entry point that `encode` calls: from CUDA 12 on.
  bool encodes_tensor_maps() const { return encode_tiled_ != nullptr; }

  // Works on the host alone and allocates nothing. Boxes are swizzled by 128 bytes; what they hold beyond the
  // tensor is 0.
  EncodedTensorMap encode(const TensorMap& map, MapType type, const void* address) const;

  Module load_module(const void* cubin) const;
  Function get_function(Module module, const char* symbol, std::int32_t shared_bytes) const;

  // A driver that cannot capture an early start in a graph starts every kernel in turn.
  void launch(Function function, Grid grid, std::int32_t threads, std::int32_t shared_bytes, Stream stream,
              void** arguments, Start start) const;

 private:
  using Result = int;

  // Text is made of the action's parts only where the call failed: enqueue allocates nothing.
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
  // Null where no kernel can start early.
  Result (*launch_with_)(const LaunchConfig*, Function, void**, void**);
  // Null before CUDA 12.
  Result (*encode_tiled_)(EncodedTensorMap*, int, std::uint32_t, void*, const std::uint64_t*,
                          const std::uint64_t*, const std::uint32_t*, const std::uint32_t*, int, int, int,
                          int);
};

// The driver of this process, opened at the first call; a failure is thrown and tried again at the next.
const Driver& driver();

// Its file name; the test harness has a definition of its own that can name a stand-in.
const char* driver_library();

}  // namespace acm
