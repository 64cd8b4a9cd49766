// Runs the kernel whose source came before: program ORDER FILE...
// Files hold the raw bytes of the arguments, and are written back. ORDER: 0 threads forward, 1 threads
// and blocks backward, 2 threads shuffled.
#pragma once

const int MOST_ARGUMENTS = 12;
static void* arguments[MOST_ARGUMENTS];

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
  int count = argc - 2;
  if (count > MOST_ARGUMENTS) fail("too many arguments");
  size_t bytes[MOST_ARGUMENTS];
  for (int i = 0; i < count; ++i) {
    FILE* file = std::fopen(argv[i + 2], "rb");
    std::fseek(file, 0, SEEK_END);
    bytes[i] = size_t(std::ftell(file));
    std::rewind(file);
    arguments[i] = guarded(bytes[i]);
    if (std::fread(arguments[i], 1, bytes[i], file) != bytes[i]) fail("cannot read an argument");
    std::fclose(file);
  }
  const unsigned clusters = GRID_X / CLUSTER;
  for (unsigned i = 0; i < clusters; ++i) {
    first_block = (order == 1 ? clusters - 1 - i : i) * CLUSTER;
    run_cluster();
  }
  for (int i = 0; i < count; ++i) {
    FILE* file = std::fopen(argv[i + 2], "wb");
    if (std::fwrite(arguments[i], 1, bytes[i], file) != bytes[i]) fail("cannot write an argument");
    std::fclose(file);
  }
}
