/* Stands in for libcuda.so.1 on machines without a GPU: memory is the host's, time is counted, not
 * measured, and a "cubin" is a text that says how its kernel behaves:
 *
 *     BEHAVIOUR M N K
 *
 * right    computes C = A x B in fp32 (layout nn)
 * mapped   the same, launched in clusters of two, with A behind a tensor map
 * scratch  the same, if its last parameter, scratch memory, starts as zeros, and if each call of it
 *          comes after one of another kernel of the module, which copies B there
 * wrong    the same, and adds one to the last element
 * idle     writes nothing
 * sticky   an illegal address: every later call fails with it
 * hang     never finishes
 * reject   cannot be loaded
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICES 2
#define ILLEGAL_ADDRESS 700
#define LAUNCH_MS 0.010f
#define COLD_MS 0.015f /* what a call takes after the cache was overwritten */

struct kernel { char behaviour[16]; int m, n, k, copied; };
struct function { struct kernel* kernel; int copies; };
static int sticky, pending_hang, capturing, captured, flushed, allocated;
static float now_ms;
#define ENTER if (sticky) return sticky

int cuInit(unsigned flags) { return flags; }
int cuDeviceGetCount(int* count) { *count = DEVICES; return 0; }
int cuDeviceGet(int* handle, int number) { *handle = number; return number < DEVICES ? 0 : 101; }
int cuDeviceGetName(char* text, int size, int device) {
  snprintf(text, (size_t)size, device ? "NVIDIA Unheard-of" : "NVIDIA H200");
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  switch (attribute) {
    case 1: *value = 1024; break;
    case 10: *value = 32; break;
    case 13: *value = 1500000; break;
    case 16: *value = device ? 7 : 132; break;
    case 36: *value = 2000000; break;
    case 37: *value = 512; break;
    case 38: *value = device ? 1 << 20 : 62914560; break;
    case 39: *value = 2048; break;
    case 75: *value = 9; break;
    case 76: *value = 0; break;
    case 81: *value = 233472; break;
    case 82: *value = 65536; break;
    case 97: *value = 232448; break;
    default: return 1;
  }
  return 0;
}
int cuDeviceTotalMem_v2(size_t* size, int device) { *size = 141000000000u + (size_t)device; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = &now_ms + device; return 0; }
int cuCtxSetCurrent(void* context) { return context == 0; }
int cuGetErrorName(int code, const char** text) {
  *text = code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_FAKE";
  return 0;
}
int cuGetErrorString(int code, const char** text) { *text = code ? "as asked" : ""; return 0; }

int cuMemAlloc_v2(void** address, size_t size) {
  ENTER;
  /* scratch memory is given back, or there is soon none left */
  if (++allocated > 8) return 2;
  *address = malloc(size);
  if (*address && size <= (1u << 20)) memset(*address, 0x55, size);
  return *address == 0;
}
int cuMemFree_v2(void* address) { ENTER; --allocated; free(address); return 0; }
int cuMemcpyHtoD_v2(void* to, const void* from, size_t size) { ENTER; memcpy(to, from, size); return 0; }
int cuMemcpyDtoH_v2(void* to, const void* from, size_t size) { ENTER; memcpy(to, from, size); return 0; }
int cuMemsetD8Async(void* to, unsigned char byte, size_t size, void* stream) {
  ENTER;
  (void)stream;
  if (size > (1u << 20)) flushed = 1; /* as large as a cache: touching it would only take time */
  else memset(to, byte, size);
  now_ms += 1.0f;
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  ENTER;
  struct kernel* kernel = calloc(1, sizeof *kernel);
  if (sscanf(image, "%15s %d %d %d", kernel->behaviour, &kernel->m, &kernel->n, &kernel->k) != 4)
    return 200;
  if (!strcmp(kernel->behaviour, "reject")) return 209;
  *module = kernel;
  return 0;
}
int cuModuleLoad(void** module, const char* path) {
  char image[64] = {0};
  FILE* file = fopen(path, "rb");
  if (!file) return 301;
  size_t size = fread(image, 1, sizeof image - 1, file);
  fclose(file);
  return size ? cuModuleLoadData(module, image) : 200;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  ENTER;
  struct function* found = calloc(1, sizeof *found);
  found->kernel = module;
  found->copies = !strcmp(name, "copy_kernel");
  *function = found;
  return strcmp(name, "main_kernel") && !found->copies ? 500 : 0;
}
int cuModuleUnload(void* module) { ENTER; free(module); return 0; }
int cuFuncSetAttribute(void* function, int attribute, int value) {
  ENTER;
  (void)function;
  return attribute != 8 || value > 232448;
}
int cuStreamCreate(void** stream, unsigned flags) { ENTER; *stream = &now_ms; return flags != 1; }
int cuStreamSynchronize(void* stream) {
  ENTER;
  (void)stream;
  while (pending_hang) sleep(1);
  return 0;
}

/* A tensor map holds these two; what is wrong with its arguments the driver finds at once. */
static const unsigned long long magic = 0x7e450f3a9;
struct map { unsigned long long magic; float* memory; };
int cuTensorMapEncodeTiled(struct map* map, int type, unsigned rank, void* memory,
                           const unsigned long long* extents, const unsigned long long* strides,
                           const unsigned* box, const unsigned* steps, int interleave, int swizzle,
                           int promotion, int fill) {
  ENTER;
  if ((size_t)map % 64 || (size_t)memory % 16 || rank != 2 || type != 7) return 1;
  if (extents[0] != 5 || extents[1] != 9 || strides[0] != 20 || box[0] != 4 || box[1] != 8) return 1;
  if (steps[0] != 1 || steps[1] != 1 || interleave || swizzle != 3 || promotion != 2 || fill) return 1;
  map->magic = magic;
  map->memory = memory;
  return 0;
}
static float* reached(void* parameter) {
  struct map* map = parameter;
  return map->magic == magic ? map->memory : *(float**)parameter;
}

static int launch(struct function* function, void** parameters) {
  struct kernel* k = function->kernel;
  if (capturing) { ++captured; return 0; }
  now_ms += flushed ? COLD_MS : LAUNCH_MS;
  flushed = 0;
  if (!strcmp(k->behaviour, "sticky")) { sticky = ILLEGAL_ADDRESS; return 0; }
  if (!strcmp(k->behaviour, "hang")) pending_hang = 1;
  if (function->copies) {
    const float* from = reached(parameters[0]);
    float* to = reached(parameters[1]);
    for (int i = 0; i < k->k * k->n; ++i) {
      if (!k->copied && to[i] != 0) return 719;
      to[i] = from[i];
    }
    k->copied = 2;
    return 0;
  }
  if (!strcmp(k->behaviour, "scratch") && k->copied-- != 2) return 719;
  if (strcmp(k->behaviour, "right") && strcmp(k->behaviour, "scratch") && strcmp(k->behaviour, "wrong") &&
      strcmp(k->behaviour, "mapped"))
    return 0;
  const float *a = reached(parameters[0]), *b = reached(parameters[1]);
  float* c = reached(parameters[2]);
  for (int i = 0; i < k->m; ++i)
    for (int j = 0; j < k->n; ++j) {
      float sum = 0;
      for (int x = 0; x < k->k; ++x) sum += a[i * k->k + x] * b[x * k->n + j];
      c[i * k->n + j] = sum;
    }
  if (!strcmp(k->behaviour, "wrong")) c[k->m * k->n - 1] += 1;
  return 0;
}

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** parameters, void** extra) {
  ENTER;
  (void)gx, (void)gy, (void)gz, (void)by, (void)bz, (void)shared, (void)stream, (void)extra;
  if (bx > 1024 || !strcmp(((struct function*)function)->kernel->behaviour, "mapped")) return 1;
  return launch(function, parameters);
}

struct attribute { int id; char padding[4]; unsigned cluster[3]; char rest[52]; };
struct config {
  unsigned grid[3], block[3], shared;
  void* stream;
  const struct attribute* attributes;
  unsigned count;
};
int cuLaunchKernelEx(const struct config* c, void* function, void** parameters, void** extra) {
  ENTER;
  if (extra || c->count != 1 || c->attributes->id != 4) return 1;
  const unsigned* cluster = c->attributes->cluster;
  if (cluster[0] != 2 || cluster[1] != 1 || cluster[2] != 1) return 1;
  if (c->grid[0] != 4 || c->grid[1] != 1 || c->grid[2] != 1 || c->stream != &now_ms) return 1;
  if (c->block[0] != 32 || c->block[1] != 1 || c->block[2] != 1 || c->shared != 4096) return 1;
  return launch(function, parameters);
}

int cuEventCreate(void** event, unsigned flags) { ENTER; *event = calloc(1, sizeof(float)); return (int)flags; }
int cuEventRecord(void* event, void* stream) { ENTER; (void)stream; *(float*)event = now_ms; return 0; }
int cuEventElapsedTime(float* ms, void* start, void* end) {
  ENTER;
  *ms = *(float*)end - *(float*)start;
  return 0;
}
int cuStreamBeginCapture_v2(void* stream, int mode) {
  ENTER;
  (void)stream;
  capturing = 1;
  captured = 0;
  return mode != 1;
}
int cuStreamEndCapture(void* stream, void** graph) {
  ENTER;
  (void)stream;
  capturing = 0;
  *graph = malloc(sizeof(int));
  *(int*)*graph = captured;
  return 0;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  ENTER;
  *executable = malloc(sizeof(int));
  *(int*)*executable = *(int*)graph;
  return flags != 0;
}
int cuGraphDestroy(void* graph) { ENTER; free(graph); return 0; }
int cuGraphLaunch(void* executable, void* stream) {
  ENTER;
  (void)stream;
  now_ms += LAUNCH_MS * (float)*(int*)executable;
  return 0;
}
int cuGraphExecDestroy(void* executable) { ENTER; free(executable); return 0; }
