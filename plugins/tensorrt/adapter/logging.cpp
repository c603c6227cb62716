#include "adapter/logging.h"

#include <atomic>
#include <cstdio>

#include "adapter/runtime_library.h"

namespace acm {
namespace {

std::atomic<LoggerSource> logger_source{nullptr};

nvinfer1::ILogger* find_logger() {
  if (const LoggerSource source = logger_source.load()) {
    if (nvinfer1::ILogger* logger = source()) {
      return logger;
    }
  }
  for (const RuntimeLibrary& library : RuntimeLibrary::loaded()) {
    if (!library.is_of_another_major()) {
      if (nvinfer1::ILogger* logger = library.logger()) {
        return logger;
      }
    }
  }
  return nullptr;
}

}  // namespace

void set_logger_source(LoggerSource source) noexcept { logger_source = source; }

void log_error(const char* message) noexcept {
  try {
    if (nvinfer1::ILogger* logger = find_logger()) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, message);
      return;
    }
  } catch (...) {  // out of memory
  }
  print_error(message);
}

void print_error(const char* message) noexcept { std::fprintf(stderr, "%s\n", message); }

}  // namespace acm
