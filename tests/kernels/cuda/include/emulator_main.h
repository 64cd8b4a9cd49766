// Runs the kernel whose source came before: program ORDER OUT OUT_BYTES IN...
// Files hold raw bytes. ORDER: 0 threads forward, 1 backward, 2 shuffled.
#pragma once

static void* arguments[8];

#ifndef HOPPER  // nothing happens by itself
static void start_cluster() {}
static bool asynchronous(bool) { return false; }
static void leave() {}
#endif

static void entry() {
  LAUNCH(arguments);
  leave();
  fibers[current].done = true;
  progress = true;
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

static void run_cluster() {
  const int threads = THREADS;
  static int turn[THREADS];
  for (Barrier& barrier : block_barriers) barrier = {BLOCK_X, 0, 0};
  for (Warp& warp : warps) warp.barrier = {32, 0, 0};
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    turn[i] = order == 1 ? threads - 1 - i : i;
    fiber.done = false;
    fiber.copied = fiber.groups = 0;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks[i];
    fiber.context.uc_stack.ss_size = sizeof stacks[i];
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, entry, 0);
  }
  // What a block leaves in shared memory means nothing to the next one.
  std::memset(pools, 0xff, sizeof pools);
  start_cluster();
  for (;;) {
    if (order > 1) shuffle(turn, threads);
    int done = 0;
    progress = false;
    for (int i : turn) {
      enter(i);
      if (!fibers[i].done) swapcontext(&scheduler, &fibers[i].context);
      done += fibers[i].done;
    }
    if (done == threads) return;
    if (asynchronous(!progress)) continue;
    if (!progress) fail("threads wait for others that will never come");
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
  order = std::atoi(argv[1]);
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
  for (first_block = 0; first_block < GRID_X; first_block += CLUSTER) run_cluster();
  FILE* file = std::fopen(argv[2], "wb");
  if (std::fwrite(out, 1, out_bytes, file) != out_bytes) fail("cannot write the output");
  std::fclose(file);
}
