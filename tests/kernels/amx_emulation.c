/* AMX in plain C, one function for each operation that a kernel of cpu_dot calls.
 *
 * Tiles belong to a thread, as in hardware. Whatever would fault there (a tile used before it was
 * configured, or by a thread that did not) is counted in at_tile_faults(), which tests read. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct { uint8_t row[16][64]; } Tile;
static _Thread_local Tile tiles[8];
static _Thread_local int height; /* rows of A and of C; 0: not configured */
static int faults;

int at_tile_faults(void) { return __atomic_exchange_n(&faults, 0, __ATOMIC_SEQ_CST); }
static void fault(void) { __atomic_fetch_add(&faults, 1, __ATOMIC_SEQ_CST); }
static int rows_of(int tile) {
  if (!height) fault();
  return tile < 6 ? height : 16;
}

#define CONFIG(rows) \
  int at_tile_config_##rows(void) { memset(tiles, 0, sizeof tiles); height = rows; return 0; }
CONFIG(4) CONFIG(8) CONFIG(16)
int at_tile_release(void) { if (!height) fault(); height = 0; return 0; }

static int load(int t, const char *p, int64_t s) {
  memset(&tiles[t], 0, sizeof tiles[t]);
  for (int i = 0; i < rows_of(t); ++i) memcpy(tiles[t].row[i], p + i * s, 64);
  return 0;
}
static int store(int t, char *p, int64_t s) {
  for (int i = 0; i < rows_of(t); ++i) memcpy(p + i * s, tiles[t].row[i], 64);
  return 0;
}
#define MOVE(t) \
  int at_tile_load_##t(const char *p, int64_t s) { return load(t, p, s); } \
  int at_tile_stream_##t(const char *p, int64_t s) { return load(t, p, s); } \
  int at_tile_store_##t(char *p, int64_t s) { return store(t, p, s); } \
  int at_tile_zero_##t(void) { rows_of(t); memset(&tiles[t], 0, sizeof tiles[t]); return 0; }
MOVE(0) MOVE(1) MOVE(2) MOVE(3) MOVE(4) MOVE(5) MOVE(6) MOVE(7)

static float bf16(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static float fp16(uint16_t x) { _Float16 value; memcpy(&value, &x, 2); return (float)value; }

#define DOT_HALF(name, widen) \
  static int name(int c, int a, int b) { \
    for (int m = 0; m < rows_of(c); ++m) \
      for (int k = 0; k < 16; ++k) \
        for (int n = 0; n < 16; ++n) { \
          uint16_t x[2], y[2]; float sum; \
          memcpy(x, &tiles[a].row[m][4 * k], 4); \
          memcpy(y, &tiles[b].row[k][4 * n], 4); \
          memcpy(&sum, &tiles[c].row[m][4 * n], 4); \
          sum += widen(x[0]) * widen(y[0]); \
          sum += widen(x[1]) * widen(y[1]); \
          memcpy(&tiles[c].row[m][4 * n], &sum, 4); \
        } \
    return 0; \
  }
DOT_HALF(dot_bf16, bf16)
DOT_HALF(dot_fp16, fp16)

static int dot_int8(int c, int a, int b) {
  for (int m = 0; m < rows_of(c); ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n) {
        int32_t sum;
        memcpy(&sum, &tiles[c].row[m][4 * n], 4);
        for (int i = 0; i < 4; ++i)
          sum += (int8_t)tiles[a].row[m][4 * k + i] * (int8_t)tiles[b].row[k][4 * n + i];
        memcpy(&tiles[c].row[m][4 * n], &sum, 4);
      }
  return 0;
}

#define DOT(c, a, b) \
  int at_tile_tdpbf16ps_##c##_##a##_##b(void) { return dot_bf16(c, a, b); } \
  int at_tile_tdpfp16ps_##c##_##a##_##b(void) { return dot_fp16(c, a, b); } \
  int at_tile_tdpbssd_##c##_##a##_##b(void) { return dot_int8(c, a, b); }
DOT(0, 4, 6) DOT(1, 4, 7) DOT(2, 5, 6) DOT(3, 5, 7)
