// In the harness, an environment variable can name a double of the CUDA driver; each copy of the library
// keeps the one that was set when it was loaded.
#include <cstdlib>
#include <string>

#include "core/driver.h"

namespace acm {
namespace {

std::string named_library() {
  const char* double_name = std::getenv("ACM_HARNESS_CUDA");
  return double_name ? double_name : "libcuda.so.1";
}

const std::string library = named_library();

}  // namespace

const char* driver_library() { return library.c_str(); }

}  // namespace acm
