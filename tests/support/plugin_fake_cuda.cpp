// A fake of the CUDA driver: one device, no memory, and a record of every kernel launch.
//
// A "cubin" is the text that tests/plugin_pack.py writes: its identity, a space, one letter for each argument
// (p, i or m). With ACM_FAKE_CUDA_11 it lacks the functions that came with CUDA 12.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <iterator>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Module {
  std::string identity;
  std::string kinds;
};

struct Function {
  Module* module;
  std::string symbol;
  int max_shared = 48 << 10;
};

// Content of an encoded tensor map; the rest of its 128 bytes is 0. tests/plugin_core.py reads it.
struct EncodedMap {
  char magic[8];
  std::uint64_t address;
  std::uint64_t dims[3];
  std::uint64_t strides[2];
  std::uint32_t box[3];
  std::uint32_t dtype;
};

constexpr std::size_t kMapBytes = 128;
constexpr char kMapMagic[8] = "ACM map";

struct Launch {
  const Function* function;
  std::int64_t grid_x, grid_y, block, shared;
  void* stream;
  std::vector<std::uint64_t> arguments;
};

int compute_major = 9, compute_minor = 0, integrated = 0;
void* context = reinterpret_cast<void*>(0x1000);
std::uint64_t context_id = 1;
int failing_launch = 0;
int driver_version = 13000;
int overlapping_launches = 0;
std::deque<Module> loaded;
std::deque<Function> functions;
std::vector<Launch> launches;

}  // namespace

EXPORT void fake_device(int major, int minor, int is_integrated) {
  compute_major = major;
  compute_minor = minor;
  integrated = is_integrated;
}

EXPORT void fake_context(std::uint64_t address, std::uint64_t id) {
  context = reinterpret_cast<void*>(address);
  context_id = id;
}

EXPORT void fake_fail_launches(int code) { failing_launch = code; }
EXPORT void fake_driver_version(int version) { driver_version = version; }
EXPORT int fake_num_overlapping() { return overlapping_launches; }
EXPORT int fake_num_modules() { return static_cast<int>(loaded.size()); }
EXPORT int fake_num_launches() { return static_cast<int>(launches.size()); }
EXPORT void fake_forget_launches() {
  launches.clear();
  overlapping_launches = 0;
}

// out: grid x, grid y, block, dynamic shared memory, stream, number of words, then the arguments: 16 words for a
// tensor map, one for another.
EXPORT const char* fake_launch(int index, std::uint64_t* out) {
  const Launch& launch = launches[static_cast<std::size_t>(index)];
  out[0] = static_cast<std::uint64_t>(launch.grid_x);
  out[1] = static_cast<std::uint64_t>(launch.grid_y);
  out[2] = static_cast<std::uint64_t>(launch.block);
  out[3] = static_cast<std::uint64_t>(launch.shared);
  out[4] = reinterpret_cast<std::uint64_t>(launch.stream);
  out[5] = launch.arguments.size();
  std::copy(launch.arguments.begin(), launch.arguments.end(), out + 6);
  return launch.function->module->identity.c_str();
}

EXPORT int cuGetErrorName(int, const char** name) {
  *name = "CUDA_ERROR_FAKE";
  return 0;
}

EXPORT int cuDriverGetVersion(int* version) {
  *version = driver_version;
  return 0;
}

EXPORT int cuCtxGetCurrent(void** current) {
  *current = context;
  return 0;
}

EXPORT int cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}

#ifndef ACM_FAKE_CUDA_11
EXPORT int cuCtxGetId(void*, unsigned long long* id) {
  *id = context_id;
  return 0;
}

EXPORT int cuTensorMapEncodeTiled(void* map, int dtype, std::uint32_t rank, void* address, const std::uint64_t* dims,
                                  const std::uint64_t* strides, const std::uint32_t* box,
                                  const std::uint32_t* element_strides, int interleave, int swizzle, int promotion,
                                  int fill) {
  const auto is_multiple_of_16 = [](std::uint64_t value) { return value % 16 == 0; };
  const auto is_box_extent = [](std::uint32_t extent) { return extent >= 1 && extent <= 256; };
  const bool holds = reinterpret_cast<std::uintptr_t>(map) % 64 == 0 &&
                     is_multiple_of_16(reinterpret_cast<std::uintptr_t>(address)) &&
                     std::all_of(strides, strides + 2, is_multiple_of_16) && std::all_of(box, box + 3, is_box_extent) &&
                     std::all_of(element_strides, element_strides + 3, [](std::uint32_t step) { return step == 1; });
  const bool swizzles_128_bytes = interleave == 0 && swizzle == 3 && 2 * box[0] <= 128;
  if (!holds || !swizzles_128_bytes || (dtype != 6 && dtype != 9) || rank != 3 || promotion != 3 || fill != 0) {
    return 1;
  }
  EncodedMap encoded{};
  std::copy(kMapMagic, kMapMagic + 8, encoded.magic);
  encoded.address = reinterpret_cast<std::uint64_t>(address);
  std::copy(dims, dims + 3, encoded.dims);
  std::copy(strides, strides + 2, encoded.strides);
  std::copy(box, box + 3, encoded.box);
  encoded.dtype = static_cast<std::uint32_t>(dtype);
  std::memset(map, 0, kMapBytes);
  std::memcpy(map, &encoded, sizeof encoded);
  return 0;
}
#endif

EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 16:
      *value = 132;
      return 0;
    case 18:
      *value = integrated;
      return 0;
    case 75:
      *value = compute_major;
      return 0;
    case 76:
      *value = compute_minor;
      return 0;
    default:
      return 1;
  }
}

EXPORT int cuModuleLoadData(void** module, const void* image) {
  const std::string content(static_cast<const char*>(image));
  const auto space = content.find(' ');
  if (reinterpret_cast<std::uintptr_t>(image) % 8 != 0 || space == std::string::npos) {
    return 200;  // CUDA_ERROR_INVALID_IMAGE
  }
  loaded.push_back({content.substr(0, space), content.substr(space + 1)});
  *module = &loaded.back();
  return 0;
}

EXPORT int cuModuleGetFunction(void** function, void* module, const char* symbol) {
  functions.push_back({static_cast<Module*>(module), symbol});
  *function = &functions.back();
  return 0;
}

EXPORT int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != 8 || value > 227 << 10) {
    return 1;
  }
  static_cast<Function*>(function)->max_shared = value;
  return 0;
}

EXPORT int cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments,
                          void** extra) {
  const auto* function = static_cast<Function*>(handle);
  if (failing_launch) {
    return failing_launch;
  }
  if (extra || grid_z != 1 || block_y != 1 || block_z != 1 ||
      static_cast<int>(shared) > function->max_shared) {
    return 1;
  }
  Launch launch{function, grid_x, grid_y, block_x, shared, stream, {}};
  const std::string& kinds = function->module->kinds;
  for (const char kind : kinds) {
    if (kind == 'm') {
      const void* map = *arguments++;
      if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0 || std::memcmp(map, kMapMagic, sizeof kMapMagic) != 0) {
        return 1;
      }
      std::uint64_t words[kMapBytes / 8];
      std::memcpy(words, map, kMapBytes);
      launch.arguments.insert(launch.arguments.end(), std::begin(words), std::end(words));
      continue;
    }
    std::uint64_t value = 0;
    std::memcpy(&value, *arguments++, kind == 'p' ? 8 : 4);
    launch.arguments.push_back(value);
  }
  // Only Triton's kernels have these two, and they take no tensor maps; all kernels in CUDA do.
  const bool of_triton = kinds.find('m') == std::string::npos;
  for (int i = 0; of_triton && i < 2; ++i) {
    void* scratch;
    std::memcpy(&scratch, *arguments++, sizeof scratch);
    if (scratch) {
      return 1;
    }
  }
  launches.push_back(launch);
  return 0;
}

struct LaunchAttribute {
  int id;
  char padding[4];
  int value;
  char unused[60];
};

struct LaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared;
  void* stream;
  const LaunchAttribute* attributes;
  unsigned num_attributes;
};

EXPORT int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void** extra) {
  constexpr int kProgrammaticStreamSerialization = 6;
  for (unsigned i = 0; i < config->num_attributes; ++i) {
    if (config->attributes[i].id != kProgrammaticStreamSerialization || config->attributes[i].value != 1) {
      return 1;
    }
    if (driver_version < 12030) {
      return 801;  // CUDA_ERROR_NOT_SUPPORTED
    }
    ++overlapping_launches;
  }
  const unsigned(&grid)[3] = config->grid;
  const unsigned(&block)[3] = config->block;
  return cuLaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], config->shared,
                        config->stream, arguments, extra);
}
