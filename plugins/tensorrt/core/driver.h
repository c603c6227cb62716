// The CUDA driver, opened by name when it is first needed: this library links neither to it nor to the CUDA
// runtime, so that it loads on machines without a GPU. The entry points exist in CUDA 11.4 to 13.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace acm {

using Context = void*;   // CUcontext
using Module = void*;    // CUmodule
using Function = void*;  // CUfunction
using Stream = void*;    // CUstream, cudaStream_t

struct Grid {
  std::int64_t x;
  std::int64_t y = 1;
};

// The CUDA context that is current on the calling thread, and its device.
struct Device {
  Context context = nullptr;
  std::uint64_t context_id = 0;  // tells a context from a later one at the same address; 0 before CUDA 12
  std::int32_t major = 0;
  std::int32_t minor = 0;
  bool integrated = false;
};

class Driver {
 public:
  // Throws where the library or one of its entry points is missing.
  explicit Driver(const char* library);

  Device current_device() const;
  bool is_current(const Device& device) const;

  Module load_module(const void* cubin) const;
  Function get_function(Module module, const char* symbol, std::int32_t shared_bytes) const;
  void launch(Function function, Grid grid, std::int32_t threads, std::int32_t shared_bytes, Stream stream,
              void** arguments) const;

 private:
  using Result = int;

  void require(Result result, const std::string& action) const;
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
};

// The driver of this process, opened at the first call; a failure is thrown and tried again at the next.
const Driver& driver();

// Its file name; the test harness has a definition of its own that can name a stand-in.
const char* driver_library();

}  // namespace acm
