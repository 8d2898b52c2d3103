// MLA decode on Hopper for 33 to 512 query rows, 64 rows a block: wgmma, TMA, mbarriers.
//
// Follows `common.cuh` in one text. A block takes 64 rows (query tokens x heads) of one share of the
// plan; two row blocks of a share form a cluster, in which each loads half of every tile and
// multicasts it to both.
//
// The warpgroups (four of 128 threads)
//   0  loaders: one warp each for the left latent half, the right half and the rope part of the
//      tiles, and one that runs the plan and hands the pieces of work to everybody
//   1  scores:  S = Q K^T of a tile of 64 tokens, the softmax, P into shared memory
//   2  values:  O[:, 0:256]   += P V[:, 0:256]
//   3  values:  O[:, 256:512] += P V[:, 256:512]
// The scores of tile i + 1 begin (left half) before the softmax of tile i, and end (right half and
// rope) after it, so the tensor cores have them and the values of tile i - 1 to chew on meanwhile.
// Left tiles lie three deep and right tiles two deep: the left half is wanted early, the right half
// late, and 227 KB hold no third right half. The left half of Q lives in registers (64 a thread),
// which saves the shared memory for this and the bandwidth noted below.
//
// The budget of a tile of 64 tokens, in cycles of one SM (4096 FLOP, 128 shared bytes a cycle)
//   tensor cores   scores 36 x m64n64k16 at 32 = 1152;  values 8 x m64n256k16 at 128 = 1024;  2176
//   shared memory  keys to the scores 576, Q (20 of 36 steps) 320, V 512, P to the values 128,
//                  P written 64, TMA writing the tile 576;                                     2176
//   softmax        32 ex2 a thread at 4 lanes a cycle: 256 and about 200 issue slots, beside both
//   L2 to SM       73,728 bytes a tile and block: at 650 TFLOP/s 5.4 TB/s without, 2.7 with cluster
// O is rescaled only where a row's maximum grew by more than 2^8 past the reference its exponents
// use; the sum uses the same reference, so this is exact.
//
// Macros (all optional)
//   KIND        0 bf16 cache
//   CLUSTER     2 (an even number of row blocks) or 1; the launch names it too:
// cluster: 2
//   BOX_TOKENS  64, 32 or 16: tokens in a TMA box, the largest that divides the block size
//   UNIT_TOKENS (common.cuh) is best 64 here: tiles start at multiples of 64 tokens, so a cut at an
//               odd multiple of 32 costs both sides half a tile; it stays correct.
// Tensor maps (KIND 0): `latent_map` dims (64 bf16, tokens in a block, 9 groups, blocks), box
// (64, BOX_TOKENS, 1, 1), 128-byte swizzle; `rope_map` and `scale_map` are not read.
// Grid (row blocks, parts), 512 threads, SMEM_BYTES of dynamic shared memory (231,424).
// Queries: rows of 8 elements are read at once, so bases and strides are multiples of 16 bytes.
// partial_out and partial_lse: slot' = row_block * total_slots + slot, where total_slots is
// batch * 32 in invariant mode, else 2 * parts.

#ifndef KIND
#define KIND 0
#endif
#ifndef CLUSTER
#define CLUSTER 2
#endif
#ifndef BOX_TOKENS
#define BOX_TOKENS 64
#endif

constexpr int ROWS = 64;
constexpr int TILE = 64;                   // tokens
constexpr int CHUNK = 64 * 128;            // bytes of 64 rows of one 128-byte group
constexpr int HALF = 4 * CHUNK;            // bytes of 256 latent columns of a tile
constexpr int LEFT_DEPTH = 3, RIGHT_DEPTH = 2, ROPE_DEPTH = 1, PROB_DEPTH = 2, PIECE_DEPTH = 2;
constexpr int BOXES = TILE / BOX_TOKENS;   // in a tile, one above the other
constexpr int GROUP_WARPS = 4;             // warps of a warpgroup
constexpr int THREADS = 512;
constexpr float GROWTH = 8.f;              // base 2: how far a maximum may outgrow its reference

// Shared memory, in bytes. Everything that wgmma or TMA touches lies on its 1024-byte atoms.
constexpr int LEFT_AT = 0;
constexpr int RIGHT_AT = LEFT_AT + LEFT_DEPTH * HALF;
constexpr int ROPE_AT = RIGHT_AT + RIGHT_DEPTH * HALF;
constexpr int PROB_AT = ROPE_AT + ROPE_DEPTH * CHUNK;
constexpr int QUERY_AT = PROB_AT + PROB_DEPTH * CHUNK;  // latent columns 256 to 511, then rope
constexpr int SMALL_AT = QUERY_AT + 5 * CHUNK;
constexpr int SMEM_BYTES = SMALL_AT + 2048;

struct Small {
  float alpha[PROB_DEPTH][ROWS];     // what O is multiplied by before the tile's values
  float inverse[PIECE_DEPTH][ROWS];  // one over the row's sum
  float lse[PIECE_DEPTH][ROWS];      // base 2
  Piece piece[PIECE_DEPTH];          // sequence < 0: no more work
  Merge waiting[3];                  // sequences that wait for other blocks, and one at hand
  u64 left_full[LEFT_DEPTH], left_empty[LEFT_DEPTH];
  u64 right_full[RIGHT_DEPTH], right_empty[RIGHT_DEPTH];
  u64 rope_full[ROPE_DEPTH], rope_empty[ROPE_DEPTH];
  u64 prob_full[PROB_DEPTH], prob_empty[PROB_DEPTH];
  u64 piece_full[PIECE_DEPTH], piece_empty[PIECE_DEPTH], stats_full[PIECE_DEPTH];
};
static_assert(sizeof(Small) <= 2048, "the small things outgrew their room");
static_assert(SMEM_BYTES <= 232448, "more shared memory than a Hopper block can have");

extern "C" __device__ const int mla_wide_smem = SMEM_BYTES;

enum { BARRIER_MERGE = 1, BARRIER_SCORES, BARRIER_LEFT, BARRIER_RIGHT };

// ---- PTX in words ------------------------------------------------------------------------------

// K-major and V operands alike: 128-byte swizzle, 1024 bytes from 8 rows to the next 8 (stride).
// `leading` counts only for V, whose columns are contiguous: bytes from 64 columns to the next 64.
__device__ __forceinline__ u64 descriptor(u32 address, u32 leading) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

#define F4(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3])
#define F16(a, i) F4(a, i), F4(a, i + 4), F4(a, i + 8), F4(a, i + 12)
#define F32(a) F16(a, 0), F16(a, 16)
#define F64(a) F16(a, 0), F16(a, 16), F16(a, 32), F16(a, 48)
#define D32                                                                                        \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "     \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define D64                                                                                        \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "         \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "          \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "          \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// S (64 x 64) = or += A (64 x 16, registers) B^T, B 64 tokens x 16 columns in shared memory.
__device__ __forceinline__ void wgmma_scores(float (&s)[32], const u32 (&a)[4], u64 b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D32
      ", {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
      : F32(s) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void wgmma_scores(float (&s)[32], u64 a, u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D32 ", %32, %33, 1, 1, 1, 0, 0;"
      : F32(s) : "l"(a), "l"(b));
}

// O (64 x 128) += P (64 x 16) V (16 tokens x 128 columns), V's columns contiguous.
__device__ __forceinline__ void wgmma_values(float (&o)[64], u64 p, u64 v) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " D64 ", %64, %65, 1, 1, 1, 0, 1;"
      : F64(o) : "l"(p), "l"(v));
}

__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// The compiler may move nothing that reads or writes these registers across.
__device__ __forceinline__ void pin(float (&s)[32]) { asm volatile("" : F32(s)::"memory"); }
__device__ __forceinline__ void pin(float (&o)[64]) { asm volatile("" : F64(o)::"memory"); }

template <int N> __device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

__device__ __forceinline__ void store_zero(u32 address) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(address), "r"(0) : "memory");
}

__device__ __forceinline__ void store_quad(u32 address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ __forceinline__ void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// Volatile, so that the loads stay in groups that the registers can hold.
__device__ __forceinline__ uint4 load_quad(const u16* from) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}

__device__ __forceinline__ u32 load_pair(const u16* from) {
  u32 v;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}

__device__ __forceinline__ u32 cluster_rank() {
  u32 rank = 0;
  if (CLUSTER > 1) asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ void everybody() {
  __syncwarp();
  if (CLUSTER == 1) { __syncthreads(); return; }
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// One warp's word, to every block of the cluster, that a slot may be filled anew.
__device__ __forceinline__ void release_slot(u32 barrier, int lane) {
  __syncwarp();
  if (lane >= CLUSTER) return;
  if (CLUSTER == 1) { barrier_arrive(barrier); return; }
  asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
               "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier), "r"(lane) : "memory");
}

__device__ __forceinline__ void warp_arrive(u32 barrier, int lane) {
  __syncwarp();
  if (lane == 0) barrier_arrive(barrier);
}

// A box into the same place of every block of the cluster. The cache is read once in a step: the
// L2 may drop it first.
__device__ __forceinline__ void load_box(u32 to, const TensorMap* map, u32 barrier, int token,
                                         int group, int block) {
  constexpr u64 EVICT_FIRST = 0x12F0000000000000ull;
  if (CLUSTER == 1)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;"
        ::"r"(to), "l"(map), "r"(0), "r"(token), "r"(group), "r"(block), "r"(barrier),
          "l"(EVICT_FIRST) : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7, %8;"
        ::"r"(to), "l"(map), "r"(0), "r"(token), "r"(group), "r"(block), "r"(barrier),
          "h"((u16)3), "l"(EVICT_FIRST) : "memory");
}

// A place in a ring of slots. `phase` flips at each turn: who fills waits for the empty barrier's
// parity phase ^ 1 (a fresh barrier passes), who reads for the full barrier's parity phase.
template <int DEPTH>
struct Ring {
  u32 slot = 0, phase = 0;
  __device__ __forceinline__ void next() {
    if (++slot == DEPTH) slot = 0, phase ^= 1;
  }
};

struct Block {
  const Params& p;
  Small& small;
  u32 base;  // of the dynamic shared memory
  u32 rank;  // in the cluster
  int row_block, lane;

  __device__ __forceinline__ u32 at(const u64& barrier) const { return smem_address(&barrier); }
};

// The tiles of a piece: multiples of 64 tokens of the sequence.
__device__ __forceinline__ int first_tile(const Piece& piece) { return piece.begin / TILE; }
__device__ __forceinline__ int last_tile(const Piece& piece) { return (piece.end + TILE - 1) / TILE; }

// ---- The loaders -------------------------------------------------------------------------------

__device__ __forceinline__ void hand_out_pieces(const Block& b) {
  Plan plan(b.p, blockIdx.y);
  Ring<PIECE_DEPTH> ring;
  bool more = true;
  while (more) {
    Piece piece;
    more = plan.next(piece);
    if (!more) piece.sequence = -1;
    barrier_wait(b.at(b.small.piece_empty[ring.slot]), ring.phase ^ 1);
    if (b.lane == 0) b.small.piece[ring.slot] = piece;
    warp_arrive(b.at(b.small.piece_full[ring.slot]), b.lane);
    ring.next();
  }
}

// One stream of tiles: GROUPS 128-byte groups from FIRST on, into a ring of DEPTH slots at `to`.
// The blocks of a cluster share the groups; a single group they take in turn.
template <int DEPTH, int FIRST, int GROUPS>
__device__ __forceinline__ void load_tiles(const Block& b, const TensorMap* map, int to,
                                           const u64* full, const u64* empty) {
  constexpr int MINE = GROUPS >= CLUSTER ? GROUPS / CLUSTER : 1;
  int box = b.lane / MINE, group = b.lane % MINE + (GROUPS >= CLUSTER ? b.rank * MINE : 0);
  Ring<DEPTH> ring;
  Ring<PIECE_DEPTH> pieces;
  while (true) {
    barrier_wait(b.at(b.small.piece_full[pieces.slot]), pieces.phase);
    const Piece& piece = b.small.piece[pieces.slot];
    int sequence = piece.sequence, end = piece.end, tile = first_tile(piece), last = last_tile(piece);
    warp_arrive(b.at(b.small.piece_empty[pieces.slot]), b.lane);
    pieces.next();
    if (sequence < 0) return;
    const int* table = b.p.block_table + sequence * b.p.block_table_stride;
#pragma unroll 1
    for (; tile < last; ++tile) {
      int boxes = min((end - tile * TILE + BOX_TOKENS - 1) / BOX_TOKENS, BOXES);
      int token = tile * TILE + box * BOX_TOKENS;
      bool mine = box < boxes && (GROUPS >= CLUSTER || (tile & 1) == b.rank);
      int block = mine ? __ldg(table + token / b.p.block_size) : 0;
      u32 barrier = b.at(full[ring.slot]);
      barrier_wait(b.at(empty[ring.slot]), ring.phase ^ 1);
      if (b.lane == 0) barrier_expect(barrier, boxes * BOX_TOKENS * 128 * GROUPS);
      __syncwarp();
      if (mine)
        load_box(b.base + to + ring.slot * GROUPS * CHUNK + group * CHUNK + box * BOX_TOKENS * 128,
                 map, barrier, token % b.p.block_size, FIRST + group, block);
      ring.next();
    }
  }
}

// ---- The scores --------------------------------------------------------------------------------

// Where the query of a row starts; null for padding.
__device__ __forceinline__ const u16* query_row(const Block& b, const void* queries,
                                                const i64 (&stride)[3], int sequence, int row) {
  int at = b.row_block * ROWS + row, token = at / b.p.heads;
  if (token >= b.p.query_tokens) return nullptr;
  return (const u16*)queries + sequence * stride[0] + token * stride[1] +
         (at - token * b.p.heads) * stride[2];
}

// Latent columns 256 to 511 and the rope part into shared memory, swizzled.
__device__ __forceinline__ void share_queries(const Block& b, int sequence, int thread) {
  int row = thread / 8, part = thread % 8;
  uint4 value[4][5];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const u16* latent = query_row(b, b.p.q_latent, b.p.q_latent_stride, sequence, row + 16 * i);
    const u16* rope = query_row(b, b.p.q_rope, b.p.q_rope_stride, sequence, row + 16 * i);
#pragma unroll
    for (int c = 0; c < 5; ++c)
      value[i][c] = latent ? load_quad((c < 4 ? latent + 256 + c * 64 : rope) + part * 8)
                           : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    u32 to = b.base + QUERY_AT + (row + 16 * i) * 128 + ((part ^ (row & 7)) << 4);
#pragma unroll
    for (int c = 0; c < 5; ++c) store_quad(to + c * CHUNK, value[i][c]);
  }
}

// Latent columns 0 to 255 into registers, as wgmma's A: step k holds columns 16 k + 2 t, + 1 of rows
// g and g + 8, then the same at columns + 8.
__device__ __forceinline__ void keep_queries(const Block& b, int sequence, int thread, u32 (&q)[16][4]) {
  int g = thread / 32 * 16 + (thread & 31) / 4, t = thread & 3;
  const u16* upper = query_row(b, b.p.q_latent, b.p.q_latent_stride, sequence, g);
  const u16* lower = query_row(b, b.p.q_latent, b.p.q_latent_stride, sequence, g + 8);
#pragma unroll
  for (int k = 0; k < 16; ++k) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      q[k][2 * j] = upper ? load_pair(upper + 16 * k + 8 * j + 2 * t) : 0;
      q[k][2 * j + 1] = lower ? load_pair(lower + 16 * k + 8 * j + 2 * t) : 0;
    }
  }
}

__device__ __forceinline__ void left_scores(float (&s)[32], const u32 (&q)[16][4], u32 keys) {
  u64 key = descriptor(keys, 16);
  wgmma_begin();
#pragma unroll
  for (int k = 0; k < 16; ++k)
    wgmma_scores(s, q[k], key + ((k / 4 * CHUNK + k % 4 * 32) >> 4), k > 0);
  wgmma_commit();
}

template <int CHUNKS>
__device__ __forceinline__ void more_scores(float (&s)[32], u32 queries, u32 keys) {
  u64 query = descriptor(queries, 16), key = descriptor(keys, 16);
  wgmma_begin();
#pragma unroll
  for (int k = 0; k < 4 * CHUNKS; ++k) {
    u32 offset = (k / 4 * CHUNK + k % 4 * 32) >> 4;
    wgmma_scores(s, query + offset, key + offset);
  }
  wgmma_commit();
}

// The softmax state of a thread's two rows, g and g + 8 of its warp's sixteen.
struct Rows {
  float reference[2], sum[2];
};

// Scores to exponentials, in place; returns what O has to be multiplied by.
__device__ __forceinline__ void exponentials(float (&t)[32], Rows& rows, float (&alpha)[2]) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    float high = NEG_INF;
#pragma unroll
    for (int n = 0; n < 8; ++n) high = fmaxf(high, fmaxf(t[4 * n + 2 * j], t[4 * n + 2 * j + 1]));
    high = fmaxf(high, __shfl_xor_sync(FULL_WARP, high, 1));
    high = fmaxf(high, __shfl_xor_sync(FULL_WARP, high, 2));
    bool grew = high > rows.reference[j] + GROWTH;
    alpha[j] = grew ? exp2_fast(rows.reference[j] - high) : 1.f;
    if (grew) rows.reference[j] = high;
    float reference = rows.reference[j] == NEG_INF ? 0.f : rows.reference[j];
    float sum[2] = {0.f, 0.f};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& value = t[4 * n + 2 * j + c];
        value = exp2_fast(value - reference);
        sum[c] += value;
      }
    }
    rows.sum[j] = rows.sum[j] * alpha[j] + (sum[0] + sum[1]);
  }
}

// P as bf16, 64 tokens (128 bytes) a row, swizzled as wgmma's A wants it.
__device__ __forceinline__ void store_probabilities(const float (&t)[32], u32 to, int warp, int lane) {
  int row = warp * 16 + (lane & 15);
  u32 first = to + row * 128 + (((lane >> 4) ^ (lane & 7)) << 4);
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    store_matrices(first ^ (n << 4),
                   pack_bf16(t[4 * n], t[4 * n + 1]), pack_bf16(t[4 * n + 2], t[4 * n + 3]),
                   pack_bf16(t[4 * n + 4], t[4 * n + 5]), pack_bf16(t[4 * n + 6], t[4 * n + 7]));
  }
}

// The rings as the scores see them: the n-th tile's place in each. Registers are dear here, so all
// but the left ring's (three slots) are read off the count.
struct ScoreRings {
  Ring<LEFT_DEPTH> left;
  u32 n = 0;
  __device__ __forceinline__ u32 slot() const { return n & 1; }         // right, probabilities
  __device__ __forceinline__ u32 phase() const { return n >> 1 & 1; }   // right, probabilities
  __device__ __forceinline__ u32 rope_phase() const { return n & 1; }
};
static_assert(RIGHT_DEPTH == 2 && PROB_DEPTH == 2 && ROPE_DEPTH == 1, "ScoreRings counts on it");

__device__ __forceinline__ void begin_scores(const Block& b, ScoreRings& rings, float (&s)[32],
                                             const u32 (&q)[16][4]) {
  barrier_wait(b.at(b.small.left_full[rings.left.slot]), rings.left.phase);
  left_scores(s, q, b.base + LEFT_AT + rings.left.slot * HALF);
  rings.left.next();
}

__device__ __forceinline__ void end_scores(const Block& b, const ScoreRings& rings, float (&s)[32]) {
  barrier_wait(b.at(b.small.right_full[rings.slot()]), rings.phase());
  more_scores<4>(s, b.base + QUERY_AT, b.base + RIGHT_AT + rings.slot() * HALF);
  barrier_wait(b.at(b.small.rope_full[0]), rings.rope_phase());
  more_scores<1>(s, b.base + QUERY_AT + 4 * CHUNK, b.base + ROPE_AT);
}

// What a row does not see becomes -inf, by choice: the scores there may be NaN.
__device__ __forceinline__ void mask_scores(const Block& b, float (&t)[32], const Piece& piece,
                                            int tile, int warp) {
  int at = tile * TILE + (b.lane & 3) * 2;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    int row = b.row_block * ROWS + warp * 16 + b.lane / 4 + 8 * j;
    int unseen = max(b.p.query_tokens - 1 - row / b.p.heads, 0);
    int visible = min(piece.end, piece.length - unseen);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      int here = at + i / 2 * 8 + (i & 1);
      if (here < piece.begin || here >= visible) t[i / 2 * 4 + 2 * j + (i & 1)] = NEG_INF;
    }
  }
}

// Waits for the tile's scores and takes them over, scaled, so that `s` is free.
__device__ __forceinline__ void take_scores(const Block& b, float (&s)[32], float (&t)[32]) {
  wgmma_wait();
  pin(s);
  release_slot(b.at(b.small.rope_empty[0]), b.lane);
#pragma unroll
  for (int i = 0; i < 32; ++i) t[i] = s[i] * b.p.scale_log2;
}

__device__ __forceinline__ void finish_tile(const Block& b, const ScoreRings& rings, float (&t)[32],
                                            Rows& rows, int warp) {
  u32 slot = rings.slot();
  // Also keeps ptxas from drawing the softmax up before the products just issued.
  barrier_wait(b.at(b.small.prob_empty[slot]), rings.phase() ^ 1);
  float alpha[2];
  exponentials(t, rows, alpha);
  store_probabilities(t, b.base + PROB_AT + slot * CHUNK, warp, b.lane);
  if ((b.lane & 3) == 0) {
    int row = warp * 16 + b.lane / 4;
    b.small.alpha[slot][row] = alpha[0];
    b.small.alpha[slot][row + 8] = alpha[1];
  }
  fence_async_proxy();
  warp_arrive(b.at(b.small.prob_full[slot]), b.lane);
}

__device__ __forceinline__ void write_stats(const Block& b, Rows& rows, u32 slot, int warp) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    float sum = rows.sum[j];
    sum += __shfl_xor_sync(FULL_WARP, sum, 1);
    sum += __shfl_xor_sync(FULL_WARP, sum, 2);
    if ((b.lane & 3) == 0) {
      int row = warp * 16 + b.lane / 4 + 8 * j;
      b.small.inverse[slot][row] = sum == 0.f ? 0.f : 1.f / sum;
      b.small.lse[slot][row] = sum == 0.f ? NEG_INF : rows.reference[j] + log2_fast(sum);
    }
  }
  warp_arrive(b.at(b.small.stats_full[slot]), b.lane);
}

__device__ __forceinline__ void score_pieces(const Block& b) {
  int thread = threadIdx.x & 127, warp = thread / 32;
  float s[32], t[32];
  u32 q[16][4];
  ScoreRings rings;
  Ring<PIECE_DEPTH> pieces;
  while (true) {
    u32 slot = pieces.slot;
    barrier_wait(b.at(b.small.piece_full[slot]), pieces.phase);
    const Piece& piece = b.small.piece[slot];
    if (piece.sequence < 0) return;
    Rows rows{{NEG_INF, NEG_INF}, {0.f, 0.f}};
    int tile = first_tile(piece), last = last_tile(piece);
    // The tiles before this one every row sees whole (cuts inside a tile leave none).
    int masked = max(min(piece.end, piece.length - (b.p.query_tokens - 1)), 0) / TILE;
    if (UNIT % TILE != 0 && piece.begin % TILE != 0) masked = 0;
    if (tile < last) {
      named_barrier(BARRIER_SCORES, 128);  // no warp's last products read the old queries any more
      share_queries(b, piece.sequence, thread);
      fence_async_proxy();
      keep_queries(b, piece.sequence, thread, q);
      named_barrier(BARRIER_SCORES, 128);
      begin_scores(b, rings, s, q);
      end_scores(b, rings, s);
      for (; tile + 1 < last; ++tile) {
        take_scores(b, s, t);
        if (tile >= masked) mask_scores(b, t, piece, tile, warp);
        begin_scores(b, rings, s, q);
        pin(t);  // the softmax comes after these products are on their way, not before
        finish_tile(b, rings, t, rows, warp);
        ++rings.n;
        end_scores(b, rings, s);
      }
      take_scores(b, s, t);
      if (tile >= masked) mask_scores(b, t, piece, tile, warp);
      finish_tile(b, rings, t, rows, warp);
      ++rings.n;
    }
    write_stats(b, rows, slot, warp);
    warp_arrive(b.at(b.small.piece_empty[slot]), b.lane);
    pieces.next();
  }
}

// ---- The values --------------------------------------------------------------------------------

// Rows of a tile past the piece's end may hold anything, NaN too, which 0 x NaN would let through.
__device__ __forceinline__ void zero_rows(u32 half, int from, int thread) {
  for (int row = from + thread / 8; row < TILE; row += 16) {
#pragma unroll
    for (int c = 0; c < 4; ++c) store_zero(half + c * CHUNK + row * 128 + thread % 8 * 16);
  }
  fence_async_proxy();
}

// O as two accumulators of 128 columns: one m64n256k16 does not compile for 512 threads, whose first
// 128 registers it does not fit.
struct Output {
  float left[64], right[64];
};

__device__ __forceinline__ void add_values(Output& o, u32 probabilities, u32 values) {
  u64 prob = descriptor(probabilities, 16), value = descriptor(values, CHUNK);
  wgmma_begin();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_values(o.left, prob + (k * 32 >> 4), value + (k * 16 * 128 >> 4));
    wgmma_values(o.right, prob + (k * 32 >> 4), value + ((k * 16 * 128 + 2 * CHUNK) >> 4));
  }
  wgmma_commit();
}

// Two neighbouring threads swap, so that each has four columns in a row: 32 bytes a quad of threads.
__device__ __forceinline__ void store_bf16(u16* row, const float (&o)[64], int j, float inverse, int t) {
#pragma unroll
  for (int n = 0; n < 16; n += 2) {
    const float* at = o + 4 * n + 2 * j;
    u32 first = pack_bf16(at[0] * inverse, at[1] * inverse);
    u32 second = pack_bf16(at[4] * inverse, at[5] * inverse);
    bool odd = t & 1;
    u32 got = __shfl_xor_sync(FULL_WARP, odd ? first : second, 1);
    if (row)
      *(uint2*)(row + 8 * n + (odd ? 8 + 2 * (t - 1) : 2 * t)) =
          odd ? make_uint2(got, second) : make_uint2(first, got);
  }
}

__device__ __forceinline__ void store_f32(float* row, const float (&o)[64], int j, float inverse, int t) {
#pragma unroll
  for (int n = 0; n < 16; ++n)
    *(float2*)(row + 8 * n + 2 * t) =
        make_float2(o[4 * n + 2 * j] * inverse, o[4 * n + 2 * j + 1] * inverse);
}

template <int SIDE>
__device__ __forceinline__ void store_piece(const Block& b, const Output& o, u32 slot, int warp) {
  const Piece& piece = b.small.piece[slot];
  int t = b.lane & 3;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    int row = warp * 16 + b.lane / 4 + 8 * j, at = b.row_block * ROWS + row;
    bool real = at < b.p.query_tokens * b.p.heads;
    float inverse = b.small.inverse[slot][row], lse = b.small.lse[slot][row];
    if (piece.splits == 1) {
      i64 to = (i64)piece.sequence * b.p.query_tokens * b.p.heads + at;
      u16* out = b.p.out + to * LATENT + SIDE * 256;
      store_bf16(real ? out : nullptr, o.left, j, inverse, t);
      store_bf16(real ? out + 128 : nullptr, o.right, j, inverse, t);
      if (SIDE == 0 && real && t == 0) b.p.lse[to] = lse * 0.69314718055994531f;
    } else if (real) {
      i64 slots = (i64)b.row_block * (b.p.invariant ? b.p.batch * MAX_CHUNKS : 2 * b.p.parts);
      i64 to = (slots + piece.slot) * ROWS + row;
      store_f32(b.p.partial_out + to * LATENT + SIDE * 256, o.left, j, inverse, t);
      store_f32(b.p.partial_out + to * LATENT + SIDE * 256 + 128, o.right, j, inverse, t);
      if (SIDE == 0 && t == 0) b.p.partial_lse[to] = lse;
    }
  }
}

// Partial results lie row by row.
struct RowMajor {
  static __device__ __forceinline__ int row(int group) { return group / (LATENT / 4); }
  static __device__ __forceinline__ bool first_of_row(int group) { return group % (LATENT / 4) == 0; }
  static __device__ __forceinline__ void write(int group, u16* out, const float4& v) {
    *(uint2*)(out + group % (LATENT / 4) * 4) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
  }
};

template <int SIDE, int DEPTH>
__device__ __forceinline__ void value_pieces(const Block& b, int halves, const u64* full, const u64* empty) {
  int thread = threadIdx.x & 127, warp = thread / 32;
  Output o;
  Ring<DEPTH> ring;
  Ring<PROB_DEPTH> prob;
  Ring<PIECE_DEPTH> pieces;
  Merger<RowMajor, ROWS, 256> merger(b.p, b.row_block, (int)threadIdx.x - 256, BARRIER_MERGE, b.small.waiting);
  while (true) {
    u32 slot = pieces.slot;
    barrier_wait(b.at(b.small.piece_full[slot]), pieces.phase);
    const Piece& piece = b.small.piece[slot];
    if (piece.sequence < 0) break;
#pragma unroll
    for (int i = 0; i < 64; ++i) o.left[i] = 0.f, o.right[i] = 0.f;
    int end = piece.end, tile = first_tile(piece), last = last_tile(piece);
    for (; tile < last; ++tile) {
      u32 half = b.base + halves + ring.slot * HALF;
      barrier_wait(b.at(b.small.prob_full[prob.slot]), prob.phase);
      const float* alpha = b.small.alpha[prob.slot] + warp * 16 + b.lane / 4;
      float upper = alpha[0], lower = alpha[8];
      if (__any_sync(FULL_WARP, upper != 1.f || lower != 1.f)) {
#pragma unroll
        for (int i = 0; i < 64; ++i) {
          o.left[i] *= i & 2 ? lower : upper;
          o.right[i] *= i & 2 ? lower : upper;
        }
      }
      barrier_wait(b.at(full[ring.slot]), ring.phase);
      if (end < (tile + 1) * TILE) {
        zero_rows(half, end - tile * TILE, thread);
        named_barrier(SIDE == 0 ? BARRIER_LEFT : BARRIER_RIGHT, 128);
      }
      pin(o.left), pin(o.right);
      add_values(o, b.base + PROB_AT + prob.slot * CHUNK, half);
      wgmma_wait();
      pin(o.left), pin(o.right);
      release_slot(b.at(empty[ring.slot]), b.lane);
      warp_arrive(b.at(b.small.prob_empty[prob.slot]), b.lane);
      ring.next();
      prob.next();
    }
    barrier_wait(b.at(b.small.stats_full[slot]), pieces.phase);
    store_piece<SIDE>(b, o, slot, warp);
    if (piece.splits > 1 && piece.closes) merger.arrive(piece);
    warp_arrive(b.at(b.small.piece_empty[slot]), b.lane);
    pieces.next();
  }
  merger.finish();
}

// ---- The kernel --------------------------------------------------------------------------------

template <int DEPTH>
__device__ __forceinline__ void init_ring(u64 (&full)[DEPTH], u64 (&empty)[DEPTH], int filled_by, int read_by) {
  for (int i = 0; i < DEPTH; ++i) {
    barrier_init(smem_address(&full[i]), filled_by);
    barrier_init(smem_address(&empty[i]), read_by);
  }
}

__device__ __forceinline__ void init_barriers(Small& small) {
  // Full: the loader's own arrival, and bytes. Empty: the warps that read, of all the cluster.
  init_ring(small.left_full, small.left_empty, 1, GROUP_WARPS * CLUSTER);
  init_ring(small.right_full, small.right_empty, 1, GROUP_WARPS * CLUSTER);
  init_ring(small.rope_full, small.rope_empty, 1, GROUP_WARPS * CLUSTER);
  init_ring(small.prob_full, small.prob_empty, GROUP_WARPS, 2 * GROUP_WARPS);
  init_ring(small.piece_full, small.piece_empty, 1, 3 + 3 * GROUP_WARPS);
  for (int i = 0; i < PIECE_DEPTH; ++i) barrier_init(smem_address(&small.stats_full[i]), GROUP_WARPS);
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    mla_wide(const __grid_constant__ Params p, const __grid_constant__ TensorMap latent_map,
             const __grid_constant__ TensorMap rope_map, const __grid_constant__ TensorMap scale_map) {
  extern __shared__ __align__(1024) u8 shared[];
  Small& small = *(Small*)(shared + SMALL_AT);
  u32 base = smem_address(shared);
  if (base & 1023) __trap();  // the swizzles count on it
  if (threadIdx.x == 0) {
    tma_prefetch(&latent_map);
    init_barriers(small);
  }
  Block b{p, small, base, cluster_rank(), (int)blockIdx.x, (int)threadIdx.x & 31};
  everybody();
  int warp = __shfl_sync(FULL_WARP, threadIdx.x / 32, 0);
  // Each role waits for everybody itself: a block may not leave while its partner still multicasts
  // or arrives here. (Were they to meet again, ptxas would hold all of them to 128 registers.)
  int role = warp / GROUP_WARPS;
  if (role == 0) {
    fewer_registers<24>();
    if (warp == 0)
      load_tiles<LEFT_DEPTH, 0, 4>(b, &latent_map, LEFT_AT, small.left_full, small.left_empty);
    else if (warp == 1)
      load_tiles<RIGHT_DEPTH, 4, 4>(b, &latent_map, RIGHT_AT, small.right_full, small.right_empty);
    else if (warp == 2)
      load_tiles<ROPE_DEPTH, 8, 1>(b, &latent_map, ROPE_AT, small.rope_full, small.rope_empty);
    else
      hand_out_pieces(b);
    everybody();
  } else if (role == 1) {
    more_registers<168>();
    score_pieces(b);
    everybody();
  } else if (role == 2) {
    more_registers<160>();
    value_pieces<0, LEFT_DEPTH>(b, LEFT_AT, small.left_full, small.left_empty);
    everybody();
  } else {
    more_registers<160>();
    value_pieces<1, RIGHT_DEPTH>(b, RIGHT_AT, small.right_full, small.right_empty);
    everybody();
  }
}
