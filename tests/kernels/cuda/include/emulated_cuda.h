// Stands in for CUDA when a kernel's source is compiled by the host's C++ compiler. Every thread of
// the blocks of a cluster is a fiber, and whoever waits for others lets them run. See emulator.py.
//
// GRID_X, BLOCK_X and CLUSTER come before this; LAUNCH(a) after it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
typedef unsigned int uint;
typedef unsigned char uchar;

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx;
// Shared memory of each block of the cluster, and that of the block whose turn it is.
const int POOL = 256 * 1024, THREADS = CLUSTER * BLOCK_X;
alignas(1024) static unsigned char pools[CLUSTER][POOL];
static unsigned char* pool_buf_ptr;

// -- types --------------------------------------------------------------------------------------

template <class T, int N> struct vec;
template <class T> struct alignas(sizeof(T) * 2) vec<T, 2> { T x, y; };
template <class T> struct alignas(sizeof(T) * 4) vec<T, 4> { T x, y, z, w; };

struct nv_bfloat16 {
  uint16_t bits;
  nv_bfloat16() = default;
  explicit nv_bfloat16(float value) {
    uint32_t u;
    std::memcpy(&u, &value, 4);
    bits = value != value ? 0x7fff : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  operator float() const {
    uint32_t u = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &u, 4);
    return value;
  }
};
typedef _Float16 half;
typedef vec<half, 2> half2;
typedef vec<nv_bfloat16, 2> nv_bfloat162;
typedef vec<float, 2> float2;
typedef vec<float, 4> float4;
typedef vec<short, 2> short2;
typedef vec<int, 2> int2;
typedef vec<int, 4> int4;
typedef vec<unsigned, 2> uint2;
typedef vec<unsigned, 4> uint4;
static inline half __float2half_rn(float x) { return half(x); }
static inline nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
static inline short2 make_short2(short x, short y) { return {x, y}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <class T> static inline T max(T a, T b) { return a > b ? a : b; }
template <class T> static inline T min(T a, T b) { return a < b ? a : b; }

// TVM shuffles only to tell the compiler that a value is the same in a whole warp.
#define __shfl_sync(mask, value, lane, width) (value)

// -- threads that wait for each other -------------------------------------------------------------

static int order, current;
static bool progress;
static ucontext_t scheduler;
struct Copy { unsigned char* to; const void* from; unsigned size; };
struct Fiber {
  ucontext_t context;
  bool done;
  // Asynchronous copies that have not been made: the first ends[0] are of the oldest group, ...
  Copy copies[4096];
  int copied, ends[4096], groups;
};
static Fiber fibers[THREADS];
static char stacks[THREADS][64 * 1024];
static unsigned first_block;

static void enter(int fiber) {
  current = fiber;
  threadIdx = {unsigned(fiber % BLOCK_X), 0, 0};
  blockIdx = {first_block + unsigned(fiber / BLOCK_X), 0, 0};
  pool_buf_ptr = pools[fiber / BLOCK_X];
}

static void let_others_run() {
  int self = current;
  swapcontext(&fibers[self].context, &scheduler);
  enter(self);
}

static void fail(const char* why) {
  std::fprintf(stderr, "emulator: %s (block %u, thread %u)\n", why, blockIdx.x, threadIdx.x);
  std::exit(3);
}

struct Barrier {
  int size, arrived, generation;
  void wait() {
    int mine = generation;
    progress = true;
    if (++arrived == size) {
      arrived = 0;
      ++generation;
    }
    while (generation == mine) let_others_run();
    progress = true;
  }
};
static Barrier block_barriers[CLUSTER];

static inline void tvm_builtin_cuda_cta_sync() { block_barriers[current / BLOCK_X].wait(); }

// -- global memory: blocks run one after the other, so that the order of accesses is the program's --

template <class T> static T tvm_builtin_cuda_atomic_add(T* address, T value) {
  T old = *address;
  *address = T(old + value);
  return old;
}
static inline void tvm_builtin_cuda_thread_fence() {}

// -- a warp's matrices ----------------------------------------------------------------------------

// What each lane brings to a collective; two sets, because the first lane may be at the next
// collective while the last one still reads.
struct Warp {
  Barrier barrier;
  uint32_t brought[2][32][8];
};
static Warp warps[(THREADS + 31) / 32];

static const uint32_t (*exchange(const uint32_t* mine, int count))[8] {
  Warp& warp = warps[current / 32];
  int set = warp.barrier.generation & 1;
  std::memcpy(warp.brought[set][threadIdx.x % 32], mine, size_t(count) * 4);
  warp.barrier.wait();
  return warp.brought[set];
}

static inline uint32_t tvm_builtin_cuda_cvta_generic_to_shared(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - pool_buf_ptr);
}

static void ldmatrix(uint32_t* r, uint32_t address, bool transposed) {
  if (address % 16) fail("ldmatrix from an address that is not aligned");
  auto rows = exchange(&address, 1);
  int lane = int(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i) {
    if (!transposed) {
      std::memcpy(&r[i], pool_buf_ptr + rows[8 * i + lane / 4][0] + lane % 4 * 4, 4);
      continue;
    }
    uint16_t pair[2];
    for (int x = 0; x < 2; ++x)
      std::memcpy(&pair[x], pool_buf_ptr + rows[8 * i + lane % 4 * 2 + x][0] + lane / 4 * 2, 2);
    std::memcpy(&r[i], pair, 4);
  }
}

#define LDMATRIX(name, transposed)                                                        \
  static void name(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, uint32_t address) { \
    uint32_t r[4];                                                                         \
    ldmatrix(r, address, transposed);                                                      \
    a = r[0], b = r[1], c = r[2], d = r[3];                                                \
  }
LDMATRIX(tvm_builtin_ptx_ldmatrix_sync_aligned_m8n8_x4_shared_b16, false)
LDMATRIX(tvm_builtin_ptx_ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16, true)

// The fragments of mma.m16n8k(32 bytes), PTX ISA 9.7.14.5.8 and 9.7.14.5.10: lane l holds rows
// g = l / 4 and g + 8 of A and column g of B, four bytes at byte 4 * (l % 4) of each half of k; of C
// it holds columns 2 * (l % 4) and the next.
template <class T, class Sum> static void mma(Sum* d, const uint32_t* ab, const Sum* c) {
  const int each = 4 / int(sizeof(T));
  auto lanes = exchange(ab, 6);
  int lane = int(threadIdx.x % 32);
  for (int i = 0; i < 4; ++i) {
    int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    Sum sum = c[i];
    for (int part = 0; part < 2; ++part)
      for (int quad = 0; quad < 4; ++quad) {
        T x[4], y[4];
        std::memcpy(x, &lanes[row % 8 * 4 + quad][row / 8 + 2 * part], 4);
        std::memcpy(y, &lanes[column * 4 + quad][4 + part], 4);
        for (int e = 0; e < each; ++e) sum += Sum(x[e]) * Sum(y[e]);
      }
    d[i] = sum;
  }
}

#define MMA(name, T, Reg, Sum)                                                               \
  static void name(Reg& d0, Reg& d1, Reg& d2, Reg& d3, uint32_t a0, uint32_t a1, uint32_t a2, \
                   uint32_t a3, uint32_t b0, uint32_t b1, Reg c0, Reg c1, Reg c2, Reg c3) {   \
    uint32_t ab[6] = {a0, a1, a2, a3, b0, b1};                                                \
    Sum c[4] = {Sum(c0), Sum(c1), Sum(c2), Sum(c3)}, d[4];                                    \
    mma<T, Sum>(d, ab, c);                                                                    \
    d0 = Reg(d[0]), d1 = Reg(d[1]), d2 = Reg(d[2]), d3 = Reg(d[3]);                           \
  }
MMA(tvm_builtin_ptx_mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32, half, float, float)
MMA(tvm_builtin_ptx_mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32, nv_bfloat16, float, float)
MMA(tvm_builtin_ptx_mma_int_sync_aligned_m16n8k32_row_col_s32_s8_s8_s32, signed char, uint32_t, int)

// -- asynchronous copies: made as late as allowed, or (shuffled) at once ---------------------------

static void make(const Copy& copy) {
  std::memset(copy.to, 0, 16);
  std::memcpy(copy.to, copy.from, copy.size);
}

static void tvm_builtin_ptx_cp_async_cg_src_size_async_cg_shared_global_16(
    uint32_t to, const void* from, uint32_t size) {
  if (to % 16 || uintptr_t(from) % 16) fail("cp.async with an address that is not aligned");
  Fiber& self = fibers[threadIdx.x];
  Copy copy = {pool_buf_ptr + to, from, size};
  if (order > 1) make(copy);
  else if (self.copied == 4096) fail("too many copies in flight");
  else self.copies[self.copied++] = copy;
}

static void tvm_builtin_ptx_cp_async_cg_async_cg_shared_global_16(uint32_t to, const void* from) {
  tvm_builtin_ptx_cp_async_cg_src_size_async_cg_shared_global_16(to, from, 16);
}

static void tvm_builtin_ptx_cp_async_commit_group_async_commit_group() {
  Fiber& self = fibers[threadIdx.x];
  self.ends[self.groups++] = self.copied;
}

static void wait_group(int left) {
  Fiber& self = fibers[threadIdx.x];
  int finished = self.groups - left;
  if (finished <= 0) return;
  int end = self.ends[finished - 1];
  for (int i = 0; i < end; ++i) make(self.copies[i]);
  std::memmove(self.copies, self.copies + end, size_t(self.copied - end) * sizeof(Copy));
  self.copied -= end;
  self.groups -= finished;
  for (int i = 0; i < self.groups; ++i) self.ends[i] = self.ends[finished + i] - end;
}
#define DEFINE_WAIT(n)                                                          \
  static void tvm_builtin_ptx_cp_async_wait_group_async_wait_group_##n() { wait_group(n); }
DEFINE_WAIT(0)
DEFINE_WAIT(1)
DEFINE_WAIT(2)
DEFINE_WAIT(3)
DEFINE_WAIT(4)
