// Runs an engine once: run_engine MODEL.plan LIBRARY.so INPUT.f32 [BUDGET]      (TensorRT 8.5 to 11)
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

using nvinfer1::DataType, nvinfer1::Dims, nvinfer1::TensorIOMode;

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, char const* text) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", text);
    }
};

void need(bool holds, std::string const& otherwise) {
    if (holds) return;
    std::fprintf(stderr, "run_engine: %s\n", otherwise.c_str());
    std::exit(1);
}

std::vector<char> read(std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    need(file.good(), "cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::size_t bytes(Dims const& shape) {
    std::size_t size = 4;  // of one float32 or int32
    for (int i = 0; i < shape.nbDims; ++i) size *= shape.d[i];
    return size;
}

int main(int argc, char** argv) {
    need(argc == 4 || argc == 5, "expected MODEL.plan LIBRARY.so INPUT.f32 [BUDGET]");
    auto const plan = read(argv[1]), input = read(argv[3]);
    float const budget = argc == 5 ? std::strtof(argv[4], nullptr) : 1.0F;

    cudaStream_t stream{};
    need(cudaStreamCreate(&stream) == cudaSuccess, "CUDA finds no GPU");
    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    need(runtime != nullptr, "cannot create the TensorRT runtime");
#if NV_TENSORRT_MAJOR < 10
    need(dlopen(argv[2], RTLD_NOW) != nullptr, "the plugin library cannot be loaded");
#else
    need(runtime->getPluginRegistry().loadLibrary(argv[2]) != nullptr, "the plugin library cannot be loaded");
#endif
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    need(engine != nullptr, "the engine was not built for this TensorRT, GPU or plugin library");
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    need(context != nullptr, "not enough memory for an execution context");

    auto const place = [&](char const* name, Dims const& shape) {
        void* device = nullptr;
        need(cudaMalloc(&device, bytes(shape)) == cudaSuccess, "not enough GPU memory");
        need(context->setTensorAddress(name, device), "TensorRT rejected the address of a tensor");
        return device;
    };
    std::vector<char const*> outputs;
    for (int i = 0; i < engine->getNbIOTensors(); ++i) {
        char const* name = engine->getIOTensorName(i);
        if (engine->getTensorIOMode(name) == TensorIOMode::kOUTPUT) {
            outputs.push_back(name);
            continue;
        }
        need(engine->getTensorDataType(name) == DataType::kFLOAT, "an input is not float32");
        bool const dial = std::strcmp(name, "budget") == 0;  // the scalar that --budget-input adds
        void const* host = dial ? static_cast<void const*>(&budget) : input.data();
        Dims shape = engine->getTensorShape(name);
        if (!dial && shape.d[0] < 0) shape.d[0] = 1, shape.d[0] = input.size() / bytes(shape);  // the batch
        need(dial || bytes(shape) == input.size(), "the input file does not have the engine's input shape");
        need(context->setInputShape(name, shape), "the batch is outside the engine's profile");
        cudaMemcpyAsync(place(name, shape), host, bytes(shape), cudaMemcpyHostToDevice, stream);
    }
    for (auto name : outputs) place(name, context->getTensorShape(name));  // shapes follow from the input shapes
    need(context->enqueueV3(stream), "the engine failed to run");
    for (auto name : outputs) {
        if (engine->getTensorDataType(name) != DataType::kFLOAT) continue;
        std::vector<float> values(bytes(context->getTensorShape(name)) / sizeof(float));
        auto const size = values.size() * sizeof(float);
        cudaMemcpyAsync(values.data(), context->getTensorAddress(name), size, cudaMemcpyDeviceToHost, stream);
        need(cudaStreamSynchronize(stream) == cudaSuccess, "the GPU reports an error");
        std::printf("%s:", name);
        for (float value : values) std::printf(" %g", value);
        std::printf("\n");
    }
}
