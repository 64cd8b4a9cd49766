/* What an exported kernel needs at run time: memory, threads, a CPU that can run it, errors.
 *
 * TVM's code calls its runtime through pointers named __TVMBackend... . They are set to what is
 * below, so that a C program needs no other library. In a process with TVM's runtime, TVM's loader
 * sets them to its own functions, and kernels share TVM's thread pool with everything else.
 *
 * Structures and names are those of dlpack.h, tvm/ffi/c_api.h and tvm/runtime/c_backend_api.h.
 * Generated before this: NEEDED_FEATURES, NEEDS_AMX, THREADS; and after it, the kernels' functions. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define ALIGNMENT 4096
#define MAX_NDIM 8
#define MAX_ARGUMENTS 5

enum { OK = 0, WRONG_CPU = 1, BAD_ARGUMENT = 2, FAILED = 3 };

/* -- errors ------------------------------------------------------------------------------------ */

static _Thread_local char message[512];

API const char *autotune_last_error(void) { return message; }

/* Where TVM's FFI library is loaded, the dynamic linker prefers its function of this name. */
API __attribute__((weak)) void TVMFFIErrorSetRaisedFromCStrParts(const char *kind,
                                                                 const char **parts, int32_t count) {
  size_t length = (size_t)snprintf(message, sizeof message, "%s: ", kind);
  for (int32_t i = 0; i < count && length < sizeof message; i++)
    if (parts[i])
      length += (size_t)snprintf(message + length, sizeof message - length, "%s", parts[i]);
}

static int fail(int status, const char *text, const char *name) {
  snprintf(message, sizeof message, text, name);
  return status;
}

/* -- memory: each thread keeps what its kernels used, so that pages are touched only once ------- */

enum { SLOTS = 16 };
static _Thread_local struct slot { void *memory; size_t size; int used; } slots[SLOTS];
static pthread_key_t slots_key;
static pthread_once_t slots_once = PTHREAD_ONCE_INIT;

static void free_slots(void *first) {
  struct slot *slot = first;
  for (int i = 0; i < SLOTS; i++) free(slot[i].memory);
}

static void make_key(void) { pthread_key_create(&slots_key, free_slots); }

static void *workspace_alloc(int device, int id, uint64_t size, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  struct slot *best = NULL;
  size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  pthread_once(&slots_once, make_key);
  pthread_setspecific(slots_key, slots);
  for (int i = 0; i < SLOTS; i++) { /* the smallest that fits, or else the largest */
    struct slot *slot = &slots[i];
    if (slot->used) continue;
    int fits = slot->size >= size, best_fits = best && best->size >= size;
    if (!best || (fits && !best_fits) || (fits == best_fits && (slot->size < best->size) == fits))
      best = slot;
  }
  if (!best) return aligned_alloc(ALIGNMENT, size);
  if (best->size < size) {
    free(best->memory);
    best->memory = aligned_alloc(ALIGNMENT, size);
    best->size = best->memory ? size : 0;
    if (!best->memory) return NULL;
  }
  best->used = 1;
  return best->memory;
}

static int workspace_free(int device, int id, void *memory) {
  (void)device, (void)id;
  for (int i = 0; i < SLOTS; i++)
    if (slots[i].memory == memory) return slots[i].used = 0;
  free(memory);
  return 0;
}

/* -- threads: one team a library, which spins for a moment between kernels and then sleeps ------- */

struct environment { void *sync; int32_t tasks; };
typedef int (*task_function)(int task, struct environment *environment, void *data);

enum { MAX_THREADS = 512, SPINS = 20000 };
static struct {
  pthread_mutex_t launching, sleeping;
  pthread_cond_t wake;
  atomic_uint round;
  atomic_int sleepers, pending, failed;
  task_function task;
  void *data;
  int tasks, team; /* of the current round */
  int started;     /* threads beside the caller's */
} pool = {.launching = PTHREAD_MUTEX_INITIALIZER,
          .sleeping = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};
static atomic_int wanted_threads; /* 0 until somebody asks for a number */

static void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void run_share(int thread) {
  struct environment environment = {NULL, pool.tasks};
  for (int task = thread; task < pool.tasks; task += pool.team)
    if (pool.task(task, &environment, pool.data)) atomic_store(&pool.failed, 1);
}

static void await_round(unsigned seen) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load(&pool.round) != seen) return;
    pause_briefly();
  }
  pthread_mutex_lock(&pool.sleeping);
  atomic_fetch_add(&pool.sleepers, 1);
  while (atomic_load(&pool.round) == seen) pthread_cond_wait(&pool.wake, &pool.sleeping);
  atomic_fetch_sub(&pool.sleepers, 1);
  pthread_mutex_unlock(&pool.sleeping);
}

struct start { int thread; unsigned round; };

static void *worker(void *argument) {
  struct start start = *(struct start *)argument;
  free(argument);
  for (unsigned seen = start.round;; seen++) {
    await_round(seen);
    if (start.thread < pool.team) run_share(start.thread);
    atomic_fetch_sub(&pool.pending, 1);
  }
  return NULL;
}

static void forget_threads(void) { /* in the child of a fork, where only the caller goes on */
  pool.started = 0;
  atomic_store(&pool.sleepers, 0);
  pthread_mutex_init(&pool.launching, NULL);
  pthread_mutex_init(&pool.sleeping, NULL);
  pthread_cond_init(&pool.wake, NULL);
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_threads); }

static int default_threads = THREADS;

static void limit_threads(void) {
  cpu_set_t set;
  if (!sched_getaffinity(0, sizeof set, &set) && CPU_COUNT(&set) < default_threads)
    default_threads = CPU_COUNT(&set);
}

/* Start what is missing of a team; returns its size. Only while launching is held. */
static int gather(int team) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  while (pool.started < team - 1) {
    pthread_t thread;
    pthread_attr_t detached;
    struct start *start = malloc(sizeof *start);
    if (!start) break;
    *start = (struct start){pool.started + 1, atomic_load(&pool.round)};
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    int refused = pthread_create(&thread, &detached, worker, start);
    pthread_attr_destroy(&detached);
    if (refused) {
      free(start);
      break;
    }
    pool.started++;
  }
  return pool.started + 1 < team ? pool.started + 1 : team;
}

static int run_alone(task_function task, void *data, int tasks) {
  struct environment environment = {NULL, tasks};
  int failed = 0;
  for (int i = 0; i < tasks; i++) failed |= task(i, &environment, data);
  return failed ? -1 : 0;
}

static int parallel_launch(task_function task, void *data, int tasks) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, limit_threads);
  int team = atomic_load(&wanted_threads);
  if (!team) team = default_threads;
  /* Another thread's kernel has the team: this one computes by itself meanwhile. */
  if (team == 1 || pthread_mutex_trylock(&pool.launching))
    return run_alone(task, data, tasks > 0 ? tasks : 1);
  team = gather(team);
  pool.task = task, pool.data = data, pool.team = team, pool.tasks = tasks > 0 ? tasks : team;
  atomic_store(&pool.failed, 0);
  atomic_store(&pool.pending, pool.started); /* all check in, also who has nothing to do */
  atomic_fetch_add(&pool.round, 1);
  if (atomic_load(&pool.sleepers)) {
    pthread_mutex_lock(&pool.sleeping);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleeping);
  }
  run_share(0);
  for (int i = 0; atomic_load(&pool.pending); i++)
    if (i < SPINS) pause_briefly(); else sched_yield();
  int failed = atomic_load(&pool.failed);
  pthread_mutex_unlock(&pool.launching);
  return failed ? -1 : 0;
}

API void *__TVMBackendAllocWorkspace = (void *)workspace_alloc;
API void *__TVMBackendFreeWorkspace = (void *)workspace_free;
API void *__TVMBackendParallelLaunch = (void *)parallel_launch;

/* -- the CPU ------------------------------------------------------------------------------------ */

static const char *const needed_features[] = {NEEDED_FEATURES NULL}; /* as in /proc/cpuinfo */
static int cpu_status = WRONG_CPU;
static char cpu_message[256];

static int has_word(const char *line, const char *word) {
  size_t length = strlen(word);
  for (const char *at = line; (at = strstr(at, word)); at += length)
    if (strchr(" \t:", at[-1]) && strchr(" \n", at[length])) return 1;
  return 0;
}

static void check_cpu(void) {
  char *line = NULL;
  size_t size = 0;
  int found = 0;
  FILE *file = fopen("/proc/cpuinfo", "r");
  while (file && !found && getline(&line, &size, file) > 0)
    found = !strncmp(line, "flags", 5) || !strncmp(line, "Features", 8);
  if (file) fclose(file);
  cpu_status = OK;
  for (int i = 0; needed_features[i] && cpu_status == OK; i++)
    if (!found || !has_word(line, needed_features[i])) {
      snprintf(cpu_message, sizeof cpu_message,
               found ? "this library was compiled for a CPU with %s, which this one lacks"
                     : "cannot tell from /proc/cpuinfo whether this CPU has %s",
               needed_features[i]);
      cpu_status = WRONG_CPU;
    }
  free(line);
#if defined(__x86_64__)
  /* Linux lets a process use AMX's tiles after ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA. */
  if (cpu_status == OK && NEEDS_AMX && syscall(SYS_arch_prctl, 0x1023, 18)) {
    snprintf(cpu_message, sizeof cpu_message, "the kernel does not let this process use AMX");
    cpu_status = WRONG_CPU;
  }
#endif
}

API int autotune_check_cpu(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, check_cpu);
  return cpu_status == OK ? OK : fail(WRONG_CPU, "%s", cpu_message);
}

/* -- calls -------------------------------------------------------------------------------------- */

struct dtype { uint8_t code, bits; uint16_t lanes; };
struct tensor { /* DLTensor */
  void *data;
  struct { int32_t type, id; } device;
  int32_t ndim;
  struct dtype dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct any { int32_t type; uint32_t padding; union { int64_t number; void *pointer; } value; };
typedef int (*packed_function)(void *self, const struct any *arguments, int32_t count,
                               struct any *result);

struct argument {
  const char *name;
  struct dtype dtype;
  int ndim;
  int64_t shape[MAX_NDIM], strides[MAX_NDIM];
  size_t size;
};

enum { CPU = 1, TENSOR_POINTER = 7 };

/* The last argument is the output. */
static int call(packed_function function, const struct argument *arguments, void **data, int count) {
  struct tensor tensors[MAX_ARGUMENTS];
  struct any values[MAX_ARGUMENTS], result = {0, 0, {0}};
  int status = autotune_check_cpu();
  if (status != OK) return status;
  const char *out = data[count - 1];
  for (int i = 0; i < count; i++) {
    const struct argument *argument = &arguments[i];
    const char *start = data[i];
    if (!start) return fail(BAD_ARGUMENT, "%s is NULL", argument->name);
    if (i < count - 1 && start < out + arguments[count - 1].size && out < start + argument->size)
      return fail(BAD_ARGUMENT, "the output shares memory with %s", argument->name);
    tensors[i] = (struct tensor){data[i], {CPU, 0}, argument->ndim, argument->dtype,
                                 (int64_t *)argument->shape, (int64_t *)argument->strides, 0};
    values[i] = (struct any){TENSOR_POINTER, 0, {.pointer = &tensors[i]}};
  }
  message[0] = 0;
  if (!function(NULL, values, count, &result)) return OK;
  return message[0] ? FAILED : fail(FAILED, "%s", "the kernel failed: out of memory?");
}

API int autotune_set_threads(int threads) {
  if (threads < 1 || threads > MAX_THREADS)
    return fail(BAD_ARGUMENT, "%s", "the number of threads must be between 1 and 512");
  atomic_store(&wanted_threads, threads);
  return OK;
}
