// MLA decode on Hopper for 33 to 512 query rows, 64 rows a block: wgmma, TMA, mbarriers.
//
// Follows `common.cuh` in one text. A block takes 64 rows (query tokens x heads) of one share of the
// plan; two row blocks of a share form a cluster, in which each loads half of every tile and
// multicasts it to both.
//
// The warpgroups (four of 128 threads)
//   0  loaders: one warp each for the left latent half, the right half and the rope part of the
//      tiles, and one that runs the plan and hands the pieces of work to everybody
//      (FP8: one warp loads and plans, three turn e4m3 into f16)
//   1  scores:  S = Q K^T of a tile of 64 tokens, the softmax, P into shared memory
//   2  values:  O[:, 0:256]   += P V[:, 0:256]
//   3  values:  O[:, 256:512] += P V[:, 256:512]
// with 32, 160, 160 and 160 registers a thread.
// The scores of tile i + 1 begin (left half) before the softmax of tile i, and end (right half and
// rope) after it, so the tensor cores have them and the values of tile i - 1 to chew on meanwhile.
// Left tiles lie three deep and right tiles two deep: the left half is wanted early, the right half
// late, and 227 KB hold no third right half. The left half of Q lives in registers (64 a thread),
// which saves the shared memory for this and the bandwidth noted below. Everybody else meets by
// mbarriers alone, so a warpgroup that waits leaves the tensor cores to the others.
//
// The budget of a tile of 64 tokens, in cycles of one SM (4096 bf16 FLOP, 128 shared bytes a cycle)
//   bf16 cache
//     tensor cores   scores 36 x m64n64k16 at 32 = 1152, values 16 x m64n128k16 at 64 = 1024:  2176
//     shared memory  keys to the scores 576, Q (20 of 36 steps) 320, V 512, P to the values 256, P
//                    written 64, TMA writing the tile 576:  2304, the bound
//     softmax        32 ex2 a thread at 4 lanes a cycle, 256, and about 200 issue slots, beside both
//     L2 to SM       73,728 bytes a tile and block: at 650 TFLOP/s 5.4 TB/s without the cluster,
//                    2.7 with it
//   e4m3 cache, e4m3 queries (one scale each)
//     tensor cores   scores 18 x m64n64k32 at 32 = 576, values (f16) 1024:  1600
//     shared memory  keys 288, Q (10 of 18 steps) 160, V 512, P 256 + 64, TMA 288, converters read
//                    256 and write 512:  2336, the bound
//     converters     3 warps, 85 cvt of two values a lane at 2 cycles and as much again: about 500
//   e4m3 cache, bf16 queries; 656-byte cache
//     tensor cores   as bf16, in f16:  2176
//     shared memory  576 + 320 + 512 + 256 + 64, TMA 288 to 320, converters 768:  2800, the bound
//     converters     656-byte: two f16 multiplications a pair besides: about 1300
// O is rescaled only where a row's maximum grew by more than 2^8 past the reference its exponents
// use; the sum uses the same reference, so this is exact.
//
// FP8: V needs its columns contiguous, which wgmma takes for 16-bit types only. e4m3 becomes f16
// without loss; P is f16, finer than bf16. The 656-byte layout multiplies by the token's scale, given
// as two f16 so that one rounding remains; latents beyond 65,504 become infinite, hence NaN in the
// result. bf16 queries become f16, each row times a power of two that fills f16's range.
//
// Macros (all optional)
//   KIND        0 bf16 cache, 1 e4m3 with one scale, 2 fp8_ds_mla (656 bytes a token)
//   QFP8        1: e4m3 queries (KIND 1 or 2)
//   CLUSTER     2 (an even number of row blocks) or 1; the launch names it too:
// cluster: 2
//   BOX_TOKENS  64, 32 or 16: tokens in a TMA box, the largest that divides the block size
//   UNIT_TOKENS (common.cuh) is best 64 here: tiles start at multiples of 64 tokens, so a cut at an
//               odd multiple of 32 costs both sides half a tile; it stays correct.
// Tensor maps, four dimensions (inner, tokens in a block, groups, blocks), box (inner, BOX_TOKENS, 1, 1)
//   KIND 0  latent_map  64 bf16 x 9 groups, 128-byte swizzle; the others are not read
//   KIND 1  latent_map  128 bytes x 4 groups, 128-byte swizzle; rope_map 64 bytes, 64-byte swizzle
//   KIND 2  latent_map  as KIND 1; rope_map 64 bf16, 128-byte swizzle; scale_map 4 float32, none
// Grid (row blocks, parts), 512 threads, SMEM_BYTES of dynamic shared memory: 231,424 (KIND 0),
// 227,840 (KIND 1), 211,456 (KIND 1 with QFP8), 225,792 (KIND 2); `mla_wide_smem` holds it too.
// Queries: rows are read 16 bytes at a time (656-byte cache with QFP8: 8), so bases and strides are
// multiples of 16 bytes.
// partial_out and partial_lse: slot' = row_block * total_slots + slot, where total_slots is
// batch * 32 in invariant mode, else 2 * parts; row by row. At most 256 parts.

#ifndef KIND
#define KIND 0
#endif
#ifndef QFP8
#define QFP8 0
#endif
#ifndef CLUSTER
#define CLUSTER 2
#endif
#ifndef BOX_TOKENS
#define BOX_TOKENS 64
#endif

constexpr bool FP8 = KIND != 0;
constexpr bool NATIVE = KIND == 1 && QFP8;    // e4m3 scores on the tile as it lies in the cache
constexpr bool ROPE_CONVERTED = KIND == 1 && !QFP8;
constexpr bool CONVERTS_QUERIES = FP8 && !NATIVE;

constexpr int ROWS = 64;
constexpr int TILE = 64;                   // tokens
constexpr int CHUNK = 64 * 128;            // bytes of 64 rows of one 128-byte group
constexpr int HALF = 4 * CHUNK;            // bytes of 256 latent columns of a tile, as bf16 or f16
constexpr int LEFT_DEPTH = FP8 ? 2 : 3, RIGHT_DEPTH = NATIVE ? 1 : 2, ROPE_DEPTH = NATIVE ? 2 : 1;
constexpr int RAW_DEPTH = NATIVE ? 8 : FP8 ? 3 : 0;  // chunks of 128 e4m3 columns
constexpr int PROB_DEPTH = 2, PIECE_DEPTH = 2;
constexpr int BOXES = TILE / BOX_TOKENS;   // in a tile, one above the other
constexpr int GROUP_WARPS = 4;             // warps of a warpgroup
constexpr int CONVERTERS = 3;              // warps
constexpr int THREADS = 512;
constexpr float GROWTH = 8.f;              // base 2: how far a maximum may outgrow its reference
constexpr int QUERY_BYTES = QFP8 ? 1 : 2;  // of an element in global memory
constexpr int KEPT_STEPS = NATIVE ? 8 : 16;  // k-steps of Q in registers: latent columns 0 to 255

// Shared memory, in bytes. Everything that wgmma or TMA touches lies on its 1024-byte atoms.
constexpr int ROPE_BYTES = NATIVE ? 64 * 64 : CHUNK;
constexpr int LEFT_AT = 0;
constexpr int RIGHT_AT = LEFT_AT + LEFT_DEPTH * HALF;
constexpr int RAW_AT = RIGHT_AT + RIGHT_DEPTH * HALF;
constexpr int RAW_ROPE_AT = RAW_AT + RAW_DEPTH * CHUNK;
constexpr int SCALE_AT = RAW_ROPE_AT + (ROPE_CONVERTED ? 64 * 64 : 0);
constexpr int ROPE_AT = SCALE_AT + (KIND == 2 ? 2 * 64 * 16 : 0);
constexpr int PROB_AT = ROPE_AT + ROPE_DEPTH * ROPE_BYTES;
constexpr int QUERY_AT = PROB_AT + PROB_DEPTH * CHUNK;  // latent columns 256 to 511, then rope
constexpr int QUERY_ROPE_AT = QUERY_AT + (NATIVE ? 2 : 4) * CHUNK;
constexpr int SMALL_AT = QUERY_ROPE_AT + ROPE_BYTES;
constexpr int SMEM_BYTES = SMALL_AT + (FP8 ? 2560 : 2048);

// Registers of a thread of each role; they sum to 512.
constexpr int LOAD_REGISTERS = 32, SCORE_REGISTERS = 160, VALUE_REGISTERS = 160;

struct Small {
  float alpha[PROB_DEPTH][ROWS];     // what O is multiplied by before the tile's values
  float inverse[PIECE_DEPTH][ROWS];  // one over the row's sum
  float lse[PIECE_DEPTH][ROWS];      // base 2
  Piece piece[PIECE_DEPTH];          // sequence < 0: no more work
  Piece waiting[3];                  // sequences that wait for other blocks, and one at hand
  u64 left_full[LEFT_DEPTH], left_empty[LEFT_DEPTH];
  u64 right_full[RIGHT_DEPTH], right_empty[RIGHT_DEPTH];
  u64 rope_full[ROPE_DEPTH], rope_empty[ROPE_DEPTH];
#if KIND != 0
  u64 raw_full[RAW_DEPTH], raw_empty[RAW_DEPTH];
  u64 raw_rope_full[1], raw_rope_empty[1];
  u64 scale_full[2], scale_empty[2];
  float up[ROWS];  // the power of two that a query row was multiplied by to fill f16's range
#endif
  u64 prob_full[PROB_DEPTH], prob_empty[PROB_DEPTH];
  u64 piece_full[PIECE_DEPTH], piece_empty[PIECE_DEPTH], stats_full[PIECE_DEPTH];
};
static_assert(sizeof(Small) <= SMEM_BYTES - SMALL_AT, "the small things outgrew their room");
static_assert(LOAD_REGISTERS + SCORE_REGISTERS + 2 * VALUE_REGISTERS == 512, "a block has 65,536 registers");
static_assert(SMEM_BYTES <= 232448, "more shared memory than a Hopper block can have");

extern "C" __device__ const int mla_wide_smem = SMEM_BYTES;
extern "C" __device__ const int mla_wide_threads = THREADS;

enum { BARRIER_MERGE = 1, BARRIER_SCORES, BARRIER_LEFT, BARRIER_RIGHT };

// ---- PTX in words ------------------------------------------------------------------------------

// K-major and V operands alike: 128-byte swizzle, 1024 bytes from 8 rows to the next 8 (stride).
// `leading` counts only for V, whose columns are contiguous: bytes from 64 columns to the next 64.
__device__ __forceinline__ u64 descriptor(u32 address, u32 leading) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// K-major rows of 64 bytes: 64-byte swizzle, 512 bytes from 8 rows to the next 8.
__device__ __forceinline__ u64 narrow_descriptor(u32 address) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(512 >> 4) << 32 | (u64)2 << 62;
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

#if KIND == 0
#define SCORE_TYPES "m64n64k16.f32.bf16.bf16 "
#define SCORE_MAJOR ", 0"
#define VALUE_TYPES "m64n128k16.f32.bf16.bf16 "
#else
#define SCORE_TYPES "m64n64k16.f32.f16.f16 "
#define SCORE_MAJOR ", 0"
#define VALUE_TYPES "m64n128k16.f32.f16.f16 "
#endif
#if KIND == 1 && QFP8
#undef SCORE_TYPES
#undef SCORE_MAJOR
#define SCORE_TYPES "m64n64k32.f32.e4m3.e4m3 "
#define SCORE_MAJOR ""
#endif

// S (64 x 64) = or += A B^T, a k-step of 32 bytes; A in registers, B (64 tokens) in shared memory.
__device__ __forceinline__ void wgmma_scores(float (&s)[32], const u32 (&a)[4], u64 b, int add) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned." SCORE_TYPES D32
      ", {%32, %33, %34, %35}, %36, p, 1, 1" SCORE_MAJOR ";\n}"
      : F32(s) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void wgmma_scores(float (&s)[32], u64 a, u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned." SCORE_TYPES D32 ", %32, %33, 1, 1, 1" SCORE_MAJOR SCORE_MAJOR ";"
               : F32(s) : "l"(a), "l"(b));
}

__device__ __forceinline__ void wgmma_scores_bf16(float (&s)[32], u64 a, u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " D32 ", %32, %33, 1, 1, 1, 0, 0;"
      : F32(s) : "l"(a), "l"(b));
}

// O (64 x 128) += P (64 x 16) V (16 tokens x 128 columns), V's columns contiguous.
__device__ __forceinline__ void wgmma_values(float (&o)[64], u64 p, u64 v) {
  asm volatile("wgmma.mma_async.sync.aligned." VALUE_TYPES D64 ", %64, %65, 1, 1, 1, 0, 1;"
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

__device__ __forceinline__ uint4 load_shared_quad(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ float load_shared(u32 address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}

// 16 bytes from global to shared memory on their own; zeros where `from` is null.
__device__ __forceinline__ void copy_quad(u32 to, const u8* from, const void* anywhere) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               ::"r"(to), "l"(from ? from : (const u8*)anywhere), "r"(from ? 16 : 0) : "memory");
}

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Volatile, so that the loads stay in groups that the registers can hold.
__device__ __forceinline__ uint4 load_quad(const u8* from) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}

__device__ __forceinline__ uint2 load_two(const u8* from) {
  uint2 v;
  asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}

__device__ __forceinline__ u32 load_word(const u8* from) {
  u32 v;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}

__device__ __forceinline__ u32 load_half(const u8* from) {
  u16 v;
  asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(from));
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

#if KIND == 0

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

#else

// ---- FP8: one warp loads and plans, three convert ------------------------------------------------

// One slot of a stream: 64 tokens of one group. `turn`: the block of the cluster that loads it.
template <int DEPTH>
__device__ __forceinline__ void load_slot(const Block& b, Ring<DEPTH>& ring, const u64 (&full)[DEPTH],
                                          const u64 (&empty)[DEPTH], int to, int row_bytes,
                                          const TensorMap* map, int group, u32 turn, int boxes,
                                          int token, int block) {
  u32 barrier = b.at(full[ring.slot]);
  barrier_wait(b.at(empty[ring.slot]), ring.phase ^ 1);
  if (b.lane == 0) barrier_expect(barrier, boxes * BOX_TOKENS * row_bytes);
  __syncwarp();
  if (b.lane < boxes && (CLUSTER == 1 || turn == b.rank))
    load_box(b.base + to + (ring.slot * TILE + b.lane * BOX_TOKENS) * row_bytes, map, barrier, token,
             group, block);
  ring.next();
}

__device__ __forceinline__ void load_pieces(const Block& b, const TensorMap* latent, const TensorMap* rope,
                                            const TensorMap* scale) {
  Plan plan(b.p, blockIdx.y);
  Ring<PIECE_DEPTH> pieces;
  Ring<RAW_DEPTH> raws;
  Ring<ROPE_DEPTH> ropes;
  [[maybe_unused]] Ring<2> scales;
  while (true) {
    Piece piece;
    if (!plan.next(piece)) piece.sequence = -1;
    barrier_wait(b.at(b.small.piece_empty[pieces.slot]), pieces.phase ^ 1);
    if (b.lane == 0) b.small.piece[pieces.slot] = piece;
    warp_arrive(b.at(b.small.piece_full[pieces.slot]), b.lane);
    pieces.next();
    if (piece.sequence < 0) return;
    const int* table = b.p.block_table + piece.sequence * b.p.block_table_stride;
#pragma unroll 1
    for (int tile = first_tile(piece); tile < last_tile(piece); ++tile) {
      int boxes = min((piece.end - tile * TILE + BOX_TOKENS - 1) / BOX_TOKENS, BOXES);
      int at = tile * TILE + b.lane * BOX_TOKENS;
      int block = b.lane < boxes ? __ldg(table + at / b.p.block_size) : 0, token = at % b.p.block_size;
#if KIND == 2
      load_slot<2>(b, scales, b.small.scale_full, b.small.scale_empty, SCALE_AT, 16, scale, 0, tile & 1,
                   boxes, token, block);
#endif
#pragma unroll 1
      for (int u = 0; u < 4; ++u)
        load_slot<RAW_DEPTH>(b, raws, b.small.raw_full, b.small.raw_empty, RAW_AT, 128, latent, u, u & 1,
                             boxes, token, block);
#if KIND == 1 && !QFP8
      load_slot<1>(b, ropes, b.small.raw_rope_full, b.small.raw_rope_empty, RAW_ROPE_AT, 64, rope, 0,
                   tile & 1, boxes, token, block);
#else
      load_slot<ROPE_DEPTH>(b, ropes, b.small.rope_full, b.small.rope_empty, ROPE_AT, ROPE_BYTES / 64,
                            rope, 0, tile & 1, boxes, token, block);
#endif
    }
  }
}

// Two f16 times a scale given as two f16, the second what the first lost: one rounding.
__device__ __forceinline__ u32 scale_f16(u32 x, u32 high, u32 low) {
  u32 y;
  asm("{\n.reg .b32 t;\nmul.rn.f16x2 t, %1, %3;\nfma.rn.f16x2 %0, %1, %2, t;\n}"
      : "=r"(y) : "r"(x), "r"(high), "r"(low));
  return y;
}

__device__ __forceinline__ void split_scale(float scale, u32& high, u32& low) {
  float kept;
  high = pack_f16(scale, scale);
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %1;\ncvt.f32.f16 %0, l;\n}" : "=f"(kept) : "r"(high));
  low = pack_f16(scale - kept, scale - kept);
}

// Sixteen e4m3 bytes as sixteen f16 (scaled, for KIND 2), in two 16-byte parts of a swizzled row of
// 128 bytes. Threads of the second 64 columns store the odd part first: eight neighbours then fill
// eight different 16-byte banks.
__device__ __forceinline__ void convert_unit(uint4 raw, u32 to, int row, int part, bool odd_first,
                                             u32 high, u32 low) {
  u32 h[8];
  e4m3x4_to_f16x4(raw.x, h[0], h[1]);
  e4m3x4_to_f16x4(raw.y, h[2], h[3]);
  e4m3x4_to_f16x4(raw.z, h[4], h[5]);
  e4m3x4_to_f16x4(raw.w, h[6], h[7]);
  if constexpr (KIND == 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) h[i] = scale_f16(h[i], high, low);
  }
  uint4 even = make_uint4(h[0], h[1], h[2], h[3]), odd = make_uint4(h[4], h[5], h[6], h[7]);
  u32 first = to + (((2 * part + odd_first) ^ (row & 7)) << 4);
  store_quad(first, odd_first ? odd : even);
  store_quad(first ^ 16, odd_first ? even : odd);
}

// A chunk of 64 tokens x 128 columns becomes two of 64 x 64. A warp has every third group of four
// rows: the converters stay together, so each of them sees every phase of every barrier.
__device__ __forceinline__ void convert_chunk(const Block& b, int warp, u32 from, u32 to, u32 scales) {
  int part = b.lane & 7;
#pragma unroll 1
  for (int i = warp; i < 16; i += 3 * CONVERTERS) {
    uint4 raw[3];
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      int row = min(i + j * CONVERTERS, 15) * 4 + b.lane / 8;
      raw[j] = load_shared_quad(from + row * 128 + ((part ^ (row & 7)) << 4));
    }
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      int row = (i + j * CONVERTERS) * 4 + b.lane / 8;
      if (row >= TILE) break;
      u32 high = 0, low = 0;
      if constexpr (KIND == 2) split_scale(load_shared(scales + row * 16), high, low);
      convert_unit(raw[j], to + part / 4 * CHUNK + row * 128, row, part % 4, part / 4, high, low);
    }
  }
}

// The rope part of KIND 1: rows of 64 bytes (64-byte swizzle) to rows of 128.
__device__ __forceinline__ void convert_rope(const Block& b, int warp, u32 from, u32 to) {
  int part = b.lane & 3;
#pragma unroll 1
  for (int i = warp; i < 8; i += CONVERTERS) {
    int row = i * 8 + b.lane / 4;
    uint4 raw = load_shared_quad(from + row * 64 + ((part ^ (row >> 1 & 3)) << 4));
    convert_unit(raw, to + row * 128, row, part, row & 1, 0, 0);
  }
}

__device__ __forceinline__ void convert_pieces(const Block& b, int warp) {
  Ring<PIECE_DEPTH> pieces;
  Ring<RAW_DEPTH> raws;
  Ring<LEFT_DEPTH> left;
  Ring<RIGHT_DEPTH> right;
  Ring<1> rope;
  [[maybe_unused]] Ring<2> scales;
  while (true) {
    barrier_wait(b.at(b.small.piece_full[pieces.slot]), pieces.phase);
    const Piece& piece = b.small.piece[pieces.slot];
    int sequence = piece.sequence, tiles = last_tile(piece) - first_tile(piece);
    warp_arrive(b.at(b.small.piece_empty[pieces.slot]), b.lane);
    pieces.next();
    if (sequence < 0) return;
#pragma unroll 1
    for (; tiles > 0; --tiles) {
      if (KIND == 2) barrier_wait(b.at(b.small.scale_full[scales.slot]), scales.phase);
#pragma unroll 1
      for (int u = 0; u < 4; ++u) {
        bool second = u >= 2;
        u32 slot = second ? right.slot : left.slot, phase = second ? right.phase : left.phase;
        u32 full = b.at(second ? b.small.right_full[slot] : b.small.left_full[slot]);
        u32 empty = b.at(second ? b.small.right_empty[slot] : b.small.left_empty[slot]);
        u32 half = b.base + (second ? RIGHT_AT : LEFT_AT) + slot * HALF;
        barrier_wait(b.at(b.small.raw_full[raws.slot]), raws.phase);
        if (u % 2 == 0) barrier_wait(empty, phase ^ 1);
        convert_chunk(b, warp, b.base + RAW_AT + raws.slot * CHUNK, half + (u & 1) * 2 * CHUNK,
                      b.base + SCALE_AT + scales.slot * 64 * 16 + u * 4);
        fence_async_proxy();
        warp_arrive(full, b.lane);
        release_slot(b.at(b.small.raw_empty[raws.slot]), b.lane);
        raws.next();
      }
      if (KIND == 2) release_slot(b.at(b.small.scale_empty[scales.slot]), b.lane);
      if (ROPE_CONVERTED) {
        barrier_wait(b.at(b.small.raw_rope_full[0]), rope.phase);
        barrier_wait(b.at(b.small.rope_empty[0]), rope.phase ^ 1);
        convert_rope(b, warp, b.base + RAW_ROPE_AT, b.base + ROPE_AT);
        fence_async_proxy();
        warp_arrive(b.at(b.small.rope_full[0]), b.lane);
        release_slot(b.at(b.small.raw_rope_empty[0]), b.lane);
        rope.next();
      }
      left.next(), right.next(), scales.next();
    }
  }
}

#endif

// ---- The scores --------------------------------------------------------------------------------

// Where the query of a row starts; null for padding.
__device__ __forceinline__ const u8* query_row(const Block& b, const void* queries,
                                               const i64 (&stride)[3], int sequence, int row) {
  int at = b.row_block * ROWS + row, token = at / b.p.heads;
  if (token >= b.p.query_tokens) return nullptr;
  return (const u8*)queries + QUERY_BYTES * (sequence * stride[0] + token * stride[1] +
                                             (at - token * b.p.heads) * stride[2]);
}

__device__ __forceinline__ const u8* latent_row(const Block& b, int sequence, int row) {
  return query_row(b, b.p.q_latent, b.p.q_latent_stride, sequence, row);
}

__device__ __forceinline__ const u8* rope_row(const Block& b, int sequence, int row) {
  return query_row(b, b.p.q_rope, b.p.q_rope_stride, sequence, row);
}

#if KIND == 0 || QFP8 && KIND == 1
// Latent columns 256 to 511 and the rope part into shared memory, swizzled; asked for, not awaited.
__device__ __forceinline__ void share_queries(const Block& b, int sequence, int thread) {
  int part = thread % 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int row = thread / 8 + 16 * i;
    const u8* latent = latent_row(b, sequence, row);
    u32 to = b.base + QUERY_AT + row * 128 + ((part ^ (row & 7)) << 4);
#pragma unroll
    for (int c = 0; c < (NATIVE ? 2 : 4); ++c)
      copy_quad(to + c * CHUNK, latent ? latent + 256 * QUERY_BYTES + c * 128 + part * 16 : nullptr,
                b.p.q_latent);
  }
  constexpr int PARTS = 4 * QUERY_BYTES;  // of the rope part: 64 elements
#pragma unroll
  for (int i = 0; i < PARTS / 2; ++i) {
    int row = thread / PARTS + 128 / PARTS * i, at = thread % PARTS;
    const u8* rope = rope_row(b, sequence, row);
    copy_quad(b.base + QUERY_ROPE_AT + row * PARTS * 16 + ((at ^ (NATIVE ? row >> 1 & 3 : row & 7)) << 4),
              rope ? rope + at * 16 : nullptr, b.p.q_latent);
  }
}

// Latent columns 0 to 255 into registers, as wgmma's A: step k holds bytes 32 k + 4 t to + 3 of rows
// g and g + 8 (two bf16 or four e4m3), then the same at + 16.
__device__ __forceinline__ void keep_queries(const Block& b, int sequence, int thread,
                                             u32 (&q)[KEPT_STEPS][4]) {
  int g = thread / 32 * 16 + (thread & 31) / 4, t = thread & 3;
  const u8 *upper = latent_row(b, sequence, g), *lower = latent_row(b, sequence, g + 8);
#pragma unroll
  for (int k = 0; k < KEPT_STEPS; ++k) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      q[k][2 * j] = upper ? load_word(upper + 32 * k + 16 * j + 4 * t) : 0;
      q[k][2 * j + 1] = lower ? load_word(lower + 32 * k + 16 * j + 4 * t) : 0;
    }
  }
}
#else
// bf16 queries become f16: each row times the power of two that takes its largest value to 2^14, so
// that nothing overflows and what underflows lies 2^-38 below the largest. Finds those powers.
__device__ __forceinline__ void find_powers(const Block& b, int sequence, int thread) {
#pragma unroll 4
  for (int i = 0; i < 16; ++i) {
    int row = thread / 32 * 16 + i;
    const u8 *latent = latent_row(b, sequence, row), *rope = rope_row(b, sequence, row);
    u32 high = 0;
    if (latent && !QFP8) {
      uint4 v[3] = {load_quad(latent + b.lane * 16), load_quad(latent + 512 + b.lane * 16),
                    load_quad(rope + (b.lane & 7) * 16)};
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        u32 words[4] = {v[j].x, v[j].y, v[j].z, v[j].w};
#pragma unroll
        for (int w = 0; w < 4; ++w)
          high = max(high, max(words[w] & 0x7fff, words[w] >> 16 & 0x7fff));
      }
    }
    u32 exponent = min(max(__reduce_max_sync(FULL_WARP, high) >> 7, 15u), 254u);
    // 2^(14 - (exponent - 127)); 1 for e4m3, which f16 holds as it is.
    if (b.lane == 0) b.small.up[row] = QFP8 ? 1.f : __uint_as_float((268 - exponent) << 23);
  }
}

__device__ __forceinline__ u32 to_f16(u32 bf16, float up) {
  return pack_f16(__uint_as_float(bf16 << 16) * up, __uint_as_float(bf16 & 0xffff0000) * up);
}

__device__ __forceinline__ u32 scale_bf16(u32 bf16, float up) {  // exact
  return pack_bf16(__uint_as_float(bf16 << 16) * up, __uint_as_float(bf16 & 0xffff0000) * up);
}

__device__ __forceinline__ u32 f16_to_bf16(u32 f16) {  // exact for what was e4m3
  float low, high;
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}"
      : "=f"(low), "=f"(high) : "r"(f16));
  return pack_bf16(low, high);
}

// Eight query elements as the operand they become: f16, or bf16 where the cache's rope part is that.
__device__ __forceinline__ uint4 load_eight(const u8* from, float up, bool rope) {
  if (QFP8) {
    uint2 raw = load_two(from);
    uint4 v;
    e4m3x4_to_f16x4(raw.x, v.x, v.y);
    e4m3x4_to_f16x4(raw.y, v.z, v.w);
    if (KIND == 2 && rope)
      v = make_uint4(f16_to_bf16(v.x), f16_to_bf16(v.y), f16_to_bf16(v.z), f16_to_bf16(v.w));
    return v;
  }
  uint4 v = load_quad(from);
  if (KIND == 2 && rope)
    return make_uint4(scale_bf16(v.x, up), scale_bf16(v.y, up), scale_bf16(v.z, up), scale_bf16(v.w, up));
  return make_uint4(to_f16(v.x, up), to_f16(v.y, up), to_f16(v.z, up), to_f16(v.w, up));
}

__device__ __forceinline__ u32 load_pair(const u8* from, float up) {
  if (!QFP8) return to_f16(load_word(from), up);
  u32 low, high;
  e4m3x4_to_f16x4(load_half(from), low, high);
  return low;
}

// Latent columns 256 to 511 and the rope part into shared memory, swizzled.
__device__ __forceinline__ void share_queries(const Block& b, int sequence, int thread) {
  find_powers(b, sequence, thread);
  named_barrier(BARRIER_SCORES, 128);
  int row = thread / 8, part = thread % 8;
#pragma unroll 2
  for (int i = 0; i < 4; ++i) {
    const u8 *latent = latent_row(b, sequence, row + 16 * i), *rope = rope_row(b, sequence, row + 16 * i);
    float up = b.small.up[row + 16 * i];
    u32 to = b.base + QUERY_AT + (row + 16 * i) * 128 + ((part ^ (row & 7)) << 4);
    uint4 value[5];
#pragma unroll
    for (int c = 0; c < 5; ++c)
      value[c] = latent ? load_eight((c < 4 ? latent + (256 + c * 64) * QUERY_BYTES : rope) +
                                         part * 8 * QUERY_BYTES, up, c == 4)
                        : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int c = 0; c < 5; ++c) store_quad(to + c * CHUNK, value[c]);
  }
}

// As wgmma's A: step k holds columns 16 k + 2 t, + 1 of rows g and g + 8, then those at columns + 8.
__device__ __forceinline__ void keep_queries(const Block& b, int sequence, int thread,
                                             u32 (&q)[KEPT_STEPS][4]) {
  int g = thread / 32 * 16 + (thread & 31) / 4, t = thread & 3;
  const u8 *upper = latent_row(b, sequence, g), *lower = latent_row(b, sequence, g + 8);
  float up = b.small.up[g], down = b.small.up[g + 8];
#pragma unroll
  for (int k = 0; k < KEPT_STEPS; ++k) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int at = (16 * k + 8 * j + 2 * t) * QUERY_BYTES;
      q[k][2 * j] = upper ? load_pair(upper + at, up) : 0;
      q[k][2 * j + 1] = lower ? load_pair(lower + at, down) : 0;
    }
  }
}
#endif

__device__ __forceinline__ void left_scores(float (&s)[32], const u32 (&q)[KEPT_STEPS][4], u32 keys) {
  u64 key = descriptor(keys, 16);
  wgmma_begin();
#pragma unroll
  for (int k = 0; k < KEPT_STEPS; ++k)
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

__device__ __forceinline__ void rope_scores(float (&s)[32], u32 queries, u32 keys) {
  u64 query = NATIVE ? narrow_descriptor(queries) : descriptor(queries, 16);
  u64 key = NATIVE ? narrow_descriptor(keys) : descriptor(keys, 16);
  wgmma_begin();
#pragma unroll
  for (int k = 0; k < (NATIVE ? 2 : 4); ++k) {
    if constexpr (KIND == 2) wgmma_scores_bf16(s, query + (k * 32 >> 4), key + (k * 32 >> 4));
    else wgmma_scores(s, query + (k * 32 >> 4), key + (k * 32 >> 4));
  }
  wgmma_commit();
}

// The softmax state of a thread's two rows, g and g + 8 of its warp's sixteen.
struct Rows {
  float reference[2], sum[2];
  float factor[2];  // from products to exponents of two; in the bf16 kernel all rows share one
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

// P as bf16 or f16, 64 tokens (128 bytes) a row, swizzled as wgmma's A wants it.
__device__ __forceinline__ u32 pack(float low, float high) {
  return FP8 ? pack_f16(low, high) : pack_bf16(low, high);
}

__device__ __forceinline__ void store_probabilities(const float (&t)[32], u32 to, int warp, int lane) {
  int row = warp * 16 + (lane & 15);
  u32 first = to + row * 128 + (((lane >> 4) ^ (lane & 7)) << 4);
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    store_matrices(first ^ (n << 4), pack(t[4 * n], t[4 * n + 1]), pack(t[4 * n + 2], t[4 * n + 3]),
                   pack(t[4 * n + 4], t[4 * n + 5]), pack(t[4 * n + 6], t[4 * n + 7]));
  }
}

// The rings as the scores see them: the n-th tile's place in each. Registers are dear here, so all
// but the left ring's (three slots in the bf16 kernel) are read off the count.
struct ScoreRings {
  Ring<LEFT_DEPTH> left;
  u32 n = 0;
  __device__ __forceinline__ u32 slot() const { return n & 1; }        // of rings two deep
  __device__ __forceinline__ u32 phase() const { return n >> 1 & 1; }
  __device__ __forceinline__ u32 rope_slot() const { return ROPE_DEPTH == 2 ? n & 1 : 0; }
  __device__ __forceinline__ u32 rope_phase() const { return ROPE_DEPTH == 2 ? n >> 1 & 1 : n & 1; }
};
static_assert(NATIVE ? RAW_DEPTH == 8 : RIGHT_DEPTH == 2, "ScoreRings counts on it");
static_assert(PROB_DEPTH == 2 && ROPE_DEPTH <= 2, "ScoreRings counts on it");

// The left half of the next tile's scores. (NATIVE: tile n's four raw chunks start at slot 4 (n & 1).)
__device__ __forceinline__ void begin_scores(const Block& b, ScoreRings& rings, float (&s)[32],
                                             const u32 (&q)[KEPT_STEPS][4]) {
#if KIND == 1 && QFP8
  u32 slot = 4 * (rings.left.slot & 1);
  barrier_wait(b.at(b.small.raw_full[slot]), rings.left.phase);
  barrier_wait(b.at(b.small.raw_full[slot + 1]), rings.left.phase);
  left_scores(s, q, b.base + RAW_AT + slot * CHUNK);
#else
  barrier_wait(b.at(b.small.left_full[rings.left.slot]), rings.left.phase);
  left_scores(s, q, b.base + LEFT_AT + rings.left.slot * HALF);
#endif
  rings.left.next();
}

__device__ __forceinline__ void end_scores(const Block& b, const ScoreRings& rings, float (&s)[32]) {
#if KIND == 1 && QFP8
  u32 slot = 4 * rings.slot() + 2;
  barrier_wait(b.at(b.small.raw_full[slot]), rings.phase());
  barrier_wait(b.at(b.small.raw_full[slot + 1]), rings.phase());
  more_scores<2>(s, b.base + QUERY_AT, b.base + RAW_AT + slot * CHUNK);
#else
  barrier_wait(b.at(b.small.right_full[rings.slot()]), rings.phase());
  more_scores<4>(s, b.base + QUERY_AT, b.base + RIGHT_AT + rings.slot() * HALF);
#endif
  barrier_wait(b.at(b.small.rope_full[rings.rope_slot()]), rings.rope_phase());
  rope_scores(s, b.base + QUERY_ROPE_AT, b.base + ROPE_AT + rings.rope_slot() * ROPE_BYTES);
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
__device__ __forceinline__ void take_scores(const Block& b, const ScoreRings& rings, float (&s)[32],
                                            float (&t)[32], const Rows& rows) {
  wgmma_wait();
  pin(s);
#if KIND == 1 && QFP8
#pragma unroll
  for (int u = 0; u < 4; ++u) release_slot(b.at(b.small.raw_empty[4 * rings.slot() + u]), b.lane);
#endif
  u32 rope = b.at(b.small.rope_empty[rings.rope_slot()]);
  if (ROPE_CONVERTED) warp_arrive(rope, b.lane);
  else release_slot(rope, b.lane);
#pragma unroll
  for (int i = 0; i < 32; ++i) t[i] = s[i] * (FP8 ? rows.factor[i / 2 & 1] : b.p.scale_log2);
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
  float scale = KIND == 1 && b.p.cache_scale ? __ldg(b.p.cache_scale) : 1.f;  // of the values
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    float sum = rows.sum[j];
    sum += __shfl_xor_sync(FULL_WARP, sum, 1);
    sum += __shfl_xor_sync(FULL_WARP, sum, 2);
    if ((b.lane & 3) == 0) {
      int row = warp * 16 + b.lane / 4 + 8 * j;
      b.small.inverse[slot][row] = sum == 0.f ? 0.f : scale / sum;
      b.small.lse[slot][row] = sum == 0.f ? NEG_INF : rows.reference[j] + log2_fast(sum);
    }
  }
  warp_arrive(b.at(b.small.stats_full[slot]), b.lane);
}

#if KIND != 0
// After `share_queries`: what turns a row's products into exponents of two.
__device__ __forceinline__ void find_factors(const Block& b, Rows& rows, int warp) {
  float scale = b.p.scale_log2;
  if (QFP8 && b.p.query_scale) scale *= __ldg(b.p.query_scale);
  if (KIND == 1 && b.p.cache_scale) scale *= __ldg(b.p.cache_scale);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    float up = NATIVE ? 1.f : b.small.up[warp * 16 + b.lane / 4 + 8 * j];
    rows.factor[j] = scale / up;
  }
}
#endif

// Ask for a piece's queries; no warp's products may read the old ones any more.
__device__ __forceinline__ void ask_for_queries(const Block& b, const Piece& piece, int thread,
                                                u32 (&q)[KEPT_STEPS][4]) {
  named_barrier(BARRIER_SCORES, 128);
  share_queries(b, piece.sequence, thread);
  keep_queries(b, piece.sequence, thread, q);
}

// Whether any row may not see all of the tile. Cuts fall on tiles unless UNIT is smaller.
__device__ __forceinline__ bool is_masked(const Piece& piece, int tile, int first_masked) {
  return tile >= first_masked || (UNIT % TILE != 0 && tile * TILE < piece.begin);
}

__device__ __forceinline__ void score_pieces(const Block& b) {
  int thread = threadIdx.x & 127, warp = thread / 32;
  float s[32], t[32];
  u32 q[KEPT_STEPS][4];
  ScoreRings rings;
  Ring<PIECE_DEPTH> pieces;
  bool asked = false;  // for the queries of the piece to come
  while (true) {
    u32 slot = pieces.slot;
    barrier_wait(b.at(b.small.piece_full[slot]), pieces.phase);
    pieces.next();
    const Piece& piece = b.small.piece[slot];
    if (piece.sequence < 0) return;
    Rows rows{{NEG_INF, NEG_INF}, {0.f, 0.f}, {0.f, 0.f}};
    int tile = first_tile(piece), last = last_tile(piece);
    int masked = max(min(piece.end, piece.length - (b.p.query_tokens - 1)), 0) / TILE;
    if (tile < last) {
      if (!asked) ask_for_queries(b, piece, thread, q);
      wait_for_copies();
      fence_async_proxy();
      named_barrier(BARRIER_SCORES, 128);
#if KIND != 0
      find_factors(b, rows, warp);
#endif
      begin_scores(b, rings, s, q);
      end_scores(b, rings, s);
#pragma unroll 1
      for (; tile + 1 < last; ++tile) {
        take_scores(b, rings, s, t, rows);
        if (is_masked(piece, tile, masked)) mask_scores(b, t, piece, tile, warp);
        begin_scores(b, rings, s, q);
        pin(t);  // the softmax comes after these products are on their way, not before
        finish_tile(b, rings, t, rows, warp);
        ++rings.n;
        end_scores(b, rings, s);
      }
      take_scores(b, rings, s, t, rows);
      if (is_masked(piece, tile, masked)) mask_scores(b, t, piece, tile, warp);
      asked = false;
      if (!CONVERTS_QUERIES) {  // the next piece's queries come during the last softmax
        barrier_wait(b.at(b.small.piece_full[pieces.slot]), pieces.phase);
        const Piece& following = b.small.piece[pieces.slot];
        asked = following.sequence >= 0 && first_tile(following) < last_tile(following);
        if (asked) ask_for_queries(b, following, thread, q);
      }
      finish_tile(b, rings, t, rows, warp);
      ++rings.n;
    }
    write_stats(b, rows, slot, warp);
    warp_arrive(b.at(b.small.piece_empty[slot]), b.lane);
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

// Hand a slot back to whoever fills it: the loaders of the cluster, or this block's converters.
__device__ __forceinline__ void release_half(const Block& b, u32 empty) {
  if (FP8) warp_arrive(empty, b.lane);
  else release_slot(empty, b.lane);
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
      i64 to = (i64)(first_slot(b.p, b.row_block) + piece.slot) * ROWS + row;
      u16* out = b.p.partial_out + to * LATENT + SIDE * 256;
      store_bf16(out, o.left, j, inverse, t);
      store_bf16(out + 128, o.right, j, inverse, t);
      if (SIDE == 0 && t == 0)
        b.p.partial_lse[(i64)(first_slot(b.p, b.row_block) + piece.slot) * SUMS_STRIDE + row] = lse;
    }
  }
}

// Partial results lie row by row.
struct RowMajor {
  static __device__ __forceinline__ int row(int group) { return group / (LATENT / 8); }
  static __device__ __forceinline__ bool first_of_row(int group) { return group % (LATENT / 8) == 0; }
  static __device__ __forceinline__ void write(int group, u16* out, uint4 v) {
    *(uint4*)(out + group % (LATENT / 8) * 8) = v;
  }
};

// A merge needs room for the sums of all splits, which the rings leave nowhere. At the end the left
// ring is idle. A merge in between (invariant mode, a sequence all of whose pieces are this block's)
// takes the left slot of the last tile, which is handed back only afterwards.
template <int SIDE, int DEPTH>
__device__ __forceinline__ void value_pieces(const Block& b, u8* shared, const u64* full, const u64* empty) {
  constexpr int HALVES = SIDE == 0 ? LEFT_AT : RIGHT_AT;
  int thread = threadIdx.x & 127, warp = thread / 32;
  Output o;
  Ring<DEPTH> ring;
  Ring<PROB_DEPTH> prob;
  Ring<PIECE_DEPTH> pieces;
  u32 left = 0;  // the left slot last used
  Merger<RowMajor, ROWS, 256> merger(b.p, b.row_block, (int)threadIdx.x - 256, BARRIER_MERGE,
                                     b.small.waiting, (float*)(shared + LEFT_AT));
  while (true) {
    u32 slot = pieces.slot;
    barrier_wait(b.at(b.small.piece_full[slot]), pieces.phase);
    const Piece& piece = b.small.piece[slot];
    bool more = piece.sequence >= 0;
    bool held = more && piece.splits > 1 && piece.closes && piece.sharers == 1;
    if (more) {
#pragma unroll
      for (int i = 0; i < 64; ++i) o.left[i] = 0.f, o.right[i] = 0.f;
      int end = piece.end, tile = first_tile(piece), last = last_tile(piece);
#pragma unroll 1
      for (; tile < last; ++tile) {
        u32 half = b.base + HALVES + ring.slot * HALF;
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
        if (SIDE == 1 || !held || tile + 1 < last) release_half(b, b.at(empty[ring.slot]));
        warp_arrive(b.at(b.small.prob_empty[prob.slot]), b.lane);
        left = left + 1 == LEFT_DEPTH ? 0 : left + 1;
        ring.next();
        prob.next();
      }
      barrier_wait(b.at(b.small.stats_full[slot]), pieces.phase);
      store_piece<SIDE>(b, o, slot, warp);
    }
    u32 last_left = (left == 0 ? LEFT_DEPTH : left) - 1;
    merger.sums = (float*)(shared + LEFT_AT + (held ? last_left * HALF : 0));
    merger.settle(more ? &piece : nullptr);
    if (!more) return;
    if (held) {
      fence_async_proxy();
      named_barrier(BARRIER_MERGE, 256);
      if (SIDE == 0) release_half(b, b.at(b.small.left_empty[last_left]));
    }
    warp_arrive(b.at(b.small.piece_empty[slot]), b.lane);
    pieces.next();
  }
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
#if KIND == 0
  init_ring(small.left_full, small.left_empty, 1, GROUP_WARPS * CLUSTER);
  init_ring(small.right_full, small.right_empty, 1, GROUP_WARPS * CLUSTER);
#else
  init_ring(small.left_full, small.left_empty, 2 * CONVERTERS, GROUP_WARPS);  // two chunks
  init_ring(small.right_full, small.right_empty, 2 * CONVERTERS, GROUP_WARPS);
  init_ring(small.raw_full, small.raw_empty, 1, (CONVERTERS + (NATIVE ? GROUP_WARPS : 0)) * CLUSTER);
  init_ring(small.raw_rope_full, small.raw_rope_empty, 1, CONVERTERS * CLUSTER);
  init_ring(small.scale_full, small.scale_empty, 1, CONVERTERS * CLUSTER);
#endif
  init_ring(small.rope_full, small.rope_empty, ROPE_CONVERTED ? CONVERTERS : 1,
            GROUP_WARPS * (ROPE_CONVERTED ? 1 : CLUSTER));
  init_ring(small.prob_full, small.prob_empty, GROUP_WARPS, 2 * GROUP_WARPS);
  init_ring(small.piece_full, small.piece_empty, 1, CONVERTERS + 3 * GROUP_WARPS);  // or as many loaders
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
    fewer_registers<LOAD_REGISTERS>();
#if KIND == 0
    if (warp == 0)
      load_tiles<LEFT_DEPTH, 0, 4>(b, &latent_map, LEFT_AT, small.left_full, small.left_empty);
    else if (warp == 1)
      load_tiles<RIGHT_DEPTH, 4, 4>(b, &latent_map, RIGHT_AT, small.right_full, small.right_empty);
    else if (warp == 2)
      load_tiles<ROPE_DEPTH, 8, 1>(b, &latent_map, ROPE_AT, small.rope_full, small.rope_empty);
    else
      hand_out_pieces(b);
#else
    if (warp < CONVERTERS) convert_pieces(b, warp);
    else load_pieces(b, &latent_map, &rope_map, &scale_map);
#endif
    everybody();
  } else if (role == 1) {
    more_registers<SCORE_REGISTERS>();
    score_pieces(b);
    everybody();
  } else if (role == 2) {
    more_registers<VALUE_REGISTERS>();
    value_pieces<0, LEFT_DEPTH>(b, shared, small.left_full, small.left_empty);
    everybody();
  } else {
    more_registers<VALUE_REGISTERS>();
    value_pieces<1, RIGHT_DEPTH>(b, shared, small.right_full, small.right_empty);
    everybody();
  }
}
