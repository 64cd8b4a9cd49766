// What Hopper adds, by the PTX ISA 8.x: mbarriers (9.7.13.15), TMA (9.7.9.27), wgmma (9.7.15),
// stmatrix, clusters. Shared-memory addresses start at BASE, as on the device; those of another
// block of the cluster have its rank above bit 24.
//
// ORDER decides when the asynchronous proxy works: 0 loads as late as possible and multiplies at
// once; 1 loads at once and multiplies as late as possible; 2 does either, at random.
#pragma once
#include <functional>
#include <map>
#include <tuple>
#include <vector>

#define __grid_constant__
const uint32_t BASE = 1024;

static unsigned long long random_state = 7;
static unsigned draw(unsigned below) {
  random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
  return unsigned(random_state >> 33) % below;
}

// -- addresses ------------------------------------------------------------------------------------

#define tvm_builtin_cuda_cvta_generic_to_shared(p) \
  (BASE + uint32_t(reinterpret_cast<const unsigned char*>(p) - pool_buf_ptr))

static int own_rank() { return current / BLOCK_X; }
static unsigned tvm_builtin_cluster_ctaid_x() { return unsigned(own_rank()); }
static void tvm_builtin_ptx_mapa_u32_shared__cluster_u32(uint32_t& d, uint32_t a, uint32_t rank) {
  if (rank >= CLUSTER) fail("mapa to a block that the cluster does not have");
  d = a | (rank + 1) << 24;
}
static int rank_of(uint32_t address) { return address >> 24 ? int(address >> 24) - 1 : own_rank(); }

// The swizzle is a function of the address: bits 4 to 6 are exchanged by bits 7 to 9.
static uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }
static unsigned char* shared(int rank, uint32_t address) {
  uint32_t at = (address & 0xffffff) - BASE;
  if (at >= SHARED_BYTES) fail("an address beyond the shared memory of the block");
  return pools[rank] + at;
}

static int left[CLUSTER];  // threads of each block that have returned
static void still_here(int rank) {
  if (left[rank] == BLOCK_X) fail("an access to a block of the cluster that has ended");
}

// -- barriers of a warp, a warpgroup, a cluster ---------------------------------------------------

static Barrier cluster_barrier, named[CLUSTER][16];
static void tvm_builtin_cuda_cluster_sync() { cluster_barrier.wait(); }
static void tvm_builtin_cuda_warp_sync() { warps[current / 32].barrier.wait(); }
static void tvm_builtin_cuda_warpgroup_sync(int id) {
  if (id < 1 || id > 15) fail("a named barrier that does not exist");
  named[own_rank()][id].wait();
}

// -- mbarriers ------------------------------------------------------------------------------------

struct MBarrier {
  int count, pending, bytes, phase;
  void settle() {
    if (pending || bytes) return;
    pending = count;
    ++phase;
    progress = true;
  }
  void arrive() {
    if (--pending < 0) fail("more arrivals at an mbarrier than it was made for");
    progress = true;
    settle();
  }
};
static std::map<std::pair<int, uint32_t>, MBarrier> mbarriers;
static MBarrier& mbarrier(int rank, uint32_t address) {
  auto found = mbarriers.find({rank, address & 0xffffff});
  if (found == mbarriers.end()) fail("an mbarrier that was not initialised");
  return found->second;
}

static void tvm_builtin_ptx_mbarrier_init_init_shared_b64(uint32_t address, uint32_t count) {
  if (address % 8) fail("an mbarrier that is not aligned");
  shared(own_rank(), address + 7);
  mbarriers[{own_rank(), address}] = {int(count), int(count), 0, 0};
}
static void tvm_builtin_ptx_fence_mbarrier_init_mbarrier_init_release_cluster() {}
static void tvm_builtin_ptx_mbarrier_arrive_expect_tx_arrive_expect_tx_shared_b64(
    uint32_t address, uint32_t bytes) {
  MBarrier& barrier = mbarrier(own_rank(), address);
  barrier.bytes += int(bytes);
  if (barrier.bytes >= 1 << 20) fail("more bytes than an mbarrier counts");
  barrier.arrive();
}
static void tvm_builtin_ptx_mbarrier_arrive_arrive_shared_b64(uint32_t address, uint32_t count) {
  if (count != 1) fail("one arrival at a time");
  mbarrier(own_rank(), address).arrive();
}
static void tvm_builtin_ptx_mbarrier_arrive_nocount_arrive_shared__cluster_b64(uint32_t address) {
  still_here(rank_of(address));
  mbarrier(rank_of(address), address).arrive();
}
// Waits until the phase of that parity has ended: the one before the current one, or the current.
static void tvm_builtin_cuda_mbarrier_wait(void* barrier, int parity) {
  uint32_t address = tvm_builtin_cuda_cvta_generic_to_shared(barrier);
  MBarrier& waited = mbarrier(own_rank(), address);
  while ((waited.phase & 1) == parity) let_others_run();
  progress = true;
}

// -- TMA ------------------------------------------------------------------------------------------

struct CUtensorMap {
  unsigned char* memory;
  int size;
  long long extents[3], strides[3];  // in elements; in bytes
  int box[3], swizzle;
  // Where an element is, or null outside.
  unsigned char* at(long long x, long long y, long long z) const {
    if (x < 0 || x >= extents[0] || y < 0 || y >= extents[1] || z < 0 || z >= extents[2])
      return nullptr;
    return memory + x * strides[0] + y * strides[1] + z * strides[2];
  }
};

// The arguments are judged as the driver judges them.
static CUtensorMap tensor_map(void* memory, int type, std::vector<long long> extents,
                              std::vector<long long> strides, std::vector<int> box, int swizzle) {
  static const int sizes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  CUtensorMap map = {(unsigned char*)memory, sizes[type], {1, 1, 1}, {sizes[type], 0, 0},
                     {1, 1, 1}, swizzle};
  for (size_t i = 0; i < extents.size(); ++i) {
    map.extents[i] = extents[i];
    map.box[i] = box[i];
    if (i) map.strides[i] = strides[i - 1];
    if (i && (map.strides[i] % 16 || map.strides[i] < map.extents[i - 1] * map.strides[i - 1]))
      fail("a tensor map of memory that TMA cannot address");
    if (box[i] < 1 || box[i] > 256) fail("a tensor map with a box that TMA cannot move");
  }
  if (uintptr_t(memory) % 16) fail("a tensor map of memory that TMA cannot address");
  if (box[0] * map.size % 16) fail("a tensor map with a box that TMA cannot move");
  if (swizzle != 3 || box[0] * map.size > 128) fail("a tensor map with another swizzle");
  if (map.box[2] != 1) fail("a box of several products");
  return map;
}

static void tvm_builtin_ptx_prefetch_tensormap(const void*) {}

struct Load {
  CUtensorMap map;  // a copy: the thread that asked may have returned, and its arguments with it
  int x, y, z, rank;
  uint32_t to, barrier;
};
static std::vector<Load> loads;

static void make(const Load& load) {
  const CUtensorMap& map = load.map;
  still_here(load.rank);
  for (int j = 0; j < map.box[1]; ++j)
    for (int i = 0; i < map.box[0]; ++i) {
      uint32_t at = load.to + uint32_t(j * map.box[0] + i) * uint32_t(map.size);
      unsigned char* to = shared(load.rank, swizzled(at));
      if (const unsigned char* from = map.at(load.x + i, load.y + j, load.z))
        std::memcpy(to, from, size_t(map.size));
      else
        std::memset(to, 0, size_t(map.size));
    }
  MBarrier& barrier = mbarrier(load.rank, load.barrier);
  barrier.bytes -= map.box[0] * map.box[1] * map.size;
  barrier.settle();
}

static void ask(const void* map, int x, int y, int z, int rank, uint32_t to, uint32_t barrier) {
  if (to % 1024 && ((const CUtensorMap*)map)->box[1] % 8 == 0)
    fail("a swizzled box that does not start with its pattern");
  if (to % 128) fail("a box that is not aligned");
  Load load = {*(const CUtensorMap*)map, x, y, z, rank, to, barrier};
  if (order == 1) make(load);
  else loads.push_back(load);
}

#define LOAD_NAME(d, rest)                                                                  \
  tvm_builtin_ptx_cp_async_bulk_tensor_g2s_cluster_async_bulk_tensor_##d##_shared__cluster_global_mbarrier__complete_tx__bytes##rest
static void LOAD_NAME(2d, )(uint32_t to, const void* map, int x, int y, uint32_t barrier) {
  ask(map, x, y, 0, own_rank(), to, barrier);
}
static void LOAD_NAME(3d, )(uint32_t to, const void* map, int x, int y, int z, uint32_t barrier) {
  ask(map, x, y, z, own_rank(), to, barrier);
}
// Every block of the mask gets the box at the same place, and its own barrier counts the bytes.
static void LOAD_NAME(3d, _multicast__cluster)(uint32_t to, const void* map, int x, int y, int z,
                                               uint32_t barrier, uint16_t mask) {
  if (mask >> CLUSTER || !mask) fail("a multicast to a block that the cluster does not have");
  for (int rank = 0; rank < CLUSTER; ++rank)
    if (mask >> rank & 1) ask(map, x, y, z, rank, to, barrier);
}
static void LOAD_NAME(2d, _multicast__cluster)(uint32_t to, const void* map, int x, int y,
                                               uint32_t barrier, uint16_t mask) {
  LOAD_NAME(3d, _multicast__cluster)(to, map, x, y, 0, barrier, mask);
}

// Called each time all threads had their turn; says whether anything was done.
static bool asynchronous(bool stuck) {
  bool some = false;
  for (int turn = 0; !loads.empty() && (stuck || (order == 2 && draw(2))); ++turn, stuck = false) {
    size_t next = order == 2 ? draw(unsigned(loads.size())) : 0;
    Load load = loads[next];
    loads.erase(loads.begin() + long(next));
    make(load);
    some = true;
  }
  return some;
}

// -- wgmma ----------------------------------------------------------------------------------------

static void ptx_wgmma_encode_matrix_descriptor(uint64_t* d, void* p, int ldo, int sdo, int swizzle) {
  if (swizzle != 3) fail("another swizzle than that of 128 bytes");
  uint64_t start = tvm_builtin_cuda_cvta_generic_to_shared(p);
  *d = (start >> 4 & 0x3fff) | uint64_t(ldo & 0x3fff) << 16 | uint64_t(sdo & 0x3fff) << 32 | 1ull << 62;
}

// The canonical layouts of CUTLASS (mma_traits_sm90_gmma.hpp), in bytes: along k, eight lines of
// 128 bytes lie together and the next eight SBO further; across k, 128 bytes of eight k's lie
// together, the next 128 bytes of them LBO and the next eight k's SBO further.
template <class T, bool Across> static T element(uint64_t descriptor, int row, int k) {
  uint32_t start = uint32_t(descriptor & 0x3fff) << 4;
  uint32_t lbo = uint32_t(descriptor >> 16 & 0x3fff) << 4, sbo = uint32_t(descriptor >> 32 & 0x3fff) << 4;
  const int size = int(sizeof(T)), line = 128 / size;
  uint32_t at = Across ? uint32_t(row % line * size + k % 8 * 128) + uint32_t(row / line) * lbo + uint32_t(k / 8) * sbo
                       : uint32_t(row % 8 * 128 + k * size) + uint32_t(row / 8) * sbo;
  T value;
  std::memcpy(&value, shared(own_rank(), swizzled(start + at)), sizeof value);
  return value;
}

struct tf32 {
  uint32_t bits;
  operator float() const {
    uint32_t kept = bits & 0xffffe000u;
    float value;
    std::memcpy(&value, &kept, 4);
    return value;
  }
};
// Four bits of exponent (bias 7), three of fraction, no infinity, NaN where all are set.
struct __nv_fp8_e4m3 {
  uint8_t bits;
  operator float() const {
    int exponent = bits >> 3 & 15, fraction = bits & 7;
    float value = exponent ? std::ldexp(float(8 + fraction), exponent - 10)
                           : std::ldexp(float(fraction), -9);
    if ((bits & 127) == 127) value = NAN;
    return bits >> 7 ? -value : value;
  }
};

struct Async {
  std::vector<std::function<void()>> made;
  std::vector<size_t> ends;  // of groups
  void commit() { ends.push_back(made.size()); }
  void wait(size_t left) {
    if (ends.size() <= left) return;
    size_t groups = ends.size() - left, end = ends[groups - 1];
    for (size_t i = 0; i < end; ++i) made[i]();
    made.erase(made.begin(), made.begin() + long(end));
    ends.erase(ends.begin(), ends.begin() + long(groups));
    for (size_t& e : ends) e -= end;
  }
};
static Async multiplications[THREADS], stores[THREADS];
static std::vector<std::pair<uint32_t, std::vector<unsigned char>>> unfenced[THREADS];

static bool at_once() { return order == 0 || (order == 2 && draw(2)); }

// Thread t of the warpgroup holds rows 16 * (t / 32) + t % 32 / 4 and 8 further down, and of each
// eight columns two, from 2 * (t % 4) on (PTX ISA, figure of wgmma's D).
template <class T, class Register, class Sum, int N, int K, bool A_ACROSS, bool B_ACROSS>
static void wgmma(Register** d, uint64_t a, uint64_t b, uint32_t scale) {
  const uint32_t mine[4] = {uint32_t(a), uint32_t(a >> 32), uint32_t(b), uint32_t(b >> 32)};
  auto all = exchange(mine, 4);
  for (int lane = 0; lane < 32; ++lane)
    if (std::memcmp(all[lane], mine, sizeof mine)) fail("threads of a warp with other descriptors");
  if ((a >> 62 & 3) != 1 || (b >> 62 & 3) != 1) fail("a descriptor without the 128-byte swizzle");
  std::vector<Register*> sums(d, d + N / 2);
  int t = int(threadIdx.x % 128);
  auto multiply = [=] {
    for (int lower = 0; lower < 2; ++lower) {
      T left[K];
      int row = t / 32 * 16 + t % 32 / 4 + lower * 8;
      for (int k = 0; k < K; ++k) left[k] = element<T, A_ACROSS>(a, row, k);
      for (int j = 0; j < N / 8; ++j)
        for (int x = 0; x < 2; ++x) {
          Register* to = sums[size_t(j * 4 + lower * 2 + x)];
          Sum sum = scale ? Sum(*to) : Sum(0);
          for (int k = 0; k < K; ++k)
            sum += Sum(left[k]) * Sum(element<T, B_ACROSS>(b, j * 8 + t % 4 * 2 + x, k));
          *to = Register(sum);
        }
    }
  };
  Async& own = multiplications[current];
  // Results of what is made later need those of what was made before.
  if (own.made.empty() && at_once()) multiply();
  else own.made.push_back(multiply);
}

static void tvm_builtin_ptx_wgmma_fence_fence_sync_aligned() {}
static void tvm_builtin_ptx_wgmma_commit_group_commit_group_sync_aligned() {
  multiplications[current].commit();
}
// A warp waits together, and only for its own rows.
static void wait_multiplications(size_t left) {
  multiplications[current].wait(left);
  warps[current / 32].barrier.wait();
}
static void tvm_builtin_ptx_wgmma_wait_group_wait_group_sync_aligned_0() { wait_multiplications(0); }
static void tvm_builtin_ptx_wgmma_wait_group_wait_group_sync_aligned_1() { wait_multiplications(1); }

// -- registers: a warpgroup can only have what the block was given at its start ------------------

static int granted[CLUSTER][BLOCK_X / 128];
static void set_registers(bool, int registers) {
  granted[own_rank()][threadIdx.x / 128] = registers;
}

// -- stores ---------------------------------------------------------------------------------------

// TMA sees what a thread has written only after that thread's fence.
static void tvm_builtin_ptx_stmatrix_sync_aligned_m8n8_x4_shared_b16(
    uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  if (address % 16) fail("stmatrix to an address that is not aligned");
  const uint32_t mine[4] = {a, b, c, d};
  auto all = exchange(mine, 4);
  int lane = int(threadIdx.x % 32);
  std::vector<unsigned char> row(16);
  for (int quad = 0; quad < 4; ++quad)
    std::memcpy(&row[size_t(4 * quad)], &all[lane % 8 * 4 + quad][lane / 8], 4);
  unfenced[current].push_back({address, row});
}
static void tvm_builtin_ptx_fence_proxy_proxy_async_shared__cta() {
  for (auto& [address, row] : unfenced[current])
    std::memcpy(shared(own_rank(), address), row.data(), 16);
  unfenced[current].clear();
}

#define STORE_NAME(d) \
  tvm_builtin_ptx_cp_async_bulk_tensor_s2g_async_bulk_tensor_##d##_global_shared__cta_tile_bulk_group
static void STORE_NAME(3d)(const void* tensor, int x, int y, int z, uint32_t from) {
  if (from % 1024) fail("a swizzled box that does not start with its pattern");
  CUtensorMap map = *(const CUtensorMap*)tensor;
  int rank = own_rank();
  auto store = [=] {
    for (int j = 0; j < map.box[1]; ++j)
      for (int i = 0; i < map.box[0]; ++i) {
        uint32_t at = from + uint32_t(j * map.box[0] + i) * uint32_t(map.size);
        if (unsigned char* to = map.at(x + i, y + j, z))
          std::memcpy(to, shared(rank, swizzled(at)), size_t(map.size));
      }
  };
  Async& own = stores[current];
  if (own.made.empty() && order == 0) store();
  else own.made.push_back(store);
}
static void STORE_NAME(2d)(const void* tensor, int x, int y, uint32_t from) {
  STORE_NAME(3d)(tensor, x, y, 0, from);
}
static void tvm_builtin_ptx_cp_async_bulk_commit_group_async_bulk_commit_group() {
  stores[current].commit();
}
static void tvm_builtin_ptx_cp_async_bulk_wait_group_async_bulk_wait_group_read_1() {
  stores[current].wait(1);
}
static void tvm_builtin_ptx_cp_async_bulk_wait_group_async_bulk_wait_group_read_0() {
  stores[current].wait(0);
}
static void tvm_builtin_ptx_cp_async_bulk_wait_group_async_bulk_wait_group_0() {
  stores[current].wait(0);
}

// -- the beginning and the end of a cluster and of a thread ---------------------------------------

static void start_cluster() {
  mbarriers.clear();
  std::memset(left, 0, sizeof left);
  std::memset(granted, 0, sizeof granted);
  cluster_barrier = {THREADS, 0, 0};
  for (auto& block : named)
    for (Barrier& barrier : block) barrier = {128, 0, 0};
}

static void leave() {
  if (!multiplications[current].made.empty()) fail("a thread left without waiting for wgmma");
  if (!stores[current].made.empty()) fail("a thread left without waiting for its stores");
  if (++left[own_rank()] < BLOCK_X) return;
  for (const Load& load : loads)
    if (load.rank == own_rank()) fail("a block left while TMA still loads");
  int registers = 0;
  for (int given : granted[own_rank()]) registers += given * 128;
  if (registers > 65536) fail("more registers than there are");
}
