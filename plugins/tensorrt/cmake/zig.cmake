# Toolchain file: cross-compile with the C++ compiler of the PyPI package ziglang, which brings its own libc++ and the
# symbols of every glibc. Set ACM_ZIG to the program and ACM_ZIG_TARGET as in aarch64-linux-gnu.2.17.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ACM_ZIG ACM_ZIG_TARGET)
string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR "${ACM_ZIG_TARGET}")
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_CXX_COMPILER "${ACM_ZIG}" c++ "--target=${ACM_ZIG_TARGET}" -mcpu=baseline)
