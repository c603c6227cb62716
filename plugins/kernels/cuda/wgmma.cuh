// One warpgroup matrix product, m64nNk16: 64 rows times N columns, float32 sums, both operands in shared memory. The
// instruction lists its N / 2 sums one by one, so each N is written out.
#pragma once

#include "device.cuh"

namespace acm {

#define ACM_SUMS_8(s, i) \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), "+f"(s[i + 6]), "+f"(s[i + 7])
#define ACM_SUMS_64(s)                                                                                       \
  ACM_SUMS_8(s, 0), ACM_SUMS_8(s, 8), ACM_SUMS_8(s, 16), ACM_SUMS_8(s, 24), ACM_SUMS_8(s, 32), ACM_SUMS_8(s, 40), \
      ACM_SUMS_8(s, 48), ACM_SUMS_8(s, 56)
#define ACM_SUMS_96(s) ACM_SUMS_64(s), ACM_SUMS_8(s, 64), ACM_SUMS_8(s, 72), ACM_SUMS_8(s, 80), ACM_SUMS_8(s, 88)

#define ACM_NAMES_64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#define ACM_NAMES_96 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"

// Adds a times b to the sums, without waiting. a, b: descriptors of shared memory; the N columns of b are contiguous.
#define ACM_WGMMA(N, REGS, A, B, T)                                                                          \
  asm volatile(                                                                                              \
      "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." T "." T " {" ACM_NAMES_##REGS "}, %" #A ", %" #B       \
      ", 1, 1, 1, 0, 1;"                                                                                     \
      : ACM_SUMS_##REGS(sums)                                                                                \
      : "l"(a), "l"(b))

template <int N, bool IsBfloat16>
__device__ __forceinline__ void multiply(float (&sums)[N / 2], unsigned long long a, unsigned long long b) {
  static_assert(N == 128 || N == 192, "the products that are written out");
  if constexpr (N == 128 && IsBfloat16) {
    ACM_WGMMA(128, 64, 64, 65, "bf16");
  } else if constexpr (N == 128) {
    ACM_WGMMA(128, 64, 64, 65, "f16");
  } else if constexpr (IsBfloat16) {
    ACM_WGMMA(192, 96, 96, 97, "bf16");
  } else {
    ACM_WGMMA(192, 96, 96, 97, "f16");
  }
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int Pending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

#undef ACM_WGMMA
#undef ACM_NAMES_64
#undef ACM_NAMES_96
#undef ACM_SUMS_8
#undef ACM_SUMS_64
#undef ACM_SUMS_96

}  // namespace acm
