#include "core/driver.h"

#include <dlfcn.h>

namespace acm {
namespace {

// Values of the driver's enumerations.
constexpr int kMultiprocessors = 16;       // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
constexpr int kIntegrated = 18;            // CU_DEVICE_ATTRIBUTE_INTEGRATED
constexpr int kMajor = 75;                 // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
constexpr int kMinor = 76;                 // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
constexpr int kMaxDynamicSharedBytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kNoInterleave = 0;           // CU_TENSOR_MAP_INTERLEAVE_NONE
constexpr int kSwizzle128Bytes = 3;        // CU_TENSOR_MAP_SWIZZLE_128B
constexpr int kPromoteTo256Bytes = 3;      // CU_TENSOR_MAP_L2_PROMOTION_L2_256B
constexpr int kFillWithZeros = 0;          // CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
constexpr int kEarlyStart = 6;             // CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
constexpr int kEarlyStartFrom = 12030;     // first driver version that can capture them in graphs
constexpr std::int32_t kSharedWithoutOptIn = 48 << 10;

const char* last_dl_error() {
  const char* reason = dlerror();
  return reason ? reason : "unknown reason";
}

template <typename F>
void find(void* library, const char* name, F& entry_point) {
  entry_point = reinterpret_cast<F>(dlsym(library, name));
}

template <typename F>
void find_required(void* library, const char* name, F& entry_point) {
  find(library, name, entry_point);
  if (!entry_point) {
    fail("the CUDA driver has no ", name, "; CUDA 11.4 or later is needed");
  }
}

// CUlaunchAttribute, with a value that is one integer.
struct LaunchAttribute {
  int id;
  char padding[4];
  int value;
  char unused[60];
};

}  // namespace

// CUlaunchConfig.
struct LaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  Stream stream;
  const LaunchAttribute* attributes;
  unsigned num_attributes;
};
static_assert(sizeof(LaunchConfig) == 56 && sizeof(LaunchAttribute) == 72, "laid out as in cuda.h");

Driver::Driver(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    fail("no CUDA driver: cannot open ", library, " (", last_dl_error(), ")");
  }
  find_required(handle, "cuGetErrorName", get_error_name_);
  find_required(handle, "cuCtxGetCurrent", get_current_);
  find_required(handle, "cuCtxGetDevice", get_device_);
  find_required(handle, "cuDeviceGetAttribute", get_attribute_);
  find(handle, "cuCtxGetId", get_id_);
  find_required(handle, "cuModuleLoadData", load_data_);
  find_required(handle, "cuModuleGetFunction", get_function_);
  find_required(handle, "cuFuncSetAttribute", set_attribute_);
  find_required(handle, "cuLaunchKernel", launch_);
  find(handle, "cuTensorMapEncodeTiled", encode_tiled_);
  Result (*get_version)(int*);
  find_required(handle, "cuDriverGetVersion", get_version);
  find(handle, "cuLaunchKernelEx", launch_with_);
  int version = 0;
  require(get_version(&version), "cuDriverGetVersion");
  if (version < kEarlyStartFrom) {
    launch_with_ = nullptr;
  }
}

Device Driver::current_device() const {
  Device device;
  device.context = current_context();
  if (!device.context) {
    fail("no CUDA context is current on this thread");
  }
  device.context_id = id_of(device.context);
  int ordinal = 0;
  require(get_device_(&ordinal), "cuCtxGetDevice");
  device.major = attribute(kMajor, ordinal);
  device.minor = attribute(kMinor, ordinal);
  device.integrated = attribute(kIntegrated, ordinal) != 0;
  device.multiprocessors = attribute(kMultiprocessors, ordinal);
  return device;
}

bool Driver::is_current(const Device& device) const {
  const Context context = current_context();
  return context == device.context && (!context || id_of(context) == device.context_id);
}

EncodedTensorMap Driver::encode(const TensorMap& map, MapType type, const void* address) const {
  constexpr std::uint32_t kRank = 3;
  constexpr std::uint32_t kAdjacent[kRank] = {1, 1, 1};
  EncodedTensorMap encoded;
  const Result result = encode_tiled_(&encoded, static_cast<int>(type), kRank, const_cast<void*>(address),
                                      map.dims.data(), map.strides.data(), map.box.data(), kAdjacent,
                                      kNoInterleave, kSwizzle128Bytes, kPromoteTo256Bytes, kFillWithZeros);
  require(result, "cuTensorMapEncodeTiled of ", map.dims[0], " x ", map.dims[1], " x ", map.dims[2],
          " values");
  return encoded;
}

Module Driver::load_module(const void* cubin) const {
  Module module = nullptr;
  require(load_data_(&module, cubin), "cuModuleLoadData");
  return module;
}

Function Driver::get_function(Module module, const char* symbol, std::int32_t shared_bytes) const {
  Function function = nullptr;
  require(get_function_(&function, module, symbol), "cuModuleGetFunction of ", symbol);
  if (shared_bytes > kSharedWithoutOptIn) {
    require(set_attribute_(function, kMaxDynamicSharedBytes, shared_bytes),
            "cuFuncSetAttribute: ", shared_bytes, " bytes of shared memory for ", symbol);
  }
  return function;
}

void Driver::launch(Function function, Grid grid, std::int32_t threads, std::int32_t shared_bytes,
                    Stream stream, void** arguments, Start start) const {
  const auto x = static_cast<unsigned>(grid.x);
  const auto y = static_cast<unsigned>(grid.y);
  const auto block = static_cast<unsigned>(threads);
  const auto shared = static_cast<unsigned>(shared_bytes);
  Result result;
  if (start == Start::early && launch_with_) {
    const LaunchAttribute early = {kEarlyStart, {}, 1, {}};
    const LaunchConfig config = {{x, y, 1}, {block, 1, 1}, shared, stream, &early, 1};
    result = launch_with_(&config, function, arguments, nullptr);
  } else {
    result = launch_(function, x, y, 1, block, 1, 1, shared, stream, arguments, nullptr);
  }
  require(result, "cuLaunchKernel with ", grid.x, " x ", grid.y, " blocks of ", threads, " threads");
}

void Driver::refuse(Result result, const std::string& action) const {
  const char* name = nullptr;
  get_error_name_(result, &name);
  fail(action, " failed: ", name ? name : "unknown error", " (", result, ")");
}

Context Driver::current_context() const {
  Context context = nullptr;
  require(get_current_(&context), "cuCtxGetCurrent");
  return context;
}

std::uint64_t Driver::id_of(Context context) const {
  unsigned long long id = 0;
  return get_id_ && get_id_(context, &id) == 0 ? id : 0;
}

std::int32_t Driver::attribute(int which, int device) const {
  int value = 0;
  require(get_attribute_(&value, which, device), "cuDeviceGetAttribute ", which);
  return value;
}

const Driver& driver() {
  static const Driver instance(driver_library());
  return instance;
}

}  // namespace acm
