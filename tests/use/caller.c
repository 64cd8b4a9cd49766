/* Calls an exported product and its packed twin from C, and prints what it sees. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gemm.h"

enum { M = 37, N = 50, K = 33 };
static float a[M * K], b[K * N], bias[N], memory[M * N + 1], *const c = memory + 1;

static double worst(void) {
  double error = 0;
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      double sum = bias[j];
      for (int k = 0; k < K; k++) sum += (double)a[i * K + k] * b[k * N + j];
      sum = sum > 0 ? sum : 0;
      double off = sum - c[i * N + j];
      if (!(off < 0)) off = -off;
      if (!(-off <= error)) error = -off;
    }
  return error;
}

static void *many(void *unused) {
  float own[M * N];
  for (int i = 0; i < 200; i++) {
    if (autotune_gemm_37x50x33_nn_float32_bias_relu(a, b, bias, own)) return (void *)1;
    if (memcmp(own, c, sizeof own)) return (void *)2;
  }
  return unused;
}

int main(int count, char **words) {
  if (count > 1) printf("threads %d\n", autotune_set_threads(atoi(words[1])));
  for (int i = 0; i < M * K; i++) a[i] = (float)(rand() % 200 - 100) / 100;
  for (int i = 0; i < K * N; i++) b[i] = (float)(rand() % 200 - 100) / 100;
  for (int i = 0; i < N; i++) bias[i] = (float)(rand() % 200 - 100) / 100;
  memset(memory, 0xff, sizeof memory);
  printf("status %d\n", autotune_gemm_37x50x33_nn_float32_bias_relu(a, b, bias, c));
  printf("right %d\n", worst() < 1e-5);

  printf("null %d: ", autotune_gemm_37x50x33_nn_float32_bias_relu(a, NULL, bias, c));
  printf("%s\n", autotune_last_error());
  printf("shared %d: ", autotune_gemm_37x50x33_nn_float32_bias_relu(a, b, c, c));
  printf("%s\n", autotune_last_error());
  printf("threads %d\n", autotune_set_threads(0));

  pthread_t callers[4];
  long failed = 0;
  for (int i = 0; i < 4; i++) pthread_create(&callers[i], NULL, many, NULL);
  for (int i = 0; i < 4; i++) {
    void *result;
    pthread_join(callers[i], &result);
    failed |= (long)result;
  }
  printf("concurrent %ld\n", failed);

  fflush(stdout);
  pid_t child = fork();
  if (child == 0) _exit(many(NULL) != NULL);
  int status;
  waitpid(child, &status, 0);
  printf("forked %d\n", status);
  printf("described %d\n", strstr(autotune_library_description, "\"m\": 37") != NULL);
  return 0;
}
