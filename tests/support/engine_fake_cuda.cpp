// A fake of the CUDA driver that has memory: "device" memory is host memory, and a stream is a queue of work that
// is done when the host waits for it, so that reading a result without waiting gives the old content.
//
// A millisecond passes with every piece of work. Work of the engine comes from the test through fake_enqueue.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using Work = std::function<void()>;

struct Stream {
  std::vector<Work> queue;
  bool capturing = false;
  std::vector<Work> captured;
};

struct Graph {
  std::vector<Work> work;
};

float now = 0;
std::size_t memory_left = std::size_t(1) << 40;
std::map<void*, std::size_t> live;
int live_handles = 0;
thread_local void* current = nullptr;
int primary_context;

template <typename T>
T* handle(void* pointer) {
  return static_cast<T*>(pointer);
}

void put(void* stream, Work work) {
  auto* target = handle<Stream>(stream);
  (target->capturing ? target->captured : target->queue).push_back(std::move(work));
}

int allocate(void** out, std::size_t size) {
  if (!current) return 201;  // CUDA_ERROR_INVALID_CONTEXT
  if (size > memory_left) return 2;
  *out = std::malloc(size);
  std::memset(*out, 0xFF, size);
  live[*out] = size;
  memory_left -= size;
  return 0;
}

int release(void* pointer) {
  auto found = live.find(pointer);
  if (found == live.end()) return 1;
  memory_left += found->second;
  live.erase(found);
  std::free(pointer);
  return 0;
}

int made(void** out, void* what) {
  if (!current) return 201;
  ++live_handles;
  *out = what;
  return 0;
}

}  // namespace

EXPORT void fake_memory(std::size_t bytes) { memory_left = bytes; }
EXPORT int fake_live() { return static_cast<int>(live.size()) + live_handles; }
EXPORT int fake_capturing(void* stream) { return handle<Stream>(stream)->capturing; }
EXPORT void fake_enqueue(void* stream, void (*work)()) {
  put(stream, [work] {
    ++now;
    work();
  });
}

EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuDeviceGet(int* device, int ordinal) { return *device = ordinal; }
EXPORT int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &primary_context, 0; }
EXPORT int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
EXPORT int cuCtxSetCurrent(void* context) { return current = context, 0; }
EXPORT int cuMemAlloc_v2(void** out, std::size_t size) { return allocate(out, size); }
EXPORT int cuMemFree_v2(void* pointer) { return release(pointer); }
EXPORT int cuMemHostAlloc(void** out, std::size_t size, unsigned) { return allocate(out, size); }
EXPORT int cuMemFreeHost(void* pointer) { return release(pointer); }

EXPORT int cuMemcpyHtoDAsync_v2(void* to, const void* from, std::size_t size, void* stream) {
  put(stream, [=] {
    ++now;
    std::memcpy(to, from, size);
  });
  return 0;
}

EXPORT int cuMemcpyDtoHAsync_v2(void* to, const void* from, std::size_t size, void* stream) {
  return cuMemcpyHtoDAsync_v2(to, from, size, stream);
}

EXPORT int cuStreamCreate(void** out, unsigned) { return made(out, new Stream); }

EXPORT int cuStreamSynchronize(void* stream) {
  auto* target = handle<Stream>(stream);
  if (target->capturing) return 900;  // CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
  for (auto& work : std::exchange(target->queue, {})) work();
  return 0;
}

EXPORT int cuStreamDestroy_v2(void* stream) {
  --live_handles;
  delete handle<Stream>(stream);
  return 0;
}

EXPORT int cuStreamBeginCapture_v2(void* stream, int) {
  handle<Stream>(stream)->capturing = true;
  return 0;
}

EXPORT int cuStreamEndCapture(void* stream, void** graph) {
  auto* target = handle<Stream>(stream);
  target->capturing = false;
  return made(graph, new Graph{std::exchange(target->captured, {})});
}

EXPORT int cuGraphInstantiateWithFlags(void** out, void* graph, unsigned long long) {
  return made(out, new Graph(*handle<Graph>(graph)));
}

EXPORT int cuGraphLaunch(void* graph, void* stream) {
  for (auto& work : handle<Graph>(graph)->work) put(stream, work);
  return 0;
}

EXPORT int cuGraphDestroy(void* graph) {
  --live_handles;
  delete handle<Graph>(graph);
  return 0;
}

EXPORT int cuGraphExecDestroy(void* graph) { return cuGraphDestroy(graph); }
EXPORT int cuEventCreate(void** out, unsigned) { return made(out, new float(-1)); }

EXPORT int cuEventRecord(void* event, void* stream) {
  put(stream, [event] { *handle<float>(event) = now; });
  return 0;
}

EXPORT int cuEventElapsedTime(float* milliseconds, void* first, void* second) {
  *milliseconds = *handle<float>(second) - *handle<float>(first);
  return 0;
}

EXPORT int cuEventDestroy_v2(void* event) {
  --live_handles;
  delete handle<float>(event);
  return 0;
}

EXPORT int cuGetErrorName(int code, const char** text) {
  *text = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
