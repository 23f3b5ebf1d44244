// Routing, experts of low rank, and the Gram matrices of what they say.
#include "common.cuh"

// route: the slots of each row, the largest logit first, of equal ones the lower expert, a NaN behind every number.
// Floor: 4 bytes a logit and 8 a slot; at our sizes (8,192 rows of 16) bound by latency.
// Layout: a thread a row. Each slot takes the best of what comes after the slot before, in the order of (logit,
// expert): no list of what is taken, so that nothing is kept but two words. Not yet measured on a GPU.
struct Route { Size rows; u32 experts; u32 slots; };

// A number in the order of the logits: a NaN stands below everything, -0 equals 0.
__device__ inline u32 ordered(float logit) {
    u32 bits = __float_as_uint(logit);
    if (is_nan(logit)) return 0;
    if (bits == 0x80000000u) return 0x80000000u;
    return bits >> 31 == 1 ? ~bits : bits | 0x80000000u;
}

KERNEL route(const float* __restrict__ logits, float* __restrict__ picked, u32* __restrict__ table, const u32* counts,
             Route p) {
    u32 rows = p.rows(counts);
    for (u32 row = thread_index(); row < rows; row += thread_count()) {
        u32 last = 0, last_expert = 0;
        for (u32 s = 0; s < p.slots; s++) {
            u32 best = 0, expert = p.experts;
            for (u32 e = 0; e < p.experts; e++) {
                u32 key = ordered(logits[row * p.experts + e]);
                bool after = s == 0 || key < last || (key == last && e > last_expert);
                if (after && (expert == p.experts || key > best)) {
                    best = key;
                    expert = e;
                }
            }
            picked[row * p.slots + s] = logits[row * p.experts + expert];
            table[row * p.slots + s] = expert;
            last = best;
            last_expert = expert;
        }
    }
}

// route_order: the slots sorted by expert, then by number, and where each expert's run begins.
// Floor: 8 bytes a slot; in fact every block reads the table twice, from cache after the first time.
// Layout: a block an expert; a thread counts the hits of its own strip of slots and those of lower experts, sums over
// the block say where it writes, and it goes through its strip again. Always the same order. Not yet measured.
//
//   table  | strip 0 | strip 1 | ... | strip 255 |      order  | lower experts | hits of strip 0 | of strip 1 | ...
struct RouteOrder { Size rows; u32 experts; u32 slots; u32 wants_order; u32 wants_offsets; };

// Sums of two numbers over the lanes of a warp up to this one.
__device__ inline uint2 sums_up_to_lane(uint2 x) {
#pragma unroll
    for (u32 reach = 1; reach < WARP; reach *= 2) {
        u32 first = __shfl_up_sync(ALL, x.x, reach), second = __shfl_up_sync(ALL, x.y, reach);
        if (lane_index() >= reach) x.x += first, x.y += second;
    }
    return x;
}

KERNEL route_order(const u32* __restrict__ table, u32* __restrict__ order, u32* __restrict__ offsets, const u32* counts,
                   RouteOrder p) {
    // Hits and those of lower experts, of each warp.
    __shared__ uint2 of_warps[WARPS];
    u32 n = p.rows(counts) * p.slots, strip = (n + THREADS - 1) / THREADS;
    u32 begin = min(n, threadIdx.x * strip), end = min(n, begin + strip);
    for (u32 e = blockIdx.x; e < p.experts; e += gridDim.x) {
        uint2 own = {0, 0};
        for (u32 slot = begin; slot < end; slot++) {
            own.x += table[slot] == e;
            own.y += table[slot] < e;
        }
        uint2 sum = sums_up_to_lane(own);
        if (lane_index() == WARP - 1) of_warps[threadIdx.x / WARP] = sum;
        __syncthreads();
        u32 first = 0, before = 0, hits = 0;
#pragma unroll
        for (u32 i = 0; i < WARPS; i++) {
            first += of_warps[i].y;
            if (i < threadIdx.x / WARP) before += of_warps[i].x;
            hits += of_warps[i].x;
        }
        // All have read before the next expert's sums are written.
        __syncthreads();
        if (threadIdx.x == 0 && p.wants_offsets == 1) {
            offsets[e] = first;
            if (e + 1 == p.experts) offsets[p.experts] = first + hits;
        }
        if (p.wants_order == 1) {
            u32 place = first + before + sum.x - own.x;
            for (u32 slot = begin; slot < end; slot++) {
                if (table[slot] == e) order[place++] = slot;
            }
        }
    }
}

// route_grad: dlogits[r, table[r, s]] = dpicked[r, s], 0 elsewhere.
// Floor: 4 bytes a logit and 8 a slot; bound by bandwidth. A thread a logit, which looks through the row's slots. Not
// yet measured on a GPU.
KERNEL route_grad(const float* __restrict__ dpicked, const u32* __restrict__ table, float* __restrict__ dlogits,
                  const u32* counts, Route p) {
    u32 items = p.rows(counts) * p.experts;
    for (u32 item = thread_index(); item < items; item += thread_count()) {
        u32 row = item / p.experts, e = item - row * p.experts;
        float sum = 0.0f;
        for (u32 slot = row * p.slots; slot < (row + 1) * p.slots; slot++) {
            if (table[slot] == e) sum += dpicked[slot];
        }
        dlogits[item] = sum;
    }
}

// What the kernels of experts begin with.
struct Experts {
    Size rows;
    u32 cols, slots, experts, routed;
    // The expert of a slot.
    __device__ u32 of(const u32* table, u32 slot) const { return routed == 1 ? table[slot] : slot % slots; }
};

// expert: delta = shared + low + diagonal_e v + bias_e, and y = v + delta, for each slot of a row and its expert e.
// Floor: 8 bytes an element of y, 12 with delta; bound by bandwidth. What slots have in common comes from cache.
// Layout: a warp a slot of a row; a lane reads four neighbours at once where D is a multiple of 4. y may lie in low's
// place. Not yet measured on a GPU.
struct Expert { Experts of; u32 wants_delta; };
KERNEL expert(const float* low, const float* __restrict__ shared, const float* __restrict__ v,
              const float* __restrict__ diagonal, const float* __restrict__ bias, const u32* __restrict__ table, float* y,
              float* __restrict__ delta, const u32* counts, Expert p) {
    u32 cols = p.of.cols;
    each_row(p.of.rows(counts) * p.of.slots, cols, [&](auto width, u32 slot) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 e = p.of.of(table, slot), narrow = slot / p.of.slots * cols;
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> out = load<W>(low, slot * cols + c), in = load<W>(v, narrow + c), trunk = load<W>(shared, narrow + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) out.at[k] += trunk.at[k];
            if (e < p.of.experts) {
                Pack<W> by = load<W>(diagonal, e * cols + c), plus = load<W>(bias, e * cols + c);
#pragma unroll
                for (u32 k = 0; k < W; k++) out.at[k] = fmaf(by.at[k], in.at[k], out.at[k] + plus.at[k]);
            }
            if (p.wants_delta == 1) store<W>(delta, slot * cols + c, out);
#pragma unroll
            for (u32 k = 0; k < W; k++) out.at[k] += in.at[k];
            store<W>(y, slot * cols + c, out);
        }
    });
}

struct ExpertGrad {
    Experts of;
    u32 has_dexperts, has_ddelta, part;
    // The gradients of an element; 0 for one that is not given.
    __device__ float direct(const float* dexperts, u32 i) const { return has_dexperts == 1 ? dexperts[i] : 0.0f; }
    __device__ float beside(const float* ddelta, u32 i) const { return has_ddelta == 1 ? ddelta[i] : 0.0f; }
};

// expert_parts: for every part of `part` rows and every expert, the sums of v d and of d over the slots that meet it,
// with d = dexperts + ddelta: the first stage of the gradients of diagonal and bias.
// Floor: 4 bytes an element of each gradient given; bound by bandwidth. The table is read once an expert, from cache.
// Layout: a block 64 columns of one part and expert, in 4 strips of slots; sums[part][expert][which][column]. Not yet
// measured on a GPU.
KERNEL expert_parts(const float* __restrict__ dexperts, const float* __restrict__ ddelta, const float* __restrict__ v,
                    const u32* __restrict__ table, float* __restrict__ sums, const u32* counts, ExpertGrad p) {
    __shared__ float parts_of_strips[2][THREADS];
    Strips strips(parts_of_strips);
    u32 rows = p.of.rows(counts), cols = p.of.cols, slots = p.of.slots;
    u32 parts = (rows + p.part - 1) / p.part;
    for (u32 e = blockIdx.z; e < p.of.experts; e += gridDim.z) {
        for (u32 part = blockIdx.y; part < parts; part += gridDim.y) {
            u32 end = min(rows, (part + 1) * p.part) * slots;
            for (u32 left = blockIdx.x * COLUMNS; left < cols; left += gridDim.x * COLUMNS) {
                u32 c = left + column_index();
                float gained = 0.0f, plain = 0.0f;
                for (u32 slot = part * p.part * slots + strip_index(); slot < end && c < cols; slot += STRIPS) {
                    if (p.of.of(table, slot) != e) continue;
                    float d = p.direct(dexperts, slot * cols + c) + p.beside(ddelta, slot * cols + c);
                    gained = fmaf(v[slot / slots * cols + c], d, gained);
                    plain += d;
                }
                gained = strips.sum(gained);
                plain = strips.sum(plain);
                u32 at = (part * p.of.experts + e) * 2 * cols + c;
                if (strip_index() == 0 && c < cols) sums[at] = gained, sums[at + cols] = plain;
            }
        }
    }
}

// expert_sum: the second stage of the gradients of diagonal and bias: sums over the parts, in their order.
// Floor: 8 bytes a column, expert and part; far below the first stage. A thread a column of an expert.
struct ExpertSum { ExpertGrad of; u32 wants_diagonal; u32 wants_bias; };
KERNEL expert_sum(const float* __restrict__ sums, float* __restrict__ ddiagonal, float* __restrict__ dbias,
                  const u32* counts, ExpertSum p) {
    u32 cols = p.of.of.cols, experts = p.of.of.experts;
    u32 parts = (p.of.of.rows(counts) + p.of.part - 1) / p.of.part;
    for (u32 item = thread_index(); item < experts * cols; item += thread_count()) {
        float gained = 0.0f, plain = 0.0f;
        for (u32 part = 0; part < parts; part++) {
            u32 at = (part * experts + item / cols) * 2 * cols + item % cols;
            gained += sums[at];
            plain += sums[at + cols];
        }
        if (p.wants_diagonal == 1) ddiagonal[item] = gained;
        if (p.wants_bias == 1) dbias[item] = plain;
    }
}

// expert_grad: dlow = d = dexperts + ddelta, dshared = the sum of d over a row's slots, and dv = that of
// dexperts + diagonal_e d.
// Floor: 4 bytes an element of each gradient given and of dlow; bound by bandwidth.
// Layout: a warp a row, a lane some columns of it for all slots. dlow may lie in a gradient's place: a lane rewrites
// only what it has read itself. The gradients of diagonal and bias are expert_parts and expert_sum. Not yet measured.
struct ExpertRows { ExpertGrad of; u32 wants_low; u32 wants_shared; u32 wants_v; };
KERNEL_OF(4) expert_grad(const float* dexperts, const float* ddelta, const float* __restrict__ v,
                   const float* __restrict__ diagonal, const u32* __restrict__ table, float* dlow,
                   float* __restrict__ dshared, float* __restrict__ dv, float* __restrict__ sums, const u32* counts,
                   ExpertRows p) {
    const Experts& of = p.of.of;
    u32 cols = of.cols;
    each_row(of.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> of_shared = {}, of_v = {};
            for (u32 slot = row * of.slots; slot < (row + 1) * of.slots; slot++) {
                u32 at = slot * cols + c, e = of.of(table, slot);
                Pack<W> direct = {}, d = {}, by = {};
                if (p.of.has_dexperts == 1) direct = load<W>(dexperts, at);
                if (p.of.has_ddelta == 1) d = load<W>(ddelta, at);
                if (e < of.experts) by = load<W>(diagonal, e * cols + c);
#pragma unroll
                for (u32 k = 0; k < W; k++) {
                    d.at[k] += direct.at[k];
                    of_shared.at[k] += d.at[k];
                    of_v.at[k] = fmaf(by.at[k], d.at[k], of_v.at[k] + direct.at[k]);
                }
                if (p.wants_low == 1) store<W>(dlow, at, d);
            }
            if (p.wants_shared == 1) store<W>(dshared, row * cols + c, of_shared);
            if (p.wants_v == 1) store<W>(dv, row * cols + c, of_v);
        }
    });
}

// gram: y[r, s, t] = <e[r, s], e[r, t]>.
// Floor: 4 bytes an element of e; bound by bandwidth up to some 20 slots, if a row is read once: its further readings
// come from cache.
// Layout: a warp a row; a pair of slots at a time. A pair and its mirror are one product. Not yet measured on a GPU.
// To try: four pairs at a time, which share what they read.
struct Gram { Size rows; u32 cols; u32 slots; };
KERNEL gram(const float* __restrict__ e, float* __restrict__ y, const u32* counts, Gram p) {
    u32 k = p.slots;
    each_row(p.rows(counts), p.cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        for (u32 s = 0; s < k; s++) {
            for (u32 t = s; t < k; t++) {
                u32 left = (row * k + s) * p.cols, right = (row * k + t) * p.cols;
                float part = 0.0f;
#pragma unroll 4
                for (u32 c = W * lane_index(); c < p.cols; c += W * WARP) {
                    Pack<W> a = load<W>(e, left + c), b = load<W>(e, right + c);
#pragma unroll
                    for (u32 i = 0; i < W; i++) part = fmaf(a.at[i], b.at[i], part);
                }
                float product = warp_sum(part);
                if (lane_index() == 0) {
                    y[(row * k + s) * k + t] = product;
                    y[(row * k + t) * k + s] = product;
                }
            }
        }
    });
}

// gram_grad: de[r, s] = sum over t of (dG[s, t] + dG[t, s]) e[r, t].
// Floor: 8 bytes an element of e; bound by bandwidth for few slots.
// Layout: a warp a slot of a row; the row's other slots come from cache. Not yet measured on a GPU.
KERNEL gram_grad(const float* __restrict__ e, const float* __restrict__ dgram, float* __restrict__ de, const u32* counts,
                 Gram p) {
    u32 k = p.slots;
    each_row(p.rows(counts) * k, p.cols, [&](auto width, u32 slot) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 s = slot % k, first = slot - s;
        for (u32 c = W * lane_index(); c < p.cols; c += W * WARP) {
            Pack<W> sum = {};
            for (u32 t = 0; t < k; t++) {
                float by = dgram[slot * k + t] + dgram[(first + t) * k + s];
                Pack<W> in = load<W>(e, (first + t) * p.cols + c);
#pragma unroll
                for (u32 i = 0; i < W; i++) sum.at[i] = fmaf(by, in.at[i], sum.at[i]);
            }
            store<W>(de, slot * p.cols + c, sum);
        }
    });
}

// The least product of two squared norms whose slots have a direction.
constexpr float SHORTEST = 1e-12f;

// decorrelate_parts: for every part of `part` rows the sum of the squared cosines of their ordered pairs of slots: the
// first stage of their mean.
// Floor: 4 bytes an element of the Gram matrices; bound by bandwidth.
// Layout: a block a part, a thread a row of it, then the block folds. Not yet measured on a GPU.
struct DecorrelateParts { Size rows; u32 slots; u32 part; };
KERNEL decorrelate_parts(const float* __restrict__ gram, float* __restrict__ sums, const u32* counts,
                         DecorrelateParts p) {
    __shared__ Folds folds;
    Block block(folds);
    u32 rows = p.rows(counts), k = p.slots;
    u32 parts = (rows + p.part - 1) / p.part;
    for (u32 part = blockIdx.x; part < parts; part += gridDim.x) {
        float sum = 0.0f;
        for (u32 row = part * p.part + threadIdx.x; row < min(rows, (part + 1) * p.part); row += THREADS) {
            const float* g = gram + row * k * k;
            for (u32 i = 0; i < k * k; i++) {
                u32 s = i / k, t = i - s * k;
                float product = g[s * (k + 1)] * g[t * (k + 1)];
                // A NaN is not small: it must reach the loss.
                if (s != t && !(product <= SHORTEST)) sum += g[i] * g[i] / product;
            }
        }
        sum = block.sum(sum);
        if (threadIdx.x == 0) sums[part] = sum;
    }
}

// decorrelate_grad: the gradient of the mean squared cosine for each element of the Gram matrices.
// Floor: 8 bytes an element; bound by bandwidth. A thread an element; those on the diagonal look at all pairs of their
// slot. Not yet measured on a GPU.
struct DecorrelateGrad { Size rows; u32 slots; };
KERNEL decorrelate_grad(const float* __restrict__ gram, const float* __restrict__ dloss, float* __restrict__ dgram,
                        const u32* counts, DecorrelateGrad p) {
    u32 rows = p.rows(counts), k = p.slots;
    if (rows == 0) return;
    float by = dloss[0] / static_cast<float>(max(rows * k * (k - 1), 1u));
    for (u32 item = thread_index(); item < rows * k * k; item += thread_count()) {
        u32 row = item / (k * k), s = (item - row * k * k) / k, column = item % k;
        const float* g = gram + row * k * k;
        float own = g[s * (k + 1)], d = 0.0f;
        for (u32 t = 0; t < k; t++) {
            float product = own * g[t * (k + 1)];
            if (t == s || product <= SHORTEST) continue;
            float dot = g[s * k + t], mirror = g[t * k + s];
            if (column == t) d = 2.0f * by * dot / product;
            if (column == s) d -= by * (dot * dot + mirror * mirror) / product / own;
        }
        dgram[item] = d;
    }
}
