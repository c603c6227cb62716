// TensorRT's plugin interface: IPluginV3 from TensorRT 10 on, else IPluginV2DynamicExt. Types are named
// through nvinfer1, never through its version namespaces.
#pragma once

#include <NvInferRuntime.h>

#include "core/tensors.h"

#if NV_TENSORRT_MAJOR < 8 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 5)
#error "These headers are older than TensorRT 8.5, the oldest supported version."
#endif

#define ACM_PLUGIN_V3 (NV_TENSORRT_MAJOR >= 10)
#define ACM_LOADS_LIBRARIES (NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6)  // IPluginRegistry::loadLibrary

namespace acm {

constexpr const char* kPluginVersion = "1";
constexpr const char* kPluginNamespace = "";

#if ACM_PLUGIN_V3
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
#else
using CreatorInterface = nvinfer1::IPluginCreator;
#endif

// The creator of the plugins of an operator; its name is that of the operator.
CreatorInterface& creator(Operator op);

}  // namespace acm
