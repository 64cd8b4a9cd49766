/* Runs a model that `autotune compile` wrote, on one float32 tensor:
 *
 *     run_model MODEL.so EXTENT... < input > output
 *
 * reads a tensor of that shape from standard input, row by row, and writes the result likewise.
 * It needs libtvm_ffi.so and libtvm_runtime.so, and neither Python nor TVM's compiler. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { CPU = 1, POOLED = 2, MAX_RANK = 8, CACHE_LINE = 64 };

static TVMFFIByteArray bytes(const char *text) {
  TVMFFIByteArray array = {text, strlen(text)};
  return array;
}

/* Ends the program with TVM's message if a call has failed. */
static void check(int code, const char *what) {
  if (code == 0) return;
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  const TVMFFIErrorCell *cell =
      error ? (const TVMFFIErrorCell *)((char *)error + sizeof(TVMFFIObject)) : NULL;
  if (cell)
    fprintf(stderr, "%s: %.*s\n", what, (int)cell->message.size, cell->message.data);
  else
    fprintf(stderr, "%s failed\n", what);
  exit(1);
}

static TVMFFIAny integer(int64_t value) {
  TVMFFIAny any = {.type_index = kTVMFFIInt, .v_int64 = value};
  return any;
}

static TVMFFIAny text(const char *value) {
  TVMFFIAny any = {.type_index = kTVMFFIRawStr, .v_c_str = value};
  return any;
}

/* Calls a function; what it returns belongs to the caller. */
static TVMFFIAny call(TVMFFIObjectHandle function, const char *name, TVMFFIAny *arguments, int count) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  check(TVMFFIFunctionCall(function, arguments, count, &result), name);
  return result;
}

static TVMFFIAny call_global(const char *name, TVMFFIAny *arguments, int count) {
  TVMFFIObjectHandle function;
  TVMFFIByteArray key = bytes(name);
  check(TVMFFIFunctionGetGlobal(&key, &function), name);
  TVMFFIAny result = call(function, name, arguments, count);
  TVMFFIObjectDecRef(function);
  return result;
}

static TVMFFIObjectHandle function_of(TVMFFIAny module, const char *name) {
  TVMFFIAny arguments[] = {module, text(name), {.type_index = kTVMFFIBool, .v_int64 = 1}};
  TVMFFIAny found = call_global("ffi.ModuleGetFunction", arguments, 3);
  if (found.type_index != kTVMFFIFunction) {
    fprintf(stderr, "there is no function %s; is this a model of autotune's?\n", name);
    exit(1);
  }
  return found.v_obj;
}

/* Returns the function `main` of a model, which stays loaded until the program ends. */
static TVMFFIObjectHandle load(const char *path) {
#ifdef SYS_arch_prctl
  /* Kernels on AMX need the system's leave, which other CPUs refuse. */
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
#endif
  TVMFFIAny name = text(path);
  TVMFFIAny library = call_global("ffi.ModuleLoadFromFile", &name, 1);
  TVMFFIAny machine = call(function_of(library, "vm_load_executable"), "loading", NULL, 0);
  TVMFFIAny devices[] = {integer(CPU), integer(0), integer(POOLED)};
  call(function_of(machine, "vm_initialization"), "starting", devices, 3);
  return function_of(machine, "main");
}

static size_t elements(const DLTensor *tensor) {
  size_t count = 1;
  for (int i = 0; i < tensor->ndim; i++) count *= (size_t)tensor->shape[i];
  return count;
}

int main(int argc, char **argv) {
  if (argc < 3 || argc - 2 > MAX_RANK) {
    fprintf(stderr, "usage: run_model MODEL.so EXTENT... < input > output\n");
    return 2;
  }
  int64_t shape[MAX_RANK];
  for (int i = 2; i < argc; i++) shape[i - 2] = atoll(argv[i]);

  /* The input stays ours: TVM only gets a view of it, without a function that frees it. */
  DLManagedTensor input = {0};
  input.dl_tensor.device.device_type = kDLCPU;
  input.dl_tensor.dtype = (DLDataType){kDLFloat, 32, 1};
  input.dl_tensor.ndim = argc - 2;
  input.dl_tensor.shape = shape;
  size_t size = elements(&input.dl_tensor) * sizeof(float);
  size_t whole = (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  input.dl_tensor.data = aligned_alloc(CACHE_LINE, whole);
  if (!input.dl_tensor.data || fread(input.dl_tensor.data, 1, size, stdin) != size) {
    fprintf(stderr, "the input is shorter than %zu bytes\n", size);
    return 1;
  }

  TVMFFIObjectHandle model = load(argv[1]);
  TVMFFIAny x = {.type_index = kTVMFFITensor};
  check(TVMFFITensorFromDLPack(&input, CACHE_LINE, 1, (TVMFFIObjectHandle *)&x.v_obj), "the input");
  TVMFFIAny y = call(model, "the model", &x, 1);
  if (y.type_index != kTVMFFITensor) {
    fprintf(stderr, "this model returns several tensors; see ffi.ArrayGetItem\n");
    return 1;
  }
  const DLTensor *output = (const DLTensor *)((char *)y.v_obj + sizeof(TVMFFIObject));
  fwrite((const char *)output->data + output->byte_offset, output->dtype.bits / 8,
         elements(output), stdout);
  TVMFFIObjectDecRef(y.v_obj);
  TVMFFIObjectDecRef(x.v_obj);
  free(input.dl_tensor.data);
  return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
