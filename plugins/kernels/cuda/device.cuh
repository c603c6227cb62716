// Hopper's instructions as functions: barriers in shared memory, asynchronous copies, fences, conversions.
#pragma once

namespace acm {

using Address = unsigned;  // in shared memory

struct alignas(64) TensorMap {  // CUtensorMap
  unsigned char opaque[128];
};

__device__ __forceinline__ Address shared_address(const void* pointer) {
  return static_cast<Address>(__cvta_generic_to_shared(pointer));
}

// --- barriers

__device__ __forceinline__ void barrier_init(Address barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barriers_visible() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(Address barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives; the phase ends only after this many bytes were copied, too.
__device__ __forceinline__ void barrier_arrive_expecting(Address barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Arrives when all copies that this thread has started (copy_16) are complete, without waiting for them.
__device__ __forceinline__ void barrier_arrive_after_copies(Address barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Waits until the phase of this parity has ended. A barrier knows only the parity of its phase, so it must not be more
// than one phase ahead of or behind the one that is waited for.
__device__ __forceinline__ void barrier_wait(Address barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n"
      "}\n" ::"r"(barrier), "r"(parity) : "memory");
}

// --- copies

// Copies one box of a three-dimensional tensor map; completes on the barrier.
__device__ __forceinline__ void copy_box(Address to, const TensorMap* map, Address barrier, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
      ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier) : "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies 16 bytes: `bytes` of them are read, the rest become 0.
__device__ __forceinline__ void copy_16(Address to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Loads two values of T exactly here: if the compiler hoisted the loads of a whole tile, they would need too many
// registers.
__device__ __forceinline__ unsigned load_in_place(const unsigned short* from) {
  unsigned word;
  asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}

// Stores four matrices of 8 x 8 values of T, in the layout of the sums of a warp's product: word m of a thread has two
// values of row lane / 4 of matrix m. Thread 8 m + i has the address of row i of matrix m, 16 bytes.
__device__ __forceinline__ void store_matrices(Address row, unsigned a, unsigned b, unsigned c, unsigned d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               ::"r"(row), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

__device__ __forceinline__ void store_shared(Address to, int value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}

__device__ __forceinline__ int load_shared_int(Address from) {
  int value;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
  return value;
}

__device__ __forceinline__ uint4 load_shared(Address from) {
  uint4 words;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w) : "r"(from) : "memory");
  return words;
}

// --- products (wgmma.cuh)

// Orders writes of copy_16 to shared memory before the products that read them. Compiles to MEMBAR.ALL.CTA and
// FENCE.VIEW.ASYNC.
__device__ __forceinline__ void fence_copies_for_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- overlapping kernels (programmatic dependent launch); without it, both do nothing

// Lets the next kernel of the stream start as soon as this one leaves room.
__device__ __forceinline__ void next_kernel_may_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Waits until the results of all earlier kernels are visible.
__device__ __forceinline__ void wait_for_kernels_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// --- registers

// Forces the value to be computed before this point. If a sum is computed between products_begin and a product, ptxas
// waits for each product before the next.
__device__ __forceinline__ void settle(float& value) { asm volatile("" : "+f"(value)::"memory"); }

template <int Registers>
__device__ __forceinline__ void registers_release() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
__device__ __forceinline__ void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// --- values of T, two to a word, the first in the low half

template <bool IsBfloat16>
__device__ __forceinline__ unsigned pack(float low, float high) {
  unsigned word;
  if constexpr (IsBfloat16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
}

template <bool IsBfloat16>
__device__ __forceinline__ void unpack(unsigned word, float& low, float& high) {
  if constexpr (IsBfloat16) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xffff0000u);
  } else {
    asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}"
        : "=f"(low), "=f"(high) : "r"(word));
  }
}

// Relative error 2^-11.
__device__ __forceinline__ float tanh_approx(float v) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(v));
  return result;
}

}  // namespace acm
