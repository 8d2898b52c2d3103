// MLA decode for up to 32 query rows a sequence: what tensor parallelism leaves of R1's 128 heads.
//
// At 16 heads each cached token costs 1,152 bytes and 35 kFLOP, eight times below the ridge of an
// H200, so all that counts is to keep the copy engine busy and to start and stop fast. Hence:
//   * one warp does nothing but ask for tokens, several stages ahead;
//   * the products use mma.sync with 16 rows, which pads 16 heads to nothing (wgmma: to 64 rows);
//   * all other warps, 16 of them (8 where there are 32 rows, which need more registers), share a
//     tile of 64 tokens. For the scores, a warp takes a quarter of the 576 dimensions (128 of the
//     latent, 16 of the rope) of 16 (32) tokens and keeps its queries in registers; the quarters
//     meet in shared memory, where each warp does the softmax of its rows; for the output, a warp
//     owns 32 (64) of the 512 columns.
//   * FP8 tokens become f16 in registers, exactly, on their way to the tensor cores. P is f16 then,
//     and the queries too (each quarter row is scaled by a power of two into f16's range).
//
// Compiled with -DKIND=0 bf16 | 1 fp8 (one scale) | 2 fp8_ds_mla; -DQFP8=0|1; -DTILES=1|2 (rows/16).
// grid: (1, parts).

#define BF16_CACHE (KIND == 0)
#define FP8_CACHE (KIND == 1)
#define DS_CACHE (KIND == 2)

constexpr int ROWS = 16 * TILES;
constexpr int MATH_WARPS = TILES == 1 ? 16 : 8;
constexpr int MATH = MATH_WARPS * 32;
constexpr int TOKENS = 256 / MATH_WARPS;   // whose scores one warp makes
constexpr int COLUMNS = LATENT / MATH_WARPS;  // of the output, for one warp
constexpr int EACH = ROWS / MATH_WARPS;     // rows whose softmax one warp does
constexpr int PRODUCERS = 128;  // one warp works; setmaxnreg goes by whole warpgroups
constexpr int MATH_REGISTERS = TILES == 1 ? 104 : 232, PRODUCER_REGISTERS = TILES == 1 ? 64 : 40;
constexpr int THREADS = MATH + PRODUCERS;
constexpr int SUB = 16;  // tokens in one box: block sizes are multiples of it

// One box of 16 tokens in shared memory: groups of [16 tokens][128 bytes], then the rest.
constexpr int GROUP_BYTES = SUB * 128;
constexpr int ROPE_AT = BF16_CACHE ? 8 * GROUP_BYTES : 4 * GROUP_BYTES;
constexpr int ROPE_BYTES = FP8_CACHE ? SUB * 64 : SUB * 128;
constexpr int SCALE_AT = ROPE_AT + ROPE_BYTES;
constexpr int BOX_BYTES = SCALE_AT + (DS_CACHE ? SUB * 16 : 0);  // what the copy engine brings
constexpr int BOX_STRIDE = (BOX_BYTES + 1023) / 1024 * 1024;
constexpr int STAGE_BYTES = 2 * BOX_STRIDE;  // 32 tokens
constexpr int STAGES = BF16_CACHE ? 5 : FP8_CACHE ? 9 : 7;

// FP8: the scores of a tile are made while the tile before is softened and the one before that is
// multiplied, with one barrier a tile; three tiles lie in shared memory then, which bf16 and 32 rows
// have no room for. Bf16 has no need: its bytes take twice as long.
constexpr bool DEEP = !BF16_CACHE && TILES == 1;
constexpr int BUFFERS = DEEP ? 2 : 1;

constexpr int SCORE_STRIDE = 72;  // floats: eight banks from row to row, so no two lanes collide
constexpr int SCORE_BYTES = 4 * ROWS * SCORE_STRIDE * 4;  // later, the sums of up to 288 splits
constexpr int SCORES_AT = STAGES * STAGE_BYTES;  // also where queries lie, before the first scores
static_assert(SCORE_BYTES >= ROWS * (LATENT + 64) * 2, "queries lie where scores do");
constexpr int P_AT = SCORES_AT + BUFFERS * SCORE_BYTES;
constexpr int P_BYTES = ROWS * 128;
constexpr int ROWS_AT = P_AT + BUFFERS * P_BYTES;  // factors, then the inverse sum of each row
constexpr int UNSCALES_AT = ROWS_AT + (BUFFERS + 1) * ROWS * 4;  // of each quarter row of queries
constexpr int BARRIERS_AT = UNSCALES_AT + ROWS * 16;
constexpr int PIECE_BARRIERS_AT = BARRIERS_AT + 2 * STAGES * 8;
constexpr int PIECES_AT = PIECE_BARRIERS_AT + 4 * 8;  // two: one at hand, one being loaded
constexpr int MERGES_AT = PIECES_AT + 2 * sizeof(Piece);
constexpr int SMEM_BYTES = MERGES_AT + 3 * sizeof(Piece);
static_assert(SMEM_BYTES <= 232448, "more shared memory than an SM has");
static_assert(P_AT % 128 == 0 && ROWS_AT % 16 == 0 && BARRIERS_AT % 8 == 0 && MERGES_AT % 8 == 0, "alignment");
extern "C" __device__ const int mla_narrow_smem = SMEM_BYTES;
extern "C" __device__ const int mla_narrow_threads = THREADS;

__device__ __forceinline__ void ldmatrix(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void ldmatrix_transposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
               "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
               "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 load_shared(u32 address) {
  u32 v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ float load_shared_float(u32 address) {
  return __uint_as_float(load_shared(address));
}

__device__ __forceinline__ uint4 load_shared_16(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ float2 load_shared_pair(u32 address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ void store_shared(u32 address, u32 v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

__device__ __forceinline__ void store_shared_pair(u32 address, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y) : "memory");
}

__device__ __forceinline__ u32 multiply_f16x2(u32 a, u32 b) {
  u32 out;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

__device__ __forceinline__ float bf16_low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ u32 scaled_f16(u32 pair, float scale) {
  return pack_f16(bf16_low(pair) * scale, bf16_high(pair) * scale);
}

// Two e4m3 bytes as two bf16, exactly.
__device__ __forceinline__ u32 bf16_from_e4m3(u16 bytes) {
  float low, high;
  asm("{\n.reg .b32 pair;\n.reg .b16 l, h;\ncvt.rn.f16x2.e4m3x2 pair, %2;\nmov.b32 {l, h}, pair;\n"
      "cvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}" : "=f"(low), "=f"(high) : "h"(bytes));
  return pack_bf16(low, high);
}

// ---- The warp that asks for tokens -------------------------------------------------------------

// The pieces go through a ring of two in shared memory; one with no sequence ends it.
__device__ __forceinline__ u32 piece_full(u32 smem, int i) { return smem + PIECE_BARRIERS_AT + i * 8; }
__device__ __forceinline__ u32 piece_empty(u32 smem, int i) { return piece_full(smem, 2 + i); }

__device__ __forceinline__ void load_piece(const Params& p, const Piece& piece, u32 smem, int lane,
                                           u32& stage, u32& phase, const TensorMap* latent_map,
                                           const TensorMap* rope_map, const TensorMap* scale_map) {
  const u32 full = smem + BARRIERS_AT, empty = full + STAGES * 8;
  const int* table = p.block_table + piece.sequence * p.block_table_stride;
  for (int batch = piece.begin; batch < piece.end; batch += 32 * SUB) {
    // Each lane looks up the box of 16 tokens that it will ask for.
    const int token = batch + lane * SUB;
    int block = 0, offset = 0;
    if (token < piece.end) {
      const int at = divide(token, p.block_size);
      block = __ldg(table + at);
      offset = token - at * p.block_size;
    }
    const int boxes = (min(piece.end - batch, 32 * SUB) + SUB - 1) / SUB;
    for (int box = 0; box < boxes; box += 2) {
      const u32 barrier = full + stage * 8;
      barrier_wait(empty + stage * 8, phase);
      if (lane == box) barrier_expect(barrier, min(boxes - box, 2) * BOX_BYTES);
      __syncwarp();
      if ((lane & ~1) == box && lane < boxes) {
        const u32 to = smem + stage * STAGE_BYTES + (lane & 1) * BOX_STRIDE;
        tma_load(to, latent_map, barrier, offset, 0, block);
        if (!BF16_CACHE) tma_load(to + ROPE_AT, rope_map, barrier, offset, 0, block);
        if (DS_CACHE) tma_load(to + SCALE_AT, scale_map, barrier, offset, 0, block);
      }
      if (++stage == STAGES) stage = 0, phase ^= 1;
    }
  }
}

__device__ __forceinline__ void produce(const Params& p, Plan& plan, Piece* pieces, u32 smem,
                                        const TensorMap* latent_map, const TensorMap* rope_map,
                                        const TensorMap* scale_map) {
  const int lane = threadIdx.x & 31;
  Piece piece;
  u32 stage = 0, phase = 1, turn = 0;
  bool more = true;
  while (more) {
    more = plan.next(piece);
    if (!more) piece.sequence = -1;
    barrier_wait(piece_empty(smem, turn & 1), (turn >> 1 & 1) ^ 1);
    if (lane == 0) {
      pieces[turn & 1] = piece;
      barrier_arrive(piece_full(smem, turn & 1));
    }
    ++turn;
    if (more) load_piece(p, piece, smem, lane, stage, phase, latent_map, rope_map, scale_map);
  }
}

// ---- The warps that multiply -------------------------------------------------------------------

// On their way to the registers of the tensor cores, queries pass through shared memory, where they lie
// as the registers hold them: (tile of 16 rows, quarter, step k, lane xor k), 16 bytes each; the xor
// keeps the steps that one warp writes apart in different banks. Half a warp brings
// a quarter of a row, 16 bytes a lane, and where the cache is FP8 turns bf16 into f16 with a power of
// two that suits the quarter.
//
// Of step k, lane (g, t) holds rows g and g + 8 (registers 0 and 1) of the dimensions
//   bf16: 16k + 2t + {0, 1}, and 8 more in registers 2 and 3, which is the order of the instruction;
//   FP8:  16*(2t + k/4) + 4*(k%4) + {0, 1}, and {2, 3} in registers 2 and 3: the order in which a token's
//         bytes lie, so that one 16-byte load of the token serves four steps.
// The ninth step is the rope: bf16 as above; FP8 4t + {0, 1} and {2, 3}.
constexpr int QUERY_SIZE = QFP8 ? 1 : 2;
constexpr int LANES = QUERY_SIZE * 128 / 16;  // that bring a quarter's latent; the first bring its rope
constexpr int TURNS = ROWS * 4 * LANES / MATH;
constexpr int AT_ONCE = TURNS > 4 ? 4 : TURNS;
constexpr bool SCALED = !BF16_CACHE && !QFP8;

struct RawQueries {
  uint4 latent[AT_ONCE], rope[AT_ONCE];

  __device__ __forceinline__ void ask(const Params& p, int sequence, int first) {
    const int rows = p.query_tokens * p.heads, self = opaque(threadIdx.x);
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      const int at = self + (first + i) * MATH, row = at / (4 * LANES);
      const int quarter = at / LANES % 4, lane = at % LANES;
      // Rows of padding repeat the last one; nobody writes them out.
      const int real = min(row, rows - 1), token = divide(real, p.heads), head = real - token * p.heads;
      const u8* from = (const u8*)p.q_latent + QUERY_SIZE * (sequence * p.q_latent_stride[0] +
                       token * p.q_latent_stride[1] + head * p.q_latent_stride[2]);
      latent[i] = load_early(from + (quarter * LANES + lane) * 16);
      if (lane < QUERY_SIZE) {
        from = (const u8*)p.q_rope + QUERY_SIZE * (sequence * p.q_rope_stride[0] +
               token * p.q_rope_stride[1] + head * p.q_rope_stride[2]);
        rope[i] = load_early(from + (quarter * QUERY_SIZE + lane) * 16);
      }
    }
  }

  __device__ __forceinline__ void leave(u32 smem, int first) {
    const int self = opaque(threadIdx.x);
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      const int at = self + (first + i) * MATH, row = at / (4 * LANES);
      const int quarter = at / LANES % 4, lane = at % LANES;
      if (lane >= QUERY_SIZE) rope[i] = make_uint4(0u, 0u, 0u, 0u);
      if (SCALED) {
        float largest = largest_of(latent[i]), scale, unscale;
        if (FP8_CACHE) largest = fmaxf(largest, largest_of(rope[i]));
#pragma unroll
        for (int step = 1; step < LANES; step *= 2)
          largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, step));
        f16_range(largest, scale, unscale);
        latent[i] = scaled(latent[i], scale);
        if (FP8_CACHE) rope[i] = scaled(rope[i], scale);
        if (lane == 0) store_shared(smem + UNSCALES_AT + (row * 4 + quarter) * 4, __float_as_uint(unscale));
      }
      const u32 to = smem + SCORES_AT + (row / 16 * 4 + quarter) * 9 * 512 + row / 8 % 2 * 4;
      leave_latent(to, row % 8 * 4, lane, latent[i]);
      if (lane < QUERY_SIZE) leave_rope(to + 8 * 512 + row % 8 * 64, lane, rope[i]);
    }
  }

  // `to`: register 0 or 1 of step 0; `g4`: lane (g, 0).
  static __device__ __forceinline__ u32 place(u32 to, int step, int lane) {
    return to + step * 512 + (lane ^ step) * 16;
  }

  static __device__ __forceinline__ void leave_latent(u32 to, int g4, int lane, uint4 v) {
    const u32 word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (BF16_CACHE) {  // dimensions 8*lane + 2i
        store_shared(place(to, lane / 2, g4 + i) + lane % 2 * 8, word[i]);
      } else if (QFP8) {  // 16*lane + 4i
        u32 low, high;
        e4m3x4_to_f16x4(word[i], low, high);
        const u32 at = place(to, lane % 2 * 4 + i, g4 + lane / 2);
        store_shared(at, low), store_shared(at + 8, high);
      } else {  // 8*lane + 2i
        store_shared(place(to, lane % 4 * 2 + i / 2, g4 + lane / 4) + i % 2 * 8, word[i]);
      }
    }
  }

  // `to`: register 0 or 1 of lane (g, 0) of the ninth step, which needs no xor.
  static __device__ __forceinline__ void leave_rope(u32 to, int lane, uint4 v) {
    const u32 word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (QFP8) {  // dimensions 4i to 4i + 3; the rope of fp8_ds_mla is bf16, where e4m3 fits exactly
        u32 low, high;
        if (FP8_CACHE) e4m3x4_to_f16x4(word[i], low, high);
        else low = bf16_from_e4m3(word[i]), high = bf16_from_e4m3(word[i] >> 16);
        store_shared(to + (FP8_CACHE ? i * 16 : i % 2 * 32 + i / 2 * 8), low);
        store_shared(to + (FP8_CACHE ? i * 16 + 8 : i % 2 * 32 + 16 + i / 2 * 8), high);
      } else {  // 8*lane + 2i
        store_shared(to + (FP8_CACHE ? (lane * 2 + i / 2) * 16 + i % 2 * 8 : i * 16 + lane * 8), word[i]);
      }
    }
  }

  static __device__ __forceinline__ float largest_of(uint4 v) {
    const u32 pair[4] = {v.x, v.y, v.z, v.w};
    float largest = 0.f;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      largest = fmaxf(largest, fmaxf(fabsf(bf16_low(pair[i])), fabsf(bf16_high(pair[i]))));
    return largest;
  }

  static __device__ __forceinline__ uint4 scaled(uint4 v, float scale) {
    return make_uint4(scaled_f16(v.x, scale), scaled_f16(v.y, scale), scaled_f16(v.z, scale),
                      scaled_f16(v.w, scale));
  }

  // The power of two that brings the largest of a row to [2^13, 2^14), and its inverse.
  static __device__ __forceinline__ void f16_range(float largest, float& scale, float& unscale) {
    int exponent = (int)(__float_as_uint(largest) >> 23) - 127;
    if (largest == 0.f || exponent == 128) exponent = 13;  // nothing to scale; infinity stays
    exponent = max(exponent, -100);
    scale = __uint_as_float((u32)(13 - exponent + 127) << 23);
    unscale = __uint_as_float((u32)(exponent - 13 + 127) << 23);
  }
};

struct Queries {
  // Fragments A of this warp's quarter: eight steps of 16 latent dimensions, one of the rope.
  u32 latent[TILES][8][4];
  u32 rope[TILES][4];
  float unscale[TILES][2];  // what undoes the power of two that scaled rows g and g + 8

  __device__ __forceinline__ void load(u32 smem, int quarter, int lane) {
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      const u32 at = smem + SCORES_AT + (m * 4 + quarter) * 9 * 512;
#pragma unroll
      for (int k = 0; k < 8; ++k) load_step(latent[m][k], at + k * 512 + (lane ^ k) * 16);
      load_step(rope[m], at + 8 * 512 + lane * 16);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        unscale[m][half] = SCALED ? load_shared_float(smem + UNSCALES_AT +
                                                      ((m * 16 + half * 8 + (lane >> 2)) * 4 + quarter) * 4) : 1.f;
    }
  }

  static __device__ __forceinline__ void load_step(u32 (&step)[4], u32 at) {
    const uint4 v = load_shared_16(at);
    step[0] = v.x, step[1] = v.y, step[2] = v.z, step[3] = v.w;
  }
};

constexpr int CHUNKS = COLUMNS / (BF16_CACHE ? 8 : 16);  // of 16 bytes, that one warp's columns take

// Where a thread reads and writes in shared memory, less what the loop adds: a stage, a buffer, an
// immediate, and what a step flips in the swizzle. They are made opaque, since the compiler would
// rather work them out anew for every tile, which was most of its instructions.
struct Places {
  int warp, lane;
  u32 key, rope;      // this warp's tokens, its quarter of the dimensions
  u32 value;          // its columns, the first of a box of tokens
  u32 probabilities;  // fragments of P
  u32 score;          // where it leaves scores
  u32 row, chance;    // where the softmax of its first row finds scores and leaves P

  __device__ __forceinline__ Places(u32 smem) {
    warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int quarter = warp & 3, g = lane >> 2, t = lane & 3;
    const int r = lane & 7, low = lane >> 3 & 1, high = lane >> 4;
    const int token = first_token();
    const u32 box = token % 32 / SUB * BOX_STRIDE;
    if (BF16_CACHE) {
      const u32 at = box + (high * 8 + r) * 128;
      key = at + quarter * 2 * GROUP_BYTES + ((low ^ r) << 4);
      rope = at + ROPE_AT + (((2 * quarter + low) ^ r) << 4);
    } else {
      key = box + quarter * GROUP_BYTES + g * 128 + (((2 * t) ^ g) << 4);
      rope = FP8_CACHE ? box + ROPE_AT + g * 64 + ((quarter ^ (g >> 1 & 3)) << 4) + 4 * t
                       : box + ROPE_AT + (high * 8 + r) * 128 + (((2 * quarter + low) ^ r) << 4);
    }
    const int chunk = warp * CHUNKS;
    value = chunk / 8 * GROUP_BYTES + (low * 8 + r) * 128 + ((chunk % 8 + high ^ r) << 4);
    probabilities = smem + P_AT + (low * 8 + r) * 128 + ((high ^ r) << 4);
    score = smem + SCORES_AT + ((quarter * ROWS + g) * SCORE_STRIDE + token + 2 * t) * 4;
    row = smem + SCORES_AT + (warp * EACH * SCORE_STRIDE + 2 * lane) * 4;
    chance = smem + P_AT + warp * EACH * 128 + (lane & 3) * 4;
    key = opaque(key), rope = opaque(rope), value = opaque(value), score = opaque(score);
    probabilities = opaque(probabilities), row = opaque(row), chance = opaque(chance);
  }

  // The first of the tokens of a tile whose scores this warp makes.
  __device__ __forceinline__ int first_token() const { return (warp >> 2) * TOKENS; }
};

// This quarter's part of the scores of TOKENS tokens, left in shared memory.
__device__ __forceinline__ void score(const Queries& q, const Places& places, u32 stage, u32 buffer) {
  constexpr int BOXES = TOKENS / SUB;
  float s[TILES][2 * BOXES][4] = {};
  const u32 key = stage + places.key, rope = stage + places.rope;
#if KIND == 0
#pragma unroll
  for (int k = 0; k < 9; ++k) {
#pragma unroll
    for (int i = 0; i < BOXES; ++i) {
      u32 b[4];
      ldmatrix(b, (k < 8 ? (key ^ ((k & 3) << 5)) + (k >> 2) * GROUP_BYTES : rope) + i * BOX_STRIDE);
#pragma unroll
      for (int m = 0; m < TILES; ++m) {
        const u32(&a)[4] = k < 8 ? q.latent[m][k & 7] : q.rope[m];
        mma_bf16(s[m][2 * i], a, b[0], b[1]);
        mma_bf16(s[m][2 * i + 1], a, b[2], b[3]);
      }
    }
  }
#else
#pragma unroll
  for (int n = 0; n < 2 * BOXES; ++n) {  // eight tokens each
    const u32 here = (n >> 1) * BOX_STRIDE + (n & 1) * 1024;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint4 bytes = load_shared_16((key ^ (c << 4)) + here);
      const u32 word[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        u32 b0, b1;
        e4m3x4_to_f16x4(word[i], b0, b1);
#pragma unroll
        for (int m = 0; m < TILES; ++m) mma_f16(s[m][n], q.latent[m][4 * c + i], b0, b1);
      }
    }
#if KIND == 1
    u32 b0, b1;
    e4m3x4_to_f16x4(load_shared(rope + (n >> 1) * BOX_STRIDE + (n & 1) * 512), b0, b1);
#pragma unroll
    for (int m = 0; m < TILES; ++m) mma_f16(s[m][n], q.rope[m], b0, b1);
#endif
  }
#if !QFP8
#pragma unroll
  for (int m = 0; m < TILES; ++m)
#pragma unroll
    for (int n = 0; n < 2 * BOXES; ++n) {
      s[m][n][0] *= q.unscale[m][0], s[m][n][1] *= q.unscale[m][0];
      s[m][n][2] *= q.unscale[m][1], s[m][n][3] *= q.unscale[m][1];
    }
#endif
#endif
#if KIND == 2
  // The scales of the latent, then the rope, which has none.
  const u32 scales = stage + places.first_token() % 32 / SUB * BOX_STRIDE + SCALE_AT +
                     (places.lane & 3) * 32 + (places.warp & 3) * 4;
#pragma unroll
  for (int i = 0; i < BOXES; ++i) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const u32 at = scales + i * BOX_STRIDE + n * 128;
      const float s0 = load_shared_float(at), s1 = load_shared_float(at + 16);
#pragma unroll
      for (int m = 0; m < TILES; ++m) {
        float(&c)[4] = s[m][2 * i + n];
        c[0] *= s0, c[1] *= s1, c[2] *= s0, c[3] *= s1;
      }
    }
    u32 b[4];
    ldmatrix(b, rope + i * BOX_STRIDE);
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      mma_bf16(s[m][2 * i], q.rope[m], b[0], b[1]);
      mma_bf16(s[m][2 * i + 1], q.rope[m], b[2], b[3]);
    }
  }
#endif
#pragma unroll
  for (int m = 0; m < TILES; ++m) {
    const u32 at = places.score + buffer * SCORE_BYTES + m * 16 * SCORE_STRIDE * 4;
#pragma unroll
    for (int n = 0; n < 2 * BOXES; ++n) {
      store_shared_pair(at + n * 32, s[m][n][0], s[m][n][1]);
      store_shared_pair(at + 8 * SCORE_STRIDE * 4 + n * 32, s[m][n][2], s[m][n][3]);
    }
  }
}

struct Softmax {  // of the rows that this warp keeps
  float top[EACH], sum[EACH];  // the sum: this lane's share
  int seen[EACH];              // tokens before this one are seen, less twice the lane

  __device__ __forceinline__ void start(const Params& p, const Piece& piece, const Places& places) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      top[i] = NEG_INF, sum[i] = 0.f;
      // A query token sees what stands before it, and itself; rows of padding see everything.
      const int token = divide(places.warp * EACH + i, p.heads);
      seen[i] = min(piece.end, piece.length - max(p.query_tokens - 1 - token, 0)) - 2 * places.lane;
    }
  }

  __device__ __forceinline__ void soften(const Places& places, u32 buffer, u32 factors, int first_token,
                                         float scale) {
    float x[EACH][2], high[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const u32 at = places.row + buffer * SCORE_BYTES + i * SCORE_STRIDE * 4;
      x[i][0] = x[i][1] = 0.f;
#pragma unroll
      for (int quarter = 0; quarter < 4; ++quarter) {
        float2 v = load_shared_pair(at + quarter * ROWS * SCORE_STRIDE * 4);
        x[i][0] += v.x, x[i][1] += v.y;
      }
      x[i][0] = first_token < seen[i] ? x[i][0] * scale : NEG_INF;
      x[i][1] = first_token + 1 < seen[i] ? x[i][1] * scale : NEG_INF;
      high[i] = fmaxf(x[i][0], x[i][1]);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        high[i] = fmaxf(high[i], __shfl_xor_sync(FULL_WARP, high[i], step));
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int row = places.warp * EACH + i;
      high[i] = fmaxf(high[i], top[i]);
      const float reference = high[i] == NEG_INF ? 0.f : high[i];
      const float factor = exp2_fast(top[i] - reference);
      const float p0 = exp2_fast(x[i][0] - reference), p1 = exp2_fast(x[i][1] - reference);
      top[i] = high[i];
      sum[i] = sum[i] * factor + p0 + p1;
      store_shared(places.chance + buffer * P_BYTES + i * 128 + (((places.lane >> 2) ^ (row & 7)) << 4),
                   BF16_CACHE ? pack_bf16(p0, p1) : pack_f16(p0, p1));
      if (places.lane == 0) store_shared(factors + row * 4, __float_as_uint(factor));
    }
  }
};

// A partial result lies as the threads hold it, so that a warp writes 512 contiguous bytes at a time:
// (warp, tile of 16 rows, half of it, 32 columns, lane), eight values each.
struct Fragments {
  static constexpr int STEPS = COLUMNS / 32;

  static __device__ __forceinline__ int group(int warp, int m, int half, int c, int lane) {
    return (((warp * TILES + m) * 2 + half) * STEPS + c) * 32 + lane;
  }
  static __device__ __forceinline__ int row(int group) {
    return group / (64 * STEPS) % TILES * 16 + group / (32 * STEPS) % 2 * 8 + group % 32 / 4;
  }
  static __device__ __forceinline__ int warp(int group) { return group / (64 * STEPS * TILES); }
  static __device__ __forceinline__ bool first_of_row(int group) {
    return warp(group) == 0 && group / 32 % STEPS == 0 && group % 4 == 0;
  }
  static __device__ __forceinline__ void write(int group, u16* out, uint4 v) {
    const int t = group % 4;
    out += warp(group) * COLUMNS + group / 32 % STEPS * 32 + (BF16_CACHE ? 2 * t : 4 * t);
    if (BF16_CACHE) {  // columns 2t, 2t + 1 of each eight
      *(u32*)out = v.x, *(u32*)(out + 8) = v.y, *(u32*)(out + 16) = v.z, *(u32*)(out + 24) = v.w;
    } else {  // columns 4t to 4t + 3 of each sixteen
      *(uint2*)out = make_uint2(v.x, v.y), *(uint2*)(out + 16) = make_uint2(v.z, v.w);
    }
  }
};

// The output columns of this warp: += P V over the 16 tokens of one box.
__device__ __forceinline__ void accumulate(float (&o)[TILES][COLUMNS / 8][4], const Places& places, u32 box,
                                           u32 buffer, int step) {
  u32 a[TILES][4];
#pragma unroll
  for (int m = 0; m < TILES; ++m)
    ldmatrix(a[m], (places.probabilities ^ (step << 5)) + buffer * P_BYTES + m * 16 * 128);
#if KIND == 2
  {
    // The token's scale of this warp's dimensions, times 2^8 to stay far from f16's smallest.
    const u32 at = box + SCALE_AT + (places.lane & 3) * 32 + places.warp * CHUNKS / 8 * 4;
    const u32 first = pack_f16(load_shared_float(at) * 256.f, load_shared_float(at + 16) * 256.f);
    const u32 second = pack_f16(load_shared_float(at + 128) * 256.f, load_shared_float(at + 144) * 256.f);
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      a[m][0] = multiply_f16x2(a[m][0], first), a[m][1] = multiply_f16x2(a[m][1], first);
      a[m][2] = multiply_f16x2(a[m][2], second), a[m][3] = multiply_f16x2(a[m][3], second);
    }
  }
#endif
  const u32 at = box + places.value;
#pragma unroll
  for (int c = 0; c < CHUNKS; c += 2) {  // two chunks at a time: 8 dimensions each, 16 in FP8
    u32 b[4];
    ldmatrix_transposed(b, at ^ (c << 4));
#if KIND == 0
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      mma_bf16(o[m][c], a[m], b[0], b[1]);
      mma_bf16(o[m][c + 1], a[m], b[2], b[3]);
    }
#else
    u32 even[4], odd[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)  // (token, dimension): 00 01 10 11 becomes 00 10, 01 11
      e4m3x4_to_f16x4(__byte_perm(b[i], 0, 0x3120), even[i], odd[i]);
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      mma_f16(o[m][2 * c], a[m], even[0], even[1]);
      mma_f16(o[m][2 * c + 1], a[m], odd[0], odd[1]);
      mma_f16(o[m][2 * c + 2], a[m], even[2], even[3]);
      mma_f16(o[m][2 * c + 3], a[m], odd[2], odd[3]);
    }
#endif
  }
}

// Rows at and past the end may hold anything, and 0 times NaN is NaN: clear what this warp reads.
__device__ __forceinline__ void clear_tail(u32 stage, int first, int warp, int lane) {
#pragma unroll 1
  for (int i = first * CHUNKS + lane; i < 32 * CHUNKS; i += 32) {
    const int token = i / CHUNKS, chunk = warp * CHUNKS + i % CHUNKS, row = token & 15;
    const u32 box = stage + (token >> 4) * BOX_STRIDE;
    const u32 at = box + chunk / 8 * GROUP_BYTES + row * 128 + ((chunk % 8 ^ (row & 7)) << 4);
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
#if KIND == 2
    // A NaN scale times a P of zero; several warps may write the same zero.
    store_shared(box + SCALE_AT + row * 16 + chunk / 8 * 4, 0u);
#endif
  }
  __syncwarp();
  fence_async_proxy();
}

// The stage that comes next, and the phase its barrier is waited for.
struct Cursor {
  u32 stage, phase;

  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) stage = 0, phase ^= 1;
  }
};

struct Multiplier {
  const u32 smem;
  const Places places;
  Queries q;
  Softmax softmax;
  float o[TILES][COLUMNS / 8][4];
  Cursor scored, used;  // what the scores, and what the output, come to next
  float scale;
  int begin, end;  // tokens of the piece at hand

  __device__ __forceinline__ Multiplier(u32 smem_)
      : smem(smem_), places(smem_), scored{0, 0}, used{0, 0} {}

  __device__ __forceinline__ u32 at(Cursor c) const { return smem + c.stage * STAGE_BYTES; }
  __device__ __forceinline__ u32 full(Cursor c) const { return smem + BARRIERS_AT + c.stage * 8; }

  __device__ __forceinline__ u32 buffer(int tile) const { return DEEP ? tile & 1 : 0; }
  __device__ __forceinline__ u32 factors(int tile) const {
    return smem + ROWS_AT + buffer(tile) * ROWS * 4;
  }

  __device__ __forceinline__ void fetch_queries(const Params& p, int sequence) {
    named_barrier(1, MATH);  // the scores that stood where the queries come are read
#pragma unroll 1
    for (int first = 0; first < TURNS; first += AT_ONCE) {
      RawQueries raw;
      raw.ask(p, sequence, first);
      raw.leave(smem, first);
    }
    named_barrier(1, MATH);
    q.load(smem, places.warp & 3, places.lane);
    named_barrier(1, MATH);  // scores come where the queries are
  }

  __device__ __forceinline__ void start(const Params& p, const Piece& piece) {
    begin = piece.begin, end = piece.end;
    softmax.start(p, piece, places);
#pragma unroll
    for (int m = 0; m < TILES; ++m)
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) o[m][n][i] = 0.f;
  }

  __device__ __forceinline__ void score_tile(int tile) {
    const int first = begin + tile * 64;
    if (first >= end) return;
    Cursor mine = scored;
    scored.advance();
    if (places.first_token() >= 32) mine = scored;
    if (first + 32 < end) scored.advance();
    if (first + places.first_token() >= end) return;
    barrier_wait(full(mine), mine.phase);
    score(q, places, at(mine), buffer(tile));
  }

  __device__ __forceinline__ void soften_tile(int tile) {
    const int first = begin + tile * 64;
    if (first < end) softmax.soften(places, buffer(tile), factors(tile), first, scale);
  }

  __device__ __forceinline__ void use_tile(int tile) {
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      const u32 at = factors(tile) + (m * 16 + (places.lane >> 2)) * 4;
      const float low = load_shared_float(at), high = load_shared_float(at + 32);
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; ++n)
        o[m][n][0] *= low, o[m][n][1] *= low, o[m][n][2] *= high, o[m][n][3] *= high;
    }
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const int left = end - (begin + tile * 64 + part * 32);
      if (left <= 0) return;
      barrier_wait(full(used), used.phase);
      if (left < 32) clear_tail(at(used), left, places.warp, places.lane);
      accumulate(o, places, at(used), buffer(tile), 2 * part);
      accumulate(o, places, at(used) + BOX_STRIDE, buffer(tile), 2 * part + 1);
      __syncwarp();
      if (places.lane == 0) barrier_arrive(full(used) + STAGES * 8);
      used.advance();
    }
  }

  __device__ __forceinline__ void all_tiles() {
    if (begin >= end) return;
    // Each stage stands in the code once: in a short call, fetching instructions is what takes time.
    const int tiles = (end - begin + 63) / 64;
#pragma unroll 1
    for (int tile = DEEP ? -2 : -1; tile < tiles; ++tile) {
      if (DEEP) {
        if (tile > -2) {
          named_barrier(1, MATH);
          soften_tile(tile + 1);
          if (tile >= 0) use_tile(tile);
        }
        score_tile(tile + 2);
      } else {
        if (tile >= 0) {
          named_barrier(1, MATH);
          soften_tile(tile);
          named_barrier(1, MATH);
          use_tile(tile);
        }
        score_tile(tile + 1);
      }
    }
  }

  __device__ __forceinline__ void write(const Params& p, const Piece& piece, float value_scale) const {
    const int rows = p.query_tokens * p.heads, lane = opaque(places.lane), warp = opaque(places.warp);
    const bool whole = piece.splits == 1;
    const i64 first_row = (i64)piece.sequence * rows;
    const u32 inverses = smem + ROWS_AT + BUFFERS * ROWS * 4;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int row = warp * EACH + i;
      float sum = softmax.sum[i];
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, step);
      if (lane == 0) {
        store_shared(inverses + row * 4, __float_as_uint(sum == 0.f ? 0.f : reciprocal(sum)));
        const float lse = sum == 0.f ? NEG_INF : softmax.top[i] + log2_fast(sum);
        if (!whole) p.partial_lse[(i64)piece.slot * SUMS_STRIDE + row] = lse;
        else if (row < rows) p.lse[first_row + row] = lse * 0.69314718055994531f;
      }
    }
    named_barrier(1, MATH);
    uint4* const partial = (uint4*)p.partial_out + (u64)piece.slot * (ROWS * (LATENT / 8));
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = m * 16 + half * 8 + (lane >> 2);
        const float factor = load_shared_float(inverses + row * 4) * value_scale;
#pragma unroll
        for (int c = 0; c < COLUMNS / 32; ++c) {
          u32 word[4];
#pragma unroll
          for (int i = 0; i < 2; ++i) {  // 16 columns: two tiles of the instruction
            const float(&a)[4] = o[m][4 * c + 2 * i], (&b)[4] = o[m][4 * c + 2 * i + 1];
            const float a0 = a[2 * half] * factor, a1 = a[2 * half + 1] * factor;
            const float b0 = b[2 * half] * factor, b1 = b[2 * half + 1] * factor;
            word[2 * i] = BF16_CACHE ? pack_bf16(a0, a1) : pack_bf16(a0, b0);
            word[2 * i + 1] = BF16_CACHE ? pack_bf16(b0, b1) : pack_bf16(a1, b1);
          }
          const uint4 v = make_uint4(word[0], word[1], word[2], word[3]);
          const int group = Fragments::group(warp, m, half, c, lane);
          if (!whole) partial[group] = v;
          else if (row < rows) Fragments::write(group, p.out + (first_row + row) * LATENT, v);
        }
      }
    }
  }
};

__device__ __forceinline__ void multiply(const Params& p, const Piece* pieces, u32 smem, Piece* waiting,
                                         float* sums) {
  Multiplier math(smem);
  float value_scale = DS_CACHE ? 1.f / 256.f : 1.f;
  math.scale = p.scale_log2;
  if (QFP8 && p.query_scale) math.scale *= __ldg(p.query_scale);
  if (FP8_CACHE && p.cache_scale) {
    value_scale = __ldg(p.cache_scale);
    math.scale *= value_scale;
  }
  Merger<Fragments, ROWS, MATH> merger(p, 0, threadIdx.x, 1, waiting, sums);
  for (u32 turn = 0;; ++turn) {
    // The first queries come before it is known whose they are: where all sequences are equally long,
    // as in a batch of one, the guess is right. At most 64 blocks guess the same sequence; measured,
    // that bound made no difference.
    const Piece& piece = pieces[turn & 1];
    const int team = max(p.parts / p.batch, 1), guess = min((int)blockIdx.y / team, p.batch - 1);
    const bool early = turn == 0 && (int)blockIdx.y - guess * team < 64;
    if (!early) barrier_wait(piece_full(smem, turn & 1), turn >> 1 & 1);
    int whose = early ? guess : piece.sequence;
#pragma unroll 1
    while (whose >= 0) {
      math.fetch_queries(p, whose);
      barrier_wait(piece_full(smem, turn & 1), turn >> 1 & 1);
      if (piece.sequence < 0 || piece.sequence == whose) break;
      whose = piece.sequence;
    }
    const bool more = piece.sequence >= 0;
    if (more) {
      math.start(p, piece);
      math.all_tiles();
      math.write(p, piece, value_scale);
    }
    merger.settle(more ? &piece : nullptr);
    if (!more) return;
    __syncwarp();
    if (math.places.lane == 0) barrier_arrive(piece_empty(smem, turn & 1));
  }
}

// Bring the block table towards the chip while the lengths are on their way: the blocks share its
// lines among them.
__device__ __forceinline__ void prefetch_table(const Params& p) {
  const i64 at = ((i64)threadIdx.x * gridDim.y + blockIdx.y) * 128;
  if (threadIdx.x < 8 && at < ((p.batch - 1) * p.block_table_stride + 1) * 4)
    asm volatile("prefetch.global.L2 [%0];" ::"l"((const u8*)p.block_table + at) : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
mla_narrow(const __grid_constant__ Params p, const __grid_constant__ TensorMap latent_map,
           const __grid_constant__ TensorMap rope_map, const __grid_constant__ TensorMap scale_map) {
  extern __shared__ __align__(1024) u8 shared[];
  const u32 smem = smem_address(shared);
  Piece* const pieces = (Piece*)(shared + PIECES_AT);
  if (threadIdx.x >= MATH) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
    if (threadIdx.x >= MATH + 32) {
      if (threadIdx.x == MATH + 32) {
        for (int i = 0; i < STAGES; ++i) {
          barrier_init(smem + BARRIERS_AT + i * 8, 1);
          barrier_init(smem + BARRIERS_AT + (STAGES + i) * 8, MATH_WARPS);
        }
        for (int i = 0; i < 2; ++i) {
          barrier_init(piece_full(smem, i), 1);
          barrier_init(piece_empty(smem, i), MATH_WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        tma_prefetch(&latent_map);
      }
      __syncthreads();
      return;
    }
    Plan plan(p, blockIdx.y);
    __syncthreads();
    produce(p, plan, pieces, smem, &latent_map, &rope_map, &scale_map);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MATH_REGISTERS));
    prefetch_table(p);
    __syncthreads();
    multiply(p, pieces, smem, (Piece*)(shared + MERGES_AT), (float*)(shared + SCORES_AT));
  }
}
