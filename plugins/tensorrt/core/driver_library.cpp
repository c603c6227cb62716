#include "core/driver.h"

namespace acm {

const char* driver_library() { return "libcuda.so.1"; }

}  // namespace acm
