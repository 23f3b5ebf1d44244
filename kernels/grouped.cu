// Products of each slot of a row with the matrix of its expert, and their gradients.
#include "tile.cuh"

// The slots that meet one expert: `length` from `begin` on in the order, or slot e of every row where there is none.
struct Run {
    const u32* order;
    u32 begin, length, slots, expert;
    __device__ u32 slot(u32 i) const { return order ? order[begin + i] : i * slots + expert; }
};

__device__ inline Run run_of(const u32* order, const u32* offsets, bool dispatched, u32 rows, u32 slots, u32 e) {
    if (!dispatched) return {nullptr, 0, rows, slots, e};
    u32 begin = offsets[e];
    return {order, begin, offsets[e + 1] - begin, slots, e};
}

// An operand of a product, as Matrix, whose vectors lie where a run says: as its rows where it lies along, as its
// depth where it lies across.
struct Gathered {
    const float* at;
    u32 rows, depth, stride;
    Run run;
    // Slots that read the same vector.
    u32 shared_by;

    __device__ bool aligned() const { return stride % 4 == 0 && reinterpret_cast<size_t>(at) % 16 == 0; }
    __device__ const float* vector(u32 i) const { return at + size_t(run.slot(i) / shared_by) * stride; }
    template <bool ALONG> __device__ const float* element(u32 r, u32 k) const {
        return ALONG ? vector(r) + k : vector(k) + r;
    }
    template <bool ALONG> __device__ u32 present(u32 r, u32 k, u32 n) const {
        return r < rows && k < depth ? min(n, ALONG ? depth - k : rows - r) : 0;
    }
};

// grouped_product: y[slot] = W_e x[slot] for the slots of every expert e; grouped_product_back: W_e transposed.
//
// Floor: 2·R·k·I·O FLOPs, and with O = 16 as many bytes from memory as 4·R·k·(I + O): bound by bandwidth there.
// Layout: the runs of all experts are divided into tiles of 64 slots; a block finds its tile by walking over the runs,
// then computes 64 slots x 64 columns (see tile.cuh): rows are gathered by the copies into shared memory and scattered
// when they are stored.
//
//   runs   | expert 0: 3 tiles | expert 1: 1 tile | ... |     at most slots / 64 + experts tiles
//
// Not measured yet. A tile is 64 wide also where a product has 16 columns: three quarters of its arithmetic are then
// in vain, 54 us predicted on an H200 for 8,192 rows of 4 slots from 512 to 16, where the bytes take 15 us. To try:
// tiles of 256 x 16; factors in bf16.
struct Product {
    Size rows;
    u32 slots, experts, depth, width, x_shared, forward, combined, dispatched;
};

template <bool FORWARD>
__device__ inline void product(const float* x, const float* weight, const u32* order, const u32* offsets, float* y,
                               const u32* counts, const Product& p) {
    __shared__ Stages stages;
    u32 rows = p.rows(counts);
    bool aligned = p.width % 4 == 0 && reinterpret_cast<size_t>(y) % 16 == 0;
    u32 first_tile = 0, tile = blockIdx.y;
    for (u32 e = 0; e < p.experts; e++) {
        Run run = run_of(order, offsets, p.dispatched == 1, rows, p.slots, e);
        u32 tiles = (run.length + TILE - 1) / TILE;
        for (; tile - first_tile < tiles; tile += gridDim.y) {
            u32 row0 = (tile - first_tile) * TILE;
            Gathered left = {x, run.length, p.depth, p.depth, run, p.x_shared == 1 ? p.slots : 1};
            Matrix right = {weight + size_t(e) * p.depth * p.width, p.width, p.depth, FORWARD ? p.depth : p.width};
            for (u32 col0 = blockIdx.x * TILE; col0 < p.width; col0 += gridDim.x * TILE) {
                float sum[4][4] = {};
                tile_product<true, FORWARD>(left, right, row0, col0, stages, sum);
                by_four(put_tile(stages, sum), [&](u32 r, u32 c, float (&v)[4]) {
                    if (row0 + r >= run.length || col0 + c >= p.width) return;
                    float* to = y + size_t(run.slot(row0 + r)) * p.width + col0 + c;
                    store_four(to, v, p.width - col0 - c, aligned);
                });
            }
        }
        first_tile += tiles;
    }
}

KERNEL grouped_product(const float* __restrict__ x, const float* __restrict__ weight, const u32* __restrict__ order,
                       const u32* __restrict__ offsets, float* __restrict__ scratch, float* __restrict__ y,
                       const u32* __restrict__ counts, Product p) {
    product<true>(x, weight, order, offsets, y, counts, p);
}

KERNEL grouped_product_back(const float* __restrict__ x, const float* __restrict__ weight,
                            const u32* __restrict__ order, const u32* __restrict__ offsets,
                            float* __restrict__ scratch, float* __restrict__ y, const u32* __restrict__ counts,
                            Product p) {
    product<false>(x, weight, order, offsets, y, counts, p);
}

// grouped_combine: y[r] = sum of the row's slots, in their order.
// Floor: 4 bytes an element of the slots and of y; bound by bandwidth. A warp a row. Not yet measured on a GPU.
struct Combine { Size rows; u32 slots; u32 cols; };
KERNEL grouped_combine(const float* __restrict__ slots, float* __restrict__ y, const u32* counts, Combine p) {
    each_row(p.rows(counts), p.cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        for (u32 c = W * lane_index(); c < p.cols; c += W * WARP) {
            Pack<W> sum = {};
            for (u32 s = 0; s < p.slots; s++) {
                Pack<W> in = load<W>(slots, (row * p.slots + s) * p.cols + c);
#pragma unroll
                for (u32 k = 0; k < W; k++) sum.at[k] += in.at[k];
            }
            store<W>(y, row * p.cols + c, sum);
        }
    });
}

// grouped_dw: for every expert and part of its run, the sum of dy[slot] x[slot] transposed: the first stage of the
// gradients of the matrices.
//
// Floor: 2·R·k·I·O FLOPs; with O = 16 bound by reading x once a slot.
// Layout: a block computes a tile of 64 x 64 of one part's [O, I]; both factors lie across and are gathered slot by
// slot. An expert has few tiles and thousands of slots: its run is divided into parts, so that there is work for all
// multiprocessors, and sum_rows adds the parts in their order. Not measured yet.
struct Dw {
    Size rows;
    u32 slots, experts, inner, outer, x_shared, dispatched, parts;
};

KERNEL_OF(3) grouped_dw(const float* __restrict__ x, const float* __restrict__ dy, const u32* __restrict__ order,
                  const u32* __restrict__ offsets, float* __restrict__ scratch, float* __restrict__ dw,
                  const u32* __restrict__ counts, Dw p) {
    __shared__ Stages stages;
    u32 rows = p.rows(counts);
    bool aligned = p.inner % 4 == 0 && reinterpret_cast<size_t>(dw) % 16 == 0;
    for (u32 z = blockIdx.z; z < p.experts * p.parts; z += gridDim.z) {
        u32 e = z / p.parts, part = z - e * p.parts;
        Run run = run_of(order, offsets, p.dispatched == 1, rows, p.slots, e);
        u32 length = (run.length + p.parts - 1) / p.parts;
        u32 begin = min(run.length, part * length);
        run.length = min(run.length - begin, length);
        // Slot i of the part is slot begin + i of the run.
        if (p.dispatched == 1) run.begin += begin;
        else run.expert += begin * p.slots;
        Gathered left = {dy, p.outer, run.length, p.outer, run, 1};
        Gathered right = {x, p.inner, run.length, p.inner, run, p.x_shared == 1 ? p.slots : 1};
        float* to = dw + (size_t(part) * p.experts + e) * p.outer * p.inner;
        for (u32 row0 = blockIdx.y * TILE; row0 < p.outer; row0 += gridDim.y * TILE) {
            for (u32 col0 = blockIdx.x * TILE; col0 < p.inner; col0 += gridDim.x * TILE) {
                float sum[4][4] = {};
                tile_product<false, false>(left, right, row0, col0, stages, sum);
                by_four(put_tile(stages, sum), [&](u32 r, u32 c, float (&v)[4]) {
                    if (row0 + r >= p.outer || col0 + c >= p.inner) return;
                    store_four(to + size_t(row0 + r) * p.inner + col0 + c, v, p.inner - col0 - c, aligned);
                });
            }
        }
    }
}
