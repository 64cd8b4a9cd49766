/* How a kernel is loaded and launched: the part of this header that is the same for all kernels. */

enum { AUTOTUNE_POINTERS = 9, AUTOTUNE_LAUNCHES = 3 };

/* An array as TMA reaches it; its fields are the arguments of cuTensorMapEncodeTiled. */
struct autotune_map {
  int type;
  unsigned rank;
  unsigned long long extents[3], strides[2];
  unsigned box[3];
  int swizzle, promotion;
};

/* What a kernel takes: the pointer of that number, or a map of its memory. Numbers count the
 * arguments first and scratch memory after them. */
struct autotune_parameter {
  int pointer;
  const struct autotune_map *map;
};

struct autotune_launch {
  const char *name;
  unsigned grid[3], block[3], shared_bytes, cluster; /* cluster: blocks along x */
  int parameters;
  struct autotune_parameter parameter[AUTOTUNE_POINTERS];
};

/* One product: launches in order, the last of which computes it. Sizes are in bytes. */
struct autotune_kernel {
  const char *symbol, *file;
  int arguments; /* inputs, then the output */
  unsigned long long size[AUTOTUNE_POINTERS];
  int scratches;
  unsigned long long scratch[AUTOTUNE_POINTERS];
  int launches;
  struct autotune_launch launch[AUTOTUNE_LAUNCHES];
};

/* A kernel in the current context. It owns scratch memory that its calls use one after the other:
 * calls in several streams at a time need to be loaded several times. */
struct autotune_loaded {
  const struct autotune_kernel *kernel;
  CUmodule module;
  CUfunction function[AUTOTUNE_LAUNCHES];
  CUdeviceptr scratch[AUTOTUNE_POINTERS];
};

static inline void autotune_unload(struct autotune_loaded *loaded) {
  for (int i = 0; i < AUTOTUNE_POINTERS; i++)
    if (loaded->scratch[i]) cuMemFree(loaded->scratch[i]);
  if (loaded->module) cuModuleUnload(loaded->module);
  memset(loaded, 0, sizeof *loaded);
}

static inline CUresult autotune_prepare(struct autotune_loaded *loaded, CUstream stream) {
  const struct autotune_kernel *kernel = loaded->kernel;
  CUresult result = CUDA_SUCCESS;
  for (int i = 0; i < kernel->launches && result == CUDA_SUCCESS; i++) {
    const struct autotune_launch *launch = &kernel->launch[i];
    result = cuModuleGetFunction(&loaded->function[i], loaded->module, launch->name);
    if (result == CUDA_SUCCESS) /* more than 48 KiB of shared memory have to be asked for */
      result = cuFuncSetAttribute(loaded->function[i],
                                  CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                  (int)launch->shared_bytes);
  }
  for (int i = 0; i < kernel->scratches && result == CUDA_SUCCESS; i++) {
    result = cuMemAlloc(&loaded->scratch[i], (size_t)kernel->scratch[i]);
    if (result == CUDA_SUCCESS) /* kernels count on zeros at first, and leave them behind */
      result = cuMemsetD8Async(loaded->scratch[i], 0, (size_t)kernel->scratch[i], stream);
  }
  return result;
}

/* Loads a kernel from its file at `path`. Calls may follow in the same stream at once. */
static inline CUresult autotune_load(struct autotune_loaded *loaded,
                                     const struct autotune_kernel *kernel, const char *path,
                                     CUstream stream) {
  memset(loaded, 0, sizeof *loaded);
  loaded->kernel = kernel;
  CUresult result = cuModuleLoad(&loaded->module, path);
  if (result == CUDA_SUCCESS) result = autotune_prepare(loaded, stream);
  if (result != CUDA_SUCCESS) autotune_unload(loaded);
  return result;
}

#ifdef AUTOTUNE_MAPS
static inline CUresult autotune_encode(CUtensorMap *map, const struct autotune_map *of,
                                       CUdeviceptr memory) {
  cuuint64_t extents[3], strides[2];
  cuuint32_t box[3], steps[3] = {1, 1, 1};
  for (unsigned i = 0; i < of->rank; i++) {
    extents[i] = of->extents[i];
    box[i] = of->box[i];
    if (i) strides[i - 1] = of->strides[i - 1];
  }
  return cuTensorMapEncodeTiled(
      map, (CUtensorMapDataType)of->type, of->rank, (void *)(uintptr_t)memory, extents, strides,
      box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, (CUtensorMapSwizzle)of->swizzle,
      (CUtensorMapL2promotion)of->promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}
#endif

#ifdef AUTOTUNE_CLUSTERS
static inline CUresult autotune_cluster(CUfunction function, const struct autotune_launch *launch,
                                        void **parameters, CUstream stream) {
  CUlaunchAttribute attribute;
  CUlaunchConfig config;
  memset(&attribute, 0, sizeof attribute);
  memset(&config, 0, sizeof config);
  attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  attribute.value.clusterDim.x = launch->cluster;
  attribute.value.clusterDim.y = attribute.value.clusterDim.z = 1;
  config.gridDimX = launch->grid[0];
  config.gridDimY = launch->grid[1];
  config.gridDimZ = launch->grid[2];
  config.blockDimX = launch->block[0];
  config.blockDimY = launch->block[1];
  config.blockDimZ = launch->block[2];
  config.sharedMemBytes = launch->shared_bytes;
  config.hStream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cuLaunchKernelEx(&config, function, parameters, NULL);
}
#endif

/* Computes the product in the order of the stream. `arguments` are the inputs and the output, device
 * memory that starts at multiples of 16 bytes; the output must not share memory with an input. */
static inline CUresult autotune_call(const struct autotune_loaded *loaded,
                                     const CUdeviceptr *arguments, CUstream stream) {
  const struct autotune_kernel *kernel = loaded->kernel;
  CUdeviceptr memory[AUTOTUNE_POINTERS];
  for (int i = 0; i < kernel->arguments; i++) {
    if (!arguments[i] || arguments[i] % 16) return CUDA_ERROR_INVALID_VALUE;
    memory[i] = arguments[i];
  }
  for (int i = 0; i < kernel->scratches; i++) memory[kernel->arguments + i] = loaded->scratch[i];
  for (int i = 0; i < kernel->launches; i++) {
    const struct autotune_launch *launch = &kernel->launch[i];
    CUfunction function = loaded->function[i];
    CUresult result = CUDA_SUCCESS;
    void *parameters[AUTOTUNE_POINTERS];
#ifdef AUTOTUNE_MAPS
    CUtensorMap maps[AUTOTUNE_POINTERS];
#endif
    for (int j = 0; j < launch->parameters && result == CUDA_SUCCESS; j++) {
      const struct autotune_parameter *parameter = &launch->parameter[j];
      parameters[j] = &memory[parameter->pointer];
#ifdef AUTOTUNE_MAPS
      if (parameter->map) {
        parameters[j] = &maps[j];
        result = autotune_encode(&maps[j], parameter->map, memory[parameter->pointer]);
      }
#endif
    }
    if (result != CUDA_SUCCESS) return result;
#ifdef AUTOTUNE_CLUSTERS
    if (launch->cluster > 1)
      result = autotune_cluster(function, launch, parameters, stream);
    else
#endif
      result = cuLaunchKernel(function, launch->grid[0], launch->grid[1], launch->grid[2],
                              launch->block[0], launch->block[1], launch->block[2],
                              launch->shared_bytes, stream, parameters, NULL);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}
