// TensorRT's plugin interface, and which generation of it this library is compiled for. IPluginV3 is used
// from 10 on; it is always named through nvinfer1, never through the version namespaces.
#pragma once

#include <NvInferRuntime.h>

#if NV_TENSORRT_MAJOR < 8 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 5)
#error "These headers are older than TensorRT 8.5, the oldest that is supported."
#endif

#define ACM_PLUGIN_V3 (NV_TENSORRT_MAJOR >= 10)
#define ACM_LOADS_LIBRARIES (NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6)  // IPluginRegistry::loadLibrary

namespace acm {

constexpr const char* kPluginName = "GatedLearners";
constexpr const char* kPluginVersion = "1";
constexpr const char* kPluginNamespace = "";

#if ACM_PLUGIN_V3
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
#else
using CreatorInterface = nvinfer1::IPluginCreator;
#endif

// The one creator of this library.
CreatorInterface& creator();

}  // namespace acm
