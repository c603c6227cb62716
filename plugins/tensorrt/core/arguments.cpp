#include "core/arguments.h"

namespace acm {

void Arguments::launch(const LoadedKernel& loaded, Grid grid, Stream stream, Start start) {
  const Kernel& kernel = *loaded.kernel;
  void* no_scratch = nullptr;
  std::array<void*, kCount + 2> values;
  std::size_t count = 0;
  for (const Argument argument : kernel.arguments) {
    values[count++] = slot(argument);
  }
  values[count++] = &no_scratch;  // Triton's global scratch
  values[count++] = &no_scratch;  // Triton's profiler scratch; kernels in CUDA ignore both
  driver().launch(loaded.function, grid, kernel.threads, kernel.shared_bytes, stream, values.data(), start);
}

}  // namespace acm
