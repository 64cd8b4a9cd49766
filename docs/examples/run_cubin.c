/* Runs the kernel of a folder that `autotune export --target cuda:NAME --header` wrote:
 *
 *     cc -IFOLDER -DKERNEL=SYMBOL run_cubin.c -lcuda -o run_cubin
 *     ./run_cubin FOLDER/SYMBOL.cubin < inputs > output
 *
 * reads its inputs from standard input, one after the other, row by row, and writes the output
 * likewise. It needs the CUDA driver, and neither the toolkit's libraries nor Python. */
#include "kernels.h"

#include <stdio.h>
#include <stdlib.h>

/* Ends the program with the driver's words if a call has failed. */
static void check(CUresult result, const char *what) {
  const char *text = NULL;
  if (result == CUDA_SUCCESS) return;
  cuGetErrorString(result, &text);
  fprintf(stderr, "%s: %s (%d)\n", what, text ? text : "unknown error", (int)result);
  exit(1);
}

int main(int argc, char **argv) {
  const struct autotune_kernel *kernel = &KERNEL;
  if (argc != 2) {
    fprintf(stderr, "usage: run_cubin FOLDER/%s < inputs > output\n", kernel->file);
    return 2;
  }
  CUdevice device;
  CUcontext context;
  CUstream stream;
  check(cuInit(0), "the CUDA driver");
  check(cuDeviceGet(&device, 0), "the first GPU");
  check(cuDevicePrimaryCtxRetain(&context, device), "its context");
  check(cuCtxSetCurrent(context), "its context");
  check(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "a stream");

  struct autotune_loaded loaded;
  check(autotune_load(&loaded, kernel, argv[1], stream), argv[1]);

  CUdeviceptr arguments[AUTOTUNE_POINTERS];
  for (int i = 0; i < kernel->arguments; i++) {
    size_t size = (size_t)kernel->size[i];
    check(cuMemAlloc(&arguments[i], size), "device memory");
    if (i == kernel->arguments - 1) break; /* the output */
    void *input = malloc(size);
    if (!input || fread(input, 1, size, stdin) != size) {
      fprintf(stderr, "input %d is shorter than %zu bytes\n", i, size);
      return 1;
    }
    check(cuMemcpyHtoD(arguments[i], input, size), "an input");
    free(input);
  }
  check(autotune_call(&loaded, arguments, stream), kernel->symbol);
  check(cuStreamSynchronize(stream), kernel->symbol);

  size_t size = (size_t)kernel->size[kernel->arguments - 1];
  void *output = malloc(size);
  if (!output) return 1;
  check(cuMemcpyDtoH(output, arguments[kernel->arguments - 1], size), "the output");
  fwrite(output, 1, size, stdout);
  autotune_unload(&loaded);
  for (int i = 0; i < kernel->arguments; i++) cuMemFree(arguments[i]);
  free(output);
  return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
