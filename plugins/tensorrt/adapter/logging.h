// Logging to TensorRT's logger, and a guard that keeps exceptions from crossing its ABI.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "adapter/interface.h"

namespace acm {

// Returns the current logger of the calling thread, or null.
using LoggerSource = nvinfer1::ILogger* (*)();

void set_logger_source(LoggerSource source) noexcept;

// Logs to the logger of the source, else to that of the loaded TensorRT, else to stderr.
void log_error(const char* message) noexcept;

// Prints to stderr, where no logger can be used.
void print_error(const char* message) noexcept;

// Returns the result of `action`; if it throws, logs one line and returns `failure`. The line begins with the
// name of the operator and of the function, `where`.
template <typename R, typename F>
R guarded(Operator op, const char* where, R failure, F&& action) noexcept {
  try {
    return std::forward<F>(action)();
  } catch (const std::exception& error) {
    try {
      log_error((std::string(name_of(op)) + ": " + where + ": " + error.what()).c_str());
    } catch (...) {
      log_error(where);  // no memory for the text
    }
  } catch (...) {
    log_error(where);
  }
  return failure;
}

// For actions without a result: returns 0, or -1 if it throws.
template <typename F>
int guarded_action(Operator op, const char* where, F&& action) noexcept {
  return guarded(op, where, -1, [&] {
    action();
    return 0;
  });
}

}  // namespace acm
