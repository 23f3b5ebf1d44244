// Products by tiles of 64 x 64, and the only inline PTX of the house.
//
// A block computes one tile of A·B at a time; slices of both operands pass through shared memory. An operand lies
// ALONG where its contracted dimension is contiguous in memory, and across where its rows (columns of B) are:
//
//     along:  at[r * stride + k]        across:  at[k * stride + r]        r: row of A, or column of B
//
// f32: slices of 16, three stages of cp.async (copied two ahead of where the block computes), a thread computes 4 x 4
// neighbours. The lanes of a warp cover 32 columns x 16 rows, so that each 16-byte read of shared memory is one
// wavefront: 8 reads for 64 FMAs a thread. What lies along is swizzled, not padded: two rows share 128 bytes, and
// quad q of row r is in place (4·(r mod 2) + q) xor (r / 4 mod 8) of them, so eight lanes that read rows 4 apart, and
// eight that write two rows, meet all 32 banks. What lies across needs nothing.
//
// Learnt from ptxas (13.0, sm_90): of about 400 instructions a slice and thread 256 multiply. Places that are computed
// once for all tiles cost 128 registers and spills, computed where they are used at most 80 without. An
// epilogue of 4 x 4 unrolled activations spills as well; through shared memory it is one loop, and stores whole rows.
// Not measured yet; predicted on an H200: 60 % of 67 TFLOP/s in f32.
//
// bf16: slices of 32, f32 in memory, rounded on the way; two stages, the next one held in registers while the block
// computes. A warp computes 32 x 16 with mma.m16n8k16. Chunks of 8 elements are swizzled so that the 8 rows that
// ldmatrix reads meet all banks; what lies across is turned by ldmatrix.trans.
#pragma once
#include "common.cuh"

constexpr u32 TILE = 64;

// One operand of a product: `rows` x `depth` elements; nothing beyond them is read.
struct Matrix {
    const float* at;
    u32 rows, depth, stride;

    // Whether groups of four start at multiples of 16 bytes.
    __device__ bool aligned() const { return stride % 4 == 0 && reinterpret_cast<size_t>(at) % 16 == 0; }
    template <bool ALONG> __device__ const float* element(u32 r, u32 k) const {
        return at + (ALONG ? size_t(r) * stride + k : size_t(k) * stride + r);
    }
    // How many of `n` elements from (r, k) on, in the contiguous dimension, there are.
    template <bool ALONG> __device__ u32 present(u32 r, u32 k, u32 n) const {
        return r < rows && k < depth ? min(n, ALONG ? depth - k : rows - r) : 0;
    }
};

// Copies the first `bytes` of BYTES to shared memory and fills the rest with zeros.
template <u32 BYTES> __device__ inline void copy_async(float* to, const float* from, u32 bytes) {
    u32 shared = static_cast<u32>(__cvta_generic_to_shared(to));
    size_t global = __cvta_generic_to_global(from);
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
    }
}

// Ends a group of copies; `wait_copies` waits until at most PENDING groups of this thread are on their way.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 PENDING> __device__ inline void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// The thread's number as something new: what is computed from it is computed where it is used. Otherwise compilers
// compute the places of all layouts once for all tiles and keep them, which takes more registers than there are.
__device__ inline u32 fresh_thread() {
    u32 thread = threadIdx.x;
    asm volatile("" : "+r"(thread));
    return thread;
}

// f32.

constexpr u32 DEPTH = 16;
constexpr u32 STAGES = 3;

constexpr u32 SLICE = TILE * DEPTH;

// `b` follows `a`: a finished tile of 64 x 64 lies over both.
struct alignas(128) Stages {
    float all[2 * STAGES * SLICE];
    __device__ float* a() { return all; }
    __device__ float* b() { return all + STAGES * SLICE; }
};

// Where a thread's 4 x 4 elements of the tile begin.
__device__ inline u32 own_row(u32 thread) { return 4 * (thread / 64 * 4 + thread % 32 / 8); }
__device__ inline u32 own_column(u32 thread) { return 4 * (thread / 32 % 2 * 8 + thread % 8); }

template <bool ALONG> __device__ inline u32 place(u32 r, u32 k) {
    if (!ALONG) return k * TILE + r;
    return r / 2 * 32 + ((r % 2 * 4 + k / 4) ^ (r / 4 % 8)) * 4 + k % 4;
}

// Copies a slice of ROWS x DEPTH from (row0, k0) on, zeros beyond the operand; `thread` counts ROWS * DEPTH / 4.
template <bool ALONG, u32 ROWS = TILE, class M = Matrix>
__device__ inline void stage(float* slice, const M& m, bool aligned, u32 thread, u32 row0, u32 k0) {
    if (aligned) {
        u32 r = ALONG ? thread / 4 : thread % (ROWS / 4) * 4;
        u32 k = ALONG ? thread % 4 * 4 : thread / (ROWS / 4);
        u32 n = m.template present<ALONG>(row0 + r, k0 + k, 4);
        const float* from = n > 0 ? m.template element<ALONG>(row0 + r, k0 + k) : m.at;
        copy_async<16>(slice + place<ALONG>(r, k), from, 4 * n);
        return;
    }
#pragma unroll 1
    for (u32 i = thread; i < ROWS * DEPTH; i += ROWS * DEPTH / 4) {
        u32 r = ALONG ? i / DEPTH : i % ROWS;
        u32 k = ALONG ? i % DEPTH : i / ROWS;
        u32 n = m.template present<ALONG>(row0 + r, k0 + k, 1);
        const float* from = n > 0 ? m.template element<ALONG>(row0 + r, k0 + k) : m.at;
        copy_async<4>(slice + place<ALONG>(r, k), from, 4 * n);
    }
}

// Where fragments of rows r to r + 3 begin in a slice, for r a multiple of 4. One number, from which the places differ
// by constants: precomputed, they would take half of the registers.
template <bool ALONG> __device__ inline u32 fragment_start(u32 r) { return ALONG ? r * 16 + r / 4 % 8 * 4 : r; }

// Elements [i][d] = (r + i, k + d) of a slice, from the start for r in that slice; k is a multiple of 4.
template <bool ALONG> __device__ inline void fragment(const float* slices, u32 start, u32 k, float (&x)[4][4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        u32 at = ALONG ? (start ^ (i % 2 * 16 + k)) + i / 2 * 32 : start + (k + i) * TILE;
        float4 v = *reinterpret_cast<const float4*>(slices + at);
        float four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (u32 j = 0; j < 4; j++) (ALONG ? x[i][j] : x[j][i]) = four[j];
    }
}

// Four steps of the contraction.
__device__ inline void multiply_fragments(const float (&left)[4][4], const float (&right)[4][4], float (&sum)[4][4]) {
#pragma unroll
    for (u32 d = 0; d < 4; d++)
#pragma unroll
        for (u32 i = 0; i < 4; i++)
#pragma unroll
            for (u32 j = 0; j < 4; j++) sum[i][j] = fmaf(left[i][d], right[j][d], sum[i][j]);
}

// The same where an element is a word of four codes of int8: sixteen steps, exact. Moves leave the words as they are.
__device__ inline void multiply_fragments(const float (&left)[4][4], const float (&right)[4][4], int (&sum)[4][4]) {
#pragma unroll
    for (u32 d = 0; d < 4; d++)
#pragma unroll
        for (u32 i = 0; i < 4; i++)
#pragma unroll
            for (u32 j = 0; j < 4; j++)
                sum[i][j] = __dp4a(__float_as_int(left[i][d]), __float_as_int(right[j][d]), sum[i][j]);
}

// sum[i][j] += Σ_k A[row0 + own_row + i, k] · B[k, col0 + own_column + j], in the order of k. All threads of the
// block call it; afterwards `s` may be used again. An operand is a Matrix or what can be asked the same. Sums are float,
// or int for words of codes.
template <bool A_ALONG, bool B_ALONG, class A, class B, class Sum>
__device__ inline void tile_product(const A& a, const B& b, u32 row0, u32 col0, Stages& s, Sum (&sum)[4][4]) {
    u32 steps = (a.depth + DEPTH - 1) / DEPTH, thread = fresh_thread();
    bool a_aligned = a.aligned(), b_aligned = b.aligned();
    auto copy = [&](u32 slot, u32 step) {
        if (step < steps) {
            u32 thread = fresh_thread();
            stage<A_ALONG>(s.a() + slot * SLICE, a, a_aligned, thread, row0, step * DEPTH);
            stage<B_ALONG>(s.b() + slot * SLICE, b, b_aligned, thread, col0, step * DEPTH);
        }
        commit_copies();
    };
#pragma unroll
    for (u32 i = 0; i + 1 < STAGES; i++) copy(i, i);
    u32 here = 0, ahead = STAGES - 1;
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        copy(ahead, step + STAGES - 1);
        u32 left_start = here * SLICE + fragment_start<A_ALONG>(own_row(thread));
        u32 right_start = here * SLICE + fragment_start<B_ALONG>(own_column(thread));
#pragma unroll
        for (u32 k = 0; k < DEPTH; k += 4) {
            float left[4][4], right[4][4];
            fragment<A_ALONG>(s.a(), left_start, k, left);
            fragment<B_ALONG>(s.b(), right_start, k, right);
            multiply_fragments(left, right, sum);
        }
        here = here + 1 == STAGES ? 0 : here + 1;
        ahead = ahead + 1 == STAGES ? 0 : ahead + 1;
    }
    __syncthreads();
}

// A finished tile in shared memory, for an epilogue that takes whole rows; the stages have done their work by then.
// Swizzled, so that the stores of both kinds of product meet all banks.
__device__ inline u32 finished_place(u32 r, u32 c) { return r * TILE + (c ^ r % 4 * 8); }

__device__ inline float* put_tile(Stages& s, const float (&sum)[4][4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        float* to = s.all + finished_place(own_row(threadIdx.x) + i, own_column(threadIdx.x));
        *reinterpret_cast<float4*>(to) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    }
    __syncthreads();
    return s.all;
}

// Calls work(r, c, four numbers) for all elements of a finished tile, four neighbours of a row at a time.
template <class Work> __device__ inline void by_four(const float* tile, Work work) {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < TILE * TILE / 4; i += THREADS) {
        u32 r = i / 16, c = i % 16 * 4;
        float4 v = *reinterpret_cast<const float4*>(tile + finished_place(r, c));
        float four[4] = {v.x, v.y, v.z, v.w};
        work(r, c, four);
    }
    __syncthreads();
}

// Stores four neighbours of a row that has `room` elements left; `aligned` says that `to` is a multiple of 16 bytes.
__device__ inline void store_four(float* to, const float (&x)[4], u32 room, bool aligned) {
    if (aligned && room >= 4) {
        *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
        return;
    }
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        if (j < room) to[j] = x[j];
    }
}

// bf16.

constexpr u32 BF16_DEPTH = 32;

constexpr u32 BF16_SLICE = TILE * BF16_DEPTH / 8;

struct alignas(128) Bf16Stages {
    uint4 all[4 * BF16_SLICE];
    __device__ uint4* a(u32 slot) { return all + slot * BF16_SLICE; }
    __device__ uint4* b(u32 slot) { return all + (2 + slot) * BF16_SLICE; }
};

// Two numbers rounded to the nearest bf16, the first in the lower half.
__device__ inline u32 bf16_pair(float first, float second) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

// Four 8 x 8 matrices of bf16; lane i names row i % 8 of matrix i / 8. TRANSPOSED turns each.
template <bool TRANSPOSED> __device__ inline void load_matrices(const uint4* row, u32 (&x)[4]) {
    u32 shared = static_cast<u32>(__cvta_generic_to_shared(row));
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(shared) : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(shared) : "memory");
    }
}

// sum += A·B for 16 x 16 by 16 x 8. Lane i holds of the sum rows i / 4 and i / 4 + 8, columns 2·(i % 4) and the next.
__device__ inline void multiply_add(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Eight neighbours of a slice, one thread's part of it: a chunk.
template <bool ALONG> __device__ inline u32 chunk_row(u32 thread) { return ALONG ? thread / 4 : thread % 8 * 8; }
template <bool ALONG> __device__ inline u32 chunk_depth(u32 thread) { return ALONG ? thread % 4 * 8 : thread / 8; }

// Place of the chunk that holds (r, k).
template <bool ALONG> __device__ inline u32 chunk_place(u32 r, u32 k) {
    return ALONG ? r * 4 + (k / 8 ^ r / 2 % 4) : k * 8 + (r / 8 ^ k % 8);
}

template <bool ALONG>
__device__ inline void fetch(const Matrix& m, bool aligned, u32 thread, u32 row0, u32 k0, float (&x)[8]) {
    u32 r = row0 + chunk_row<ALONG>(thread), k = k0 + chunk_depth<ALONG>(thread);
    u32 n = m.present<ALONG>(r, k, 8);
    const float* from = m.element<ALONG>(r, k);
    if (aligned && n == 8) {
        float4 low = __ldg(reinterpret_cast<const float4*>(from));
        float4 high = __ldg(reinterpret_cast<const float4*>(from) + 1);
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) x[i] = i < n ? __ldg(from + i) : 0.0f;
}

template <bool ALONG> __device__ inline void put(uint4* slice, u32 thread, const float (&x)[8]) {
    slice[chunk_place<ALONG>(chunk_row<ALONG>(thread), chunk_depth<ALONG>(thread))] =
        make_uint4(bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]), bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7]));
}

// The 16 x 16 elements from (r, k) on as four matrices: for A in the order of multiply_add, (rows, depth) = (0, 0),
// (8, 0), (0, 8), (8, 8); for B (0, 0), (0, 8), (8, 0), (8, 8), two matrices for each eight columns.
template <bool ALONG, bool IS_A>
__device__ inline void bf16_fragment(const uint4* slice, u32 lane, u32 r, u32 k, u32 (&x)[4]) {
    u32 inner = lane % 8 + (IS_A ? lane / 8 % 2 : lane / 16) * 8, outer = (IS_A ? lane / 16 : lane / 8 % 2) * 8;
    u32 turned_depth = lane % 8 + (IS_A ? lane / 16 : lane / 8 % 2) * 8;
    u32 turned_row = (IS_A ? lane / 8 % 2 : lane / 16) * 8;
    u32 at = ALONG ? chunk_place<true>(r + inner, k + outer) : chunk_place<false>(r + turned_row, k + turned_depth);
    load_matrices<!ALONG>(slice + at, x);
}

// Where a warp's 32 x 16 elements of the tile begin.
__device__ inline u32 warp_row(u32 thread) { return thread / WARP / 4 * 32; }
__device__ inline u32 warp_column(u32 thread) { return thread / WARP % 4 * 16; }

// sum[i][j]: the 16 x 8 elements from (row0 + warp_row + 16·i, col0 + warp_column + 8·j) on, as multiply_add holds
// them. All threads of the block call it; afterwards `s` may be used again.
template <bool A_ALONG, bool B_ALONG>
__device__ inline void bf16_tile_product(const Matrix& a, const Matrix& b, u32 row0, u32 col0, Bf16Stages& s,
                                         float (&sum)[2][2][4]) {
    u32 steps = (a.depth + BF16_DEPTH - 1) / BF16_DEPTH, thread = fresh_thread();
    bool a_aligned = a.aligned(), b_aligned = b.aligned();
    float next_a[8], next_b[8];
    if (steps > 0) {
        fetch<A_ALONG>(a, a_aligned, thread, row0, 0, next_a);
        fetch<B_ALONG>(b, b_aligned, thread, col0, 0, next_b);
        put<A_ALONG>(s.a(0), thread, next_a);
        put<B_ALONG>(s.b(0), thread, next_b);
    }
    __syncthreads();
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
        bool more = step + 1 < steps;
        if (more) {
            fetch<A_ALONG>(a, a_aligned, thread, row0, (step + 1) * BF16_DEPTH, next_a);
            fetch<B_ALONG>(b, b_aligned, thread, col0, (step + 1) * BF16_DEPTH, next_b);
        }
#pragma unroll
        for (u32 k = 0; k < BF16_DEPTH; k += 16) {
            u32 left[2][4], right[4];
            bf16_fragment<A_ALONG, true>(s.a(step % 2), thread % WARP, warp_row(thread), k, left[0]);
            bf16_fragment<A_ALONG, true>(s.a(step % 2), thread % WARP, warp_row(thread) + 16, k, left[1]);
            bf16_fragment<B_ALONG, false>(s.b(step % 2), thread % WARP, warp_column(thread), k, right);
#pragma unroll
            for (u32 i = 0; i < 2; i++)
#pragma unroll
                for (u32 j = 0; j < 2; j++) multiply_add(sum[i][j], left[i], right[2 * j], right[2 * j + 1]);
        }
        if (more) {
            put<A_ALONG>(s.a((step + 1) % 2), thread, next_a);
            put<B_ALONG>(s.b((step + 1) % 2), thread, next_b);
        }
        __syncthreads();
    }
}

__device__ inline float* put_tile(Bf16Stages& s, const float (&sum)[2][2][4]) {
    float* tile = reinterpret_cast<float*>(s.all);
    u32 row = warp_row(threadIdx.x) + lane_index() / 4, col = warp_column(threadIdx.x) + lane_index() % 4 * 2;
#pragma unroll
    for (u32 i = 0; i < 2; i++)
#pragma unroll
        for (u32 j = 0; j < 2; j++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float* to = tile + finished_place(row + 16 * i + 8 * half, col + 8 * j);
                *reinterpret_cast<float2*>(to) = make_float2(sum[i][j][2 * half], sum[i][j][2 * half + 1]);
            }
    __syncthreads();
    return tile;
}
