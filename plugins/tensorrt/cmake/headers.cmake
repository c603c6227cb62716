# Sets ACM_SYSTEM_INCLUDES: the headers of TensorRT and of the CUDA runtime. Nothing of either is linked.
set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}" CACHE PATH "Folder that has include/NvInferRuntime.h")
set(CUDA_ROOT "$ENV{CUDA_HOME}" CACHE PATH "Folder that has include/cuda_runtime_api.h")
set(ACM_TENSORRT_TAG v10.3.0 CACHE STRING "Release of NVIDIA/TensorRT whose headers ACM_FETCH_TENSORRT_HEADERS fetches")
set(multiarch "${CMAKE_SYSTEM_PROCESSOR}-linux-gnu")

# Debian packages (desktop, containers, Jetson), then archives.
find_path(ACM_TENSORRT_INCLUDE NvInferRuntime.h
  HINTS "${TENSORRT_ROOT}" "${TENSORRT_ROOT}/include"
  PATHS "/usr/include/${multiarch}" /usr/include /usr/local/tensorrt/include /usr/local/TensorRT/include
        /opt/tensorrt/include
  NO_DEFAULT_PATH)
find_path(ACM_CUDA_INCLUDE cuda_runtime_api.h
  HINTS "${CUDA_ROOT}" "${CUDA_ROOT}/include" "${CUDA_ROOT}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/include"
  PATHS /usr/local/cuda/include "/usr/local/cuda/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/include"
        "/usr/local/cuda/targets/sbsa-linux/include" /usr/include
  NO_DEFAULT_PATH)

if(NOT ACM_TENSORRT_INCLUDE AND ACM_FETCH_TENSORRT_HEADERS)
  include(FetchContent)
  FetchContent_Declare(tensorrt_headers GIT_REPOSITORY https://github.com/NVIDIA/TensorRT.git GIT_TAG ${ACM_TENSORRT_TAG}
                       GIT_SHALLOW ON GIT_SUBMODULES "")
  FetchContent_GetProperties(tensorrt_headers)
  if(NOT tensorrt_headers_POPULATED)
    FetchContent_Populate(tensorrt_headers) # without its own build
  endif()
  set(ACM_TENSORRT_INCLUDE "${tensorrt_headers_SOURCE_DIR}/include")
endif()
if(NOT ACM_TENSORRT_INCLUDE)
  message(FATAL_ERROR "No TensorRT headers found: set TENSORRT_ROOT to the folder that has include/NvInferRuntime.h, "
                      "or ACM_FETCH_TENSORRT_HEADERS=ON.")
endif()
if(NOT ACM_CUDA_INCLUDE)
  message(FATAL_ERROR "No CUDA headers found: set CUDA_ROOT to the folder that has include/cuda_runtime_api.h.")
endif()
message(STATUS "TensorRT headers: ${ACM_TENSORRT_INCLUDE}; CUDA headers: ${ACM_CUDA_INCLUDE}")
set(ACM_SYSTEM_INCLUDES "${ACM_TENSORRT_INCLUDE}" "${ACM_CUDA_INCLUDE}")
