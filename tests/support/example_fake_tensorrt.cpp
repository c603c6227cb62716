// A TensorRT and a CUDA runtime for examples/cpp/run_engine.cpp: its engines sum pixels on the CPU. A plan is the word
// "budget" or "plain". stubs.h, made by example_stubs.py, has every other virtual function of this TensorRT, aborting.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "stubs.h"

namespace {

constexpr int kPixels = 3, kLargestBatch = 4;
bool loaded = NV_TENSORRT_MAJOR < 10;  // there the program opens the library without TensorRT

nvinfer1::Dims dims(std::vector<int> const& sizes) {
    nvinfer1::Dims made{};
    made.nbDims = static_cast<int>(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) made.d[i] = sizes[i];
    return made;
}

nvinfer1::Dims shape(std::string const& name, int batch) {
    if (name == "budget") return dims({});
    return dims({batch, name == "pixel_values" ? kPixels : 2});
}

struct Context : nvinfer1::IExecutionContext {
    struct Impl : nvinfer1::apiv::StubVExecutionContext {
        bool setInputShape(char const* name, nvinfer1::Dims const& given) noexcept override {
            if (std::strcmp(name, "budget") == 0) return given.nbDims == 0;
            batch = static_cast<int>(given.d[0]);
            return given.nbDims == 2 && given.d[1] == kPixels && batch >= 1 && batch <= kLargestBatch;
        }
        nvinfer1::Dims getTensorShape(char const* name) const noexcept override { return shape(name, batch); }
        bool setTensorAddress(char const* name, void* data) noexcept override {
            addresses[name] = static_cast<float*>(data);
            return true;
        }
        void const* getTensorAddress(char const* name) const noexcept override { return addresses.at(name); }
        bool enqueueV3(cudaStream_t) noexcept override {
            for (int i = 0; i < batch; ++i) {
                float const* pixels = addresses.at("pixel_values") + i * kPixels;
                addresses.at("logits")[2 * i] = pixels[0] + pixels[1] + pixels[2];
                addresses.at("logits")[2 * i + 1] = addresses.count("budget") ? *addresses.at("budget") : -1;
            }
            return true;
        }
        int batch = -1;
        std::map<std::string, float*> addresses;
    } impl;
    Context() { mImpl = &impl; }
};

struct Engine : nvinfer1::ICudaEngine {
    struct Impl : nvinfer1::apiv::StubVCudaEngine {
        int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(names.size()); }
        char const* getIOTensorName(int32_t i) const noexcept override { return names[i].c_str(); }
        nvinfer1::TensorIOMode getTensorIOMode(char const* name) const noexcept override {
            bool const output = std::strcmp(name, "logits") == 0 || std::strcmp(name, "counts") == 0;
            return output ? nvinfer1::TensorIOMode::kOUTPUT : nvinfer1::TensorIOMode::kINPUT;
        }
        nvinfer1::DataType getTensorDataType(char const* name) const noexcept override {
            return std::strcmp(name, "counts") == 0 ? nvinfer1::DataType::kINT32 : nvinfer1::DataType::kFLOAT;
        }
        nvinfer1::Dims getTensorShape(char const* name) const noexcept override { return shape(name, -1); }
#if NV_TENSORRT_MAJOR < 10
        nvinfer1::IExecutionContext* createExecutionContext() noexcept override { return new Context; }
#else
        nvinfer1::IExecutionContext* createExecutionContext(
            nvinfer1::ExecutionContextAllocationStrategy) noexcept override {
            return new Context;
        }
#endif
        std::vector<std::string> names{"counts", "pixel_values", "logits"};
    } impl;
    explicit Engine(bool budget) {
        mImpl = &impl;
        if (budget) impl.names.emplace_back("budget");
    }
};

#if NV_TENSORRT_MAJOR >= 10
struct Registry : nvinfer1::apiv::StubIPluginRegistry {
    PluginLibraryHandle loadLibrary(char const* path) noexcept override {
        loaded = std::ifstream(path).good();
        return loaded ? this : nullptr;
    }
} registry;
#endif

struct Runtime : nvinfer1::IRuntime {
    struct Impl : nvinfer1::apiv::StubVRuntime {
        nvinfer1::ICudaEngine* load(void const* blob, std::size_t size) {
            std::string const plan(static_cast<char const*>(blob), size);
            return loaded && (plan == "budget" || plan == "plain") ? new Engine(plan == "budget") : nullptr;
        }
#if NV_TENSORRT_MAJOR < 10
        nvinfer1::ICudaEngine* deserializeCudaEngine(
            void const* blob, std::size_t size, nvinfer1::IPluginFactory*) noexcept override {
            return load(blob, size);
        }
#else
        nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
            return load(blob, size);
        }
        nvinfer1::IPluginRegistry& getPluginRegistry() noexcept override { return registry; }
#endif
    } impl;
    Runtime() { mImpl = &impl; }
};

}  // namespace

extern "C" {
void* createInferRuntime_INTERNAL(void*, int32_t) noexcept { return static_cast<nvinfer1::IRuntime*>(new Runtime); }
cudaError_t cudaMalloc(void** memory, size_t size) { return (*memory = std::malloc(size)) ? cudaSuccess : cudaErrorMemoryAllocation; }
cudaError_t cudaMemcpyAsync(void* to, void const* from, size_t size, cudaMemcpyKind, cudaStream_t) {
    std::memcpy(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t*) { return std::getenv("NO_GPU") ? cudaErrorNoDevice : cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
}
