// Stands in for CUDA's headers when a kernel's source is compiled by the host's C++ compiler.
// Every thread of a block is a fiber; a barrier switches to the next one. See emulator.py.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;

template <class T, int N> struct alignas(sizeof(T) * N) vec;
template <class T> struct alignas(sizeof(T) * 2) vec<T, 2> { T x, y; };
template <class T> struct alignas(sizeof(T) * 4) vec<T, 4> { T x, y, z, w; };
using float2 = vec<float, 2>;
using float4 = vec<float, 4>;
using int2 = vec<int, 2>;
using int4 = vec<int, 4>;
using uint2 = vec<unsigned, 2>;
using uint4 = vec<unsigned, 4>;
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float max(float a, float b) { return a > b ? a : b; }
static inline float min(float a, float b) { return a < b ? a : b; }

// TVM's prelude shuffles only to tell the compiler that a value is the same in a whole warp.
#define __shfl_sync(mask, value, lane, width) (value)

void emulated_barrier();
static inline void __syncthreads() { emulated_barrier(); }
