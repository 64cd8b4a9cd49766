// The other half of the emulator: runs the kernel. Included after the kernel's source.
//
// usage: program ORDER OUT OUT_BYTES IN...   (raw bytes; ORDER 0 forward, 1 backward, else shuffled)
#pragma once
#include <cuda.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

alignas(1024) unsigned char pool_buf_ptr[256 * 1024];

enum class State { ready, waiting, done };
struct Fiber {
  ucontext_t context;
  State state;
};
static Fiber fibers[BLOCK_X];
static char stacks[BLOCK_X][64 * 1024];
static ucontext_t scheduler;
static int current;
static void* arguments[8];

static void fail(const char* why) {
  std::fprintf(stderr, "emulator: %s (block %u, thread %u)\n", why, blockIdx.x, threadIdx.x);
  std::exit(3);
}

static void yield(State state) {
  fibers[current].state = state;
  int self = current;
  swapcontext(&fibers[self].context, &scheduler);
  threadIdx = {unsigned(self), 0, 0};
}

void emulated_barrier() { yield(State::waiting); }

static void entry() {
  LAUNCH(arguments);
  fibers[current].state = State::done;
}

static void shuffle(int* turn, int count) {
  static unsigned long long random = 1;
  for (int i = count - 1; i > 0; --i) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    int j = int((random >> 33) % unsigned(i + 1)), kept = turn[i];
    turn[i] = turn[j];
    turn[j] = kept;
  }
}

static void run_block(int order) {
  const int threads = BLOCK_X;
  static int turn[BLOCK_X];
  for (int i = 0; i < threads; ++i) {
    turn[i] = order == 1 ? threads - 1 - i : i;
    getcontext(&fibers[i].context);
    fibers[i].context.uc_stack.ss_sp = stacks[i];
    fibers[i].context.uc_stack.ss_size = sizeof stacks[i];
    fibers[i].context.uc_link = &scheduler;
    fibers[i].state = State::ready;
    makecontext(&fibers[i].context, entry, 0);
  }
  // What a block leaves in shared memory means nothing to the next one.
  std::memset(pool_buf_ptr, 0xff, sizeof pool_buf_ptr);
  for (;;) {
    if (order > 1) shuffle(turn, threads);
    int done = 0;
    for (int i : turn) {
      current = i;
      threadIdx = {unsigned(i), 0, 0};
      if (fibers[i].state != State::done) swapcontext(&scheduler, &fibers[i].context);
      done += fibers[i].state == State::done;
    }
    if (done == threads) return;
    if (done) fail("some threads ended while others wait at a barrier");
  }
}

// Memory that ends at a page which cannot be touched, up to the 16 bytes of a vector.
static char* guarded(size_t bytes) {
  size_t page = size_t(sysconf(_SC_PAGESIZE)), size = (bytes + 15) / 16 * 16;
  size_t whole = (size + page - 1) / page * page;
  char* base = static_cast<char*>(mmap(nullptr, whole + 2 * page, PROT_NONE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (base == MAP_FAILED || mprotect(base + page, whole, PROT_READ | PROT_WRITE)) fail("no memory");
  return base + page + whole - size;
}

int main(int argc, char** argv) {
  int order = std::atoi(argv[1]);
  size_t out_bytes = std::strtoull(argv[3], nullptr, 10);
  for (int i = 4; i < argc; ++i) {
    FILE* file = std::fopen(argv[i], "rb");
    std::fseek(file, 0, SEEK_END);
    size_t bytes = size_t(std::ftell(file));
    std::rewind(file);
    arguments[i - 4] = guarded(bytes);
    if (std::fread(arguments[i - 4], 1, bytes, file) != bytes) fail("cannot read an input");
    std::fclose(file);
  }
  char* out = guarded(out_bytes);
  std::memset(out, 0xff, out_bytes);
  arguments[argc - 4] = out;
  blockDim = {BLOCK_X, 1, 1};
  gridDim = {GRID_X, 1, 1};
  for (unsigned block = 0; block < GRID_X; ++block) {
    blockIdx = {block, 0, 0};
    run_block(order);
  }
  FILE* file = std::fopen(argv[2], "wb");
  if (std::fwrite(out, 1, out_bytes, file) != out_bytes) fail("cannot write the output");
  std::fclose(file);
}
