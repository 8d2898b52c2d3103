// What both MLA decode kernels share: parameters, PTX in words, the plan of work, the merge.
//
// No header is included: the source is whole, so NVRTC compiles it with nothing beside it.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;

struct alignas(64) TensorMap {
  u64 opaque[16];
};

// Mirrored field by field by `Params` in mla_hopper.py.
struct Params {
  const void* q_latent;
  const void* q_rope;
  i64 q_latent_stride[3];  // batch, query token, head; in elements
  i64 q_rope_stride[3];
  const int* block_table;
  i64 block_table_stride;
  const int* lengths;
  const float* query_scale;  // null: 1
  const float* cache_scale;  // null: 1
  u16* out;                  // (B, Q, H, 512) bfloat16
  float* lse;                // (B, Q, H), natural logarithm
  u16* partial_out;          // (slots, ROWS, 512) bfloat16, each row already divided by its sum
  float* partial_lse;        // (slots, SUMS_STRIDE), of which ROWS, base 2
  u32* counters;             // (row blocks, B, 2): arrivals and departures, zero between launches
  float scale_log2;          // softmax scale times log2(e)
  int batch;
  int query_tokens;
  int heads;
  int block_size;
  int parts;      // contiguous shares that the work is cut into, one for each block of a row block
  int min_units;  // the smallest share worth a block
  int invariant;  // cut by each sequence's own length alone
};

constexpr int LATENT = 512;
#ifndef UNIT_TOKENS
#define UNIT_TOKENS 32
#endif
constexpr int UNIT = UNIT_TOKENS;  // cuts fall on multiples of it
constexpr int SEQUENCE_COST = 1;   // units that the start and end of a sequence are worth
constexpr int CUT_COST = 6;        // units that a second piece and its merge cost a block
// Floats from one slot's sums to the next: 4 KB. A guess that reading them queues at one slice of the
// L2; measured, it made no difference to the time of a merge.
constexpr int SUMS_STRIDE = 1024;
constexpr int MAX_CHUNKS = 32;     // invariant mode: pieces of one sequence at most
constexpr int MIN_CHUNK_UNITS = 16;
#define NEG_INF __int_as_float(0xff800000)
#define FULL_WARP 0xffffffffu

// ---- PTX in words ------------------------------------------------------------------------------

__device__ __forceinline__ u32 smem_address(const void* pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// The same value, of which the compiler no longer knows where it comes from: it can neither work it out
// again in a loop, nor work out before a loop, and spill, what follows from it.
__device__ __forceinline__ u32 opaque(u32 x) {
  asm volatile("mov.u32 %0, %0;" : "+r"(x));
  return x;
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

__device__ __forceinline__ u32 pack_f16(float low, float high) {
  u32 out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

// Two e4m3 bytes, exactly, as two f16; NaN stays NaN.
__device__ __forceinline__ void e4m3x4_to_f16x4(u32 bytes, u32& low, u32& high) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e4m3x2 %0, l;\n"
      "cvt.rn.f16x2.e4m3x2 %1, h;\n}" : "=r"(low), "=r"(high) : "r"(bytes));
}

__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n}" ::"r"(barrier), "r"(parity) : "memory");
}

// A box of a paged cache: (inner, token in its block, 64- or 128-byte group, block).
__device__ __forceinline__ void tma_load(u32 to, const TensorMap* map, u32 barrier, int token,
                                         int group, int block) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6];"
      ::"r"(to), "l"(map), "r"(0), "r"(token), "r"(group), "r"(block), "r"(barrier) : "memory");
}

// `bytes` contiguous bytes, a multiple of 16 at addresses that are.
__device__ __forceinline__ void bulk_load(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
      ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

__device__ __forceinline__ void tma_prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint4 load_l2(const uint4* pointer) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(pointer));
  return v;
}

// Not to be put off until it is used.
__device__ __forceinline__ uint4 load_early(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(pointer));
  return v;
}

__device__ __forceinline__ float load_l2(const float* pointer) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(pointer));
  return v;
}

// ---- The plan ----------------------------------------------------------------------------------
//
// The tokens of all sequences, counted in units of 32, are cut into pieces. A warp of each block works
// its own pieces out from the lengths, so one captured graph serves every length. There are three ways
// to cut, and the cheapest for the lengths at hand is taken:
//   chunks   every sequence into equal pieces of at most `chunk` units, as many as there are blocks, so
//            that each block has one piece; or, where there are more sequences than blocks, not at all;
//   shares   all units, end to end, into equal shares, wherever the cuts fall: even, but a block has
//            several pieces and two merges;
//   own      (invariant mode) each sequence by its own length alone; the pieces are dealt out.
// The pieces of a sequence meet in the merge.

struct Piece {
  int sequence;
  int length;        // of the whole sequence, in tokens
  int begin, end;    // tokens of this piece
  int slot;          // where its partial result goes
  int splits;        // pieces of the sequence; 1: nothing to merge
  int slot_first;    // slot of split 0
  int slot_second;   // slot of split 1; split j > 0 stands at slot_second + (j - 1) * slot_step
  int slot_step;
  int sharers;       // blocks that merge the sequence
  int rank;          // this block among them
  bool closes;       // this block's last piece of the sequence

  __device__ __forceinline__ int slot_of(int split) const {
    return split == 0 ? slot_first : slot_second + (split - 1) * slot_step;
  }
};

// a / b for 0 <= a < 2^23 and b > 0, without the long way round.
__device__ __forceinline__ int divide(int a, int b) {
  int q = (int)((float)a * reciprocal((float)b));
  const int rest = a - q * b;
  return rest < 0 ? q - 1 : rest >= b ? q + 1 : q;
}

__device__ __forceinline__ int divide_up(int a, int b) { return divide(a + b - 1, b); }

struct Plan {
  const int* lengths;
  int batch, part, lane;
  int chunk;  // units of a piece at most; 0: shares; OWN: by each sequence's length
  int share, position, end;
  // The 32 sequences at hand: each lane holds one.
  int base, length, units, weight, start;

  int first_length;  // the first 32 are asked for once

  static constexpr int OWN = -1;

  __device__ __forceinline__ int load_length(int at) const {
    return at < 32 ? first_length : at < batch ? max(__ldg(lengths + at), 0) : 0;
  }

  // Pieces of a sequence that is cut into chunks.
  __device__ __forceinline__ int pieces(int units) const {
    int most = chunk;
    if (chunk == OWN) most = max((units + MAX_CHUNKS - 1) / MAX_CHUNKS, MIN_CHUNK_UNITS);
    return max(divide_up(units, most), 1);
  }

  __device__ __forceinline__ void weigh(int first, int start_of_first) {
    base = first;
    const int at = first + lane;
    length = load_length(at);
    units = (length + UNIT - 1) / UNIT;
    weight = at >= batch ? 0 : chunk == 0 ? units + SEQUENCE_COST : pieces(units);
    int sum = weight;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(FULL_WARP, sum, step);
      if (lane >= step) sum += other;
    }
    start = start_of_first + sum - weight;
  }

  __device__ __forceinline__ int count_pieces() const {
    int count = 0;
    for (int first = 0; first < batch; first += 32) {
      const int at = first + lane, cut = pieces((load_length(at) + UNIT - 1) / UNIT);
      count += __reduce_add_sync(FULL_WARP, at < batch ? cut : 0);
    }
    return count;
  }

  __device__ __forceinline__ void choose(const Params& p) {
    int total = 0, longest = 0;
    for (int first = 0; first < batch; first += 32) {
      const int here = (load_length(first + lane) + UNIT - 1) / UNIT;
      total += __reduce_add_sync(FULL_WARP, here);
      longest = max(longest, __reduce_max_sync(FULL_WARP, here));
    }
    const int all = total + batch * SEQUENCE_COST;
    share = max(divide_up(all, p.parts), p.min_units);
    const int rounds = divide_up(batch, p.parts);
    int count = batch, cost = rounds * (longest + SEQUENCE_COST);  // uncut
    chunk = max(longest, 1);
    if (rounds == 1 && longest > share) {
      // The longest in equal pieces not shorter than a share; longer ones while there are too many.
      chunk = divide_up(longest, max(divide(longest, share), 1));
      for (int i = 0; i < 8; ++i) {
        count = count_pieces();
        if (count <= p.parts) break;
        chunk = max(chunk + 1, divide_up(chunk * min(count, 2 * p.parts), p.parts));
      }
      if (count > p.parts) chunk = longest, count = batch;
      cost = chunk;
    }
    if (share + CUT_COST < cost) chunk = 0, count = all;
    else share = rounds;
    position = min(part * share, count);
    end = min(position + share, count);
  }

  __device__ __forceinline__ Plan(const Params& p, int part_) {
    lengths = p.lengths;
    batch = p.batch;
    part = part_;
    lane = threadIdx.x & 31;
    first_length = lane < batch ? max(__ldg(lengths + lane), 0) : 0;
    if (p.invariant) {
      chunk = OWN;
      const int count = count_pieces();
      share = (count + p.parts - 1) / p.parts;
      position = min(part * share, count);
      end = min(position + share, count);
    } else {
      choose(p);
    }
    weigh(0, 0);
  }

  // Fills in the next piece of this part; false when there is none left.
  __device__ __forceinline__ bool next(Piece& piece) {
    while (position < end) {
      const u32 here = __ballot_sync(FULL_WARP, position >= start && position < start + weight);
      if (here == 0) {
        weigh(base + 32, __shfl_sync(FULL_WARP, start + weight, 31));
        continue;
      }
      const int owner = __ffs(here) - 1;
      const int from = __shfl_sync(FULL_WARP, start, owner);
      const int count = __shfl_sync(FULL_WARP, units, owner);
      const int span = __shfl_sync(FULL_WARP, weight, owner);
      piece.sequence = base + owner;
      piece.length = __shfl_sync(FULL_WARP, length, owner);
      if (chunk != 0) {
        take_chunk(piece, from, count, span);
        return true;
      }
      if (take_share(piece, from, count, span)) return true;
    }
    return false;
  }

  __device__ __forceinline__ int part_of(int place) const {
    return share == 1 ? place : divide(place, share);
  }

  __device__ __forceinline__ void take_chunk(Piece& piece, int from, int count, int span) {
    const int at = position - from, each = span == 1 ? count : divide_up(count, span);
    position += 1;
    piece.begin = at * each * UNIT;
    piece.end = min(piece.begin + each * UNIT, piece.length);
    piece.splits = span;
    piece.slot_first = chunk == OWN ? piece.sequence * MAX_CHUNKS : from;
    piece.slot_second = piece.slot_first + 1;
    piece.slot_step = 1;
    piece.slot = piece.slot_first + at;
    const int first_part = part_of(from);
    piece.sharers = part_of(from + span - 1) - first_part + 1;
    piece.rank = part - first_part;
    piece.closes = at == span - 1 || position == end;
  }

  __device__ __forceinline__ bool take_share(Piece& piece, int from, int count, int span) {
    const int low = position - from, high = min(end - from, span);
    position = from + high;
    if (low >= count && low > 0) return false;  // only what the sequence's end is worth
    piece.begin = low * UNIT;
    piece.end = min(high * UNIT, piece.length);
    const int first_part = part_of(from);
    piece.splits = part_of(from + max(count, 1) - 1) - first_part + 1;
    piece.sharers = piece.splits;
    piece.rank = part - first_part;
    piece.slot_first = 2 * first_part + 1;
    piece.slot_second = 2 * (first_part + 1);
    piece.slot_step = 2;
    piece.slot = piece.rank == 0 ? piece.slot_first : 2 * part;
    piece.closes = true;
    return true;
  }
};

// The first slot of a row block.
__device__ __forceinline__ int first_slot(const Params& p, int row_block) {
  return row_block * (p.invariant ? p.batch * MAX_CHUNKS : 2 * p.parts);
}

// ---- The merge ---------------------------------------------------------------------------------

// Tell the other sharers that this block's pieces of the sequence are written. One thread calls it,
// after a barrier among the writers: the release covers what that barrier ordered before it.
__device__ __forceinline__ void merge_arrive(u32* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

// Wait for all sharers, and leave: the last to leave clears the count, so that the next launch and
// every replay of a graph finds zeros.
__device__ __forceinline__ void merge_wait(u32* counter, u32 sharers) {
  u32 now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  } while (now != sharers);
}

// How many had left before; asked for early and looked at late.
__device__ __forceinline__ u32 merge_leave(u32* counter, u32 sharers) {
  u32 before;
  asm volatile("atom.relaxed.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before) : "l"(counter + 1), "r"(sharers - 1) : "memory");
  return before;
}

__device__ __forceinline__ void merge_clear(u32* counter, u32 before, u32 sharers) {
  if (before == sharers - 1)
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(counter), "r"(0) : "memory");
}

// How a kernel lays out a partial result: ROWS * 64 groups of eight bf16, each group of one row. (The
// rounding of a piece to bf16 is averaged over the pieces, and the output is rounded to bf16 anyhow;
// float32 would double what the merge moves.) `row(group)` names the row; `write(group, out, values)`
// puts the eight where they belong in that row of the output.

// Join what the lanes of one group hold, and write it.
template <class Layout>
__device__ __forceinline__ void merge_lanes(const Params& p, const Piece& piece, int first_row,
                                            int group, bool writes, int lanes, float top, float sum,
                                            float (&value)[8]) {
  float high = top;
  for (int step = 1; step < lanes; step *= 2)
    high = fmaxf(high, __shfl_xor_sync(FULL_WARP, high, step));
  const float keep = exp2_fast(top - (high == NEG_INF ? 0.f : high));
  sum *= keep;
#pragma unroll
  for (int i = 0; i < 8; ++i) value[i] *= keep;
#pragma unroll 1
  for (int step = 1; step < lanes; step *= 2) {
    sum += __shfl_xor_sync(FULL_WARP, sum, step);
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] += __shfl_xor_sync(FULL_WARP, value[i], step);
  }
  const int row = first_row + Layout::row(group);
  if (!writes || row >= p.query_tokens * p.heads) return;
  const float inverse = sum == 0.f ? 0.f : reciprocal(sum);
  const i64 at = (i64)piece.sequence * p.query_tokens * p.heads + row;
  Layout::write(group, p.out + at * LATENT,
                make_uint4(pack_bf16(value[0] * inverse, value[1] * inverse),
                           pack_bf16(value[2] * inverse, value[3] * inverse),
                           pack_bf16(value[4] * inverse, value[5] * inverse),
                           pack_bf16(value[6] * inverse, value[7] * inverse)));
  if (Layout::first_of_row(group))
    p.lse[at] = sum == 0.f ? NEG_INF : (high + log2_fast(sum)) * 0.69314718055994531f;
}

// This block's slice of a merged sequence: groups of eight values, each shared by `lanes` neighbouring
// threads that take every lanes-th split. The sums of all splits come through shared memory first:
// every block needs them, and asking for each where it is used would queue at a few lines of the L2.
// A thread asks for four splits before it uses the first, for what counts here is latency; what lies beyond the end is asked for again rather than not at all, since a branch
// would make each load wait for the one before. The order of each sum depends on the number of splits
// alone.
template <class Layout, int ROWS, int THREADS>
struct Slice {
  static constexpr int GROUPS = ROWS * (LATENT / 8), SPLITS = 4;
  const Params& p;
  const Piece& piece;
  int row_block, thread, lanes, lane, last, slots, first;
  uint4 part[SPLITS];

  __device__ __forceinline__ Slice(const Params& p_, const Piece& piece_, int row_block_, int thread_)
      : p(p_), piece(piece_), row_block(row_block_), thread(thread_), lanes(1) {
    while (lanes * SPLITS < piece.splits && lanes < 32) lanes *= 2;
    const int each = (GROUPS + piece.sharers - 1) / piece.sharers;
    first = piece.rank * each;
    last = min(first + each, GROUPS);
    lane = thread & (lanes - 1);
    slots = first_slot(p, row_block);
  }

  __device__ __forceinline__ int group() const { return first + thread / lanes; }
  __device__ __forceinline__ int real_group() const { return min(group(), GROUPS - 1); }

  __device__ __forceinline__ void ask(int j) {
#pragma unroll
    for (int u = 0; u < SPLITS; ++u) {
      const u32 slot = slots + piece.slot_of(min(j + u * lanes, piece.splits - 1));
      part[u] = load_l2((const uint4*)p.partial_out + ((u64)slot * GROUPS + real_group()));
    }
  }

  // The sums of all splits, from every block's corner of the L2 into shared memory.
  __device__ __forceinline__ void fetch_sums(float* sums) const {
    const int count = piece.splits * ROWS;
#pragma unroll 1
    for (int base = thread; base < count; base += 4 * THREADS) {
      float v[4];
#pragma unroll
      for (int u = 0; u < 4; ++u) {  // all asked for before the first is used
        const int i = min(base + u * THREADS, count - 1);
        v[u] = load_l2(p.partial_lse + ((i64)(slots + piece.slot_of(i / ROWS)) * SUMS_STRIDE + i % ROWS));
      }
#pragma unroll
      for (int u = 0; u < 4; ++u)
        if (base + u * THREADS < count) sums[base + u * THREADS] = v[u];
    }
  }

  // One group of every `lanes` threads, then the next; the first was asked for.
  // Whole warps stay together for the shuffles: the loop bound is the same for all their lanes.
  __device__ __forceinline__ void merge(const float* sums) {
#pragma unroll 1
    while (true) {
      const int row = Layout::row(real_group());
      float top = NEG_INF, sum = 0.f, value[8] = {};
#pragma unroll 1
      for (int j = lane;; ) {
        add(sums, row, j, top, sum, value);
        j += SPLITS * lanes;
        if (j - lane >= piece.splits) break;
        ask(j);
      }
      merge_lanes<Layout>(p, piece, row_block * ROWS, group(), group() < last && lane == 0, lanes, top,
                          sum, value);
      first += THREADS / lanes;
      if (first >= last) return;
      ask(lane);
    }
  }

  __device__ __forceinline__ void add(const float* sums, int row, int j, float& top, float& sum,
                                      float (&value)[8]) const {
    float weight[SPLITS], high = top;
#pragma unroll
    for (int u = 0; u < SPLITS; ++u) {
      const int split = j + u * lanes;
      weight[u] = split < piece.splits ? sums[split * ROWS + row] : NEG_INF;
      high = fmaxf(high, weight[u]);
    }
    const float safe = high == NEG_INF ? 0.f : high;
    const float keep = exp2_fast(top - safe);
    sum *= keep;
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= keep;
#pragma unroll
    for (int u = 0; u < SPLITS; ++u) {
      const float w = exp2_fast(weight[u] - safe);
      const u32 pair[4] = {part[u].x, part[u].y, part[u].z, part[u].w};
      sum += w;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        value[2 * i] += w * __uint_as_float(pair[i] << 16);
        value[2 * i + 1] += w * __uint_as_float(pair[i] & 0xffff0000u);
      }
    }
    top = high;
  }
};

// Arrive at, and later finish, the merges of one block; THREADS threads call both together.
// In shared memory stand `waiting`, with room for two, and one at hand: the first and the last
// sequence of a share are the only ones that others share; and `sums`, with room for those of every
// split of a sequence: max(parts, MAX_CHUNKS) * ROWS floats, used while a merge runs.
template <class Layout, int ROWS, int THREADS>
struct Merger {
  const Params& p;
  int row_block, thread, barrier_id;
  Piece* waiting;
  float* sums;
  int count;

  __device__ __forceinline__ Merger(const Params& p_, int row_block_, int thread_, int barrier_id_,
                                    Piece* waiting_, float* sums_)
      : p(p_), row_block(row_block_), thread(thread_), barrier_id(barrier_id_), waiting(waiting_),
        sums(sums_), count(0) {}

  __device__ __forceinline__ u32* counter(const Piece& piece) const {
    return p.counters + 2 * ((i64)row_block * p.batch + piece.sequence);
  }

  // After each piece: tell the others, once this block has no more of a cut sequence, that its pieces
  // are there; merge at once what nobody else has a part of. With no piece left (`piece` null): wait
  // for the others and merge. It is one loop so that the merge stands in the code once.
  __device__ __forceinline__ void settle(const Piece* piece) {
    int at = 0, stop = count;
    if (piece != nullptr) {
      if (piece->splits == 1 || !piece->closes) return;
      at = stop = count;
      const bool alone = piece->sharers == 1;
      if (thread == 0) waiting[count] = *piece;
      if (alone) __threadfence();
      named_barrier(barrier_id, THREADS);
      if (alone) {
        stop = count + 1;
      } else {
        if (thread == 0) merge_arrive(counter(*piece));
        ++count;
      }
    }
#pragma unroll 1
    for (; at < stop; ++at) {
      const Piece& mine = waiting[at];
      if (piece == nullptr && thread == 0) merge_wait(counter(mine), mine.sharers);
      Slice<Layout, ROWS, THREADS> slice(p, mine, row_block, opaque(thread));
      named_barrier(barrier_id, THREADS);
      slice.ask(slice.lane);
      slice.fetch_sums(sums);
      u32 before = 0;
      if (piece == nullptr && thread == 0) before = merge_leave(counter(mine), mine.sharers);
      named_barrier(barrier_id, THREADS);
      slice.merge(sums);
      if (piece == nullptr && thread == 0) merge_clear(counter(mine), before, mine.sharers);
      named_barrier(barrier_id, THREADS);  // the next use of `sums`
    }
  }
};
