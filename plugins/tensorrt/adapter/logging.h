// Messages to TensorRT's logger, and the guard that keeps exceptions on this side of its ABI.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "adapter/interface.h"

namespace acm {

// Says which logger the calling thread uses now; may return null.
using LoggerSource = nvinfer1::ILogger* (*)();

void set_logger_source(LoggerSource source) noexcept;

// To the logger of the source, else to that of the loaded TensorRT, else to stderr.
void log_error(const char* message) noexcept;

// Messages that no logger of this TensorRT can take.
void print_error(const char* message) noexcept;

// The result of `action`, or `failure` and one line in the log where it throws.
template <typename R, typename F>
R guarded(const char* where, R failure, F&& action) noexcept {
  try {
    return std::forward<F>(action)();
  } catch (const std::exception& error) {
    try {
      log_error((std::string(kPluginName) + ": " + where + ": " + error.what()).c_str());
    } catch (...) {
      log_error(where);  // no memory for the text
    }
  } catch (...) {
    log_error(where);
  }
  return failure;
}

// For actions without a result: 0, or -1 where it throws.
template <typename F>
int guarded_action(const char* where, F&& action) noexcept {
  return guarded(where, -1, [&] {
    action();
    return 0;
  });
}

}  // namespace acm
