// Packed rows: sums, means and last rows of segments, and the soft-max within each.
#include "common.cuh"

// A stretch of rows.
struct Rows {
    u32 begin, end;
    __device__ bool has(u32 row) const { return begin <= row && row < end; }
};

// The table of segments: (begin, end) of packed rows, clamped to the rows there are.
struct Segments {
    const u32* __restrict__ table;
    u32 rows, n, tail;

    // All rows of segment i.
    __device__ Rows whole(u32 i) const {
        uint2 row = reinterpret_cast<const uint2*>(table)[i];
        u32 begin = min(row.x, rows);
        return {begin, max(min(row.y, rows), begin)};
    }
    // The rows of segment i that take part: all but the last `tail`.
    __device__ Rows members(u32 i) const {
        Rows all = whole(i);
        return {all.begin, all.end - min(tail, all.end - all.begin)};
    }
    // The first segment that ends behind `row`, by bisection, or the number of segments.
    __device__ u32 at(u32 row) const {
        u32 low = 0, high = n;
        while (low < high) {
            u32 middle = (low + high) / 2;
            if (table[2 * middle + 1] <= row) low = middle + 1;
            else high = middle;
        }
        return low;
    }
};

// segment_reduce: y[n] = sum (0), mean (1) or last row (2) of segment n; 0 for an empty one.
// Floor: 4 bytes an element of x; bound by bandwidth.
// Layout: a thread a column of a segment; neighbours read neighbouring columns. Not yet measured on a GPU. To try: four
// columns a thread.
struct SegmentReduce { Size rows; Size n; u32 cols; u32 kind; u32 tail; };
KERNEL segment_reduce(
    const float* __restrict__ x, const u32* __restrict__ segments, float* __restrict__ y, const u32* counts,
    SegmentReduce p
) {
    Segments table = {segments, p.rows(counts), p.n(counts), p.tail};
    u32 items = table.n * p.cols;
    for (u32 item = thread_index(); item < items; item += thread_count()) {
        u32 i = item / p.cols, c = item - i * p.cols;
        Rows rows = table.members(i);
        if (p.kind == 2) {
            Rows all = table.whole(i);
            rows = {max(all.end, all.begin + 1) - 1, all.end};
        }
        float sum = 0.0f;
#pragma unroll 4
        for (u32 row = rows.begin; row < rows.end; row++) sum += x[row * p.cols + c];
        if (p.kind == 1) sum /= static_cast<float>(max(rows.end - rows.begin, 1u));
        y[item] = sum;
    }
}

// segment_spread: x[r] = y[n] (divided by the number of rows for a mean) where row r takes part in segment n, else 0.
// Floor: 4 bytes an element of x; bound by bandwidth.
// Layout: a warp a row; every lane finds the row's segment by bisection in a table that stays cached.
// Not yet measured on a GPU.
struct SegmentSpread { Size rows; Size n; u32 cols; u32 kind; u32 tail; };
KERNEL segment_spread(
    const float* __restrict__ y, const u32* __restrict__ segments, float* __restrict__ x, const u32* counts,
    SegmentSpread p
) {
    Segments table = {segments, p.rows(counts), p.n(counts), p.tail};
    each_row(table.rows, p.cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 segment = table.at(row);
        float share = 0.0f;
        if (segment < table.n) {
            Rows rows = table.members(segment);
            bool takes_part = p.kind == 2 ? row + 1 == table.whole(segment).end : rows.has(row);
            float number = static_cast<float>(max(rows.end - rows.begin, 1u));
            if (takes_part) share = p.kind == 1 ? 1.0f / number : 1.0f;
        }
        for (u32 c = W * lane_index(); c < p.cols; c += W * WARP) {
            Pack<W> out = {};
            if (share > 0.0f) {
                out = load<W>(y, segment * p.cols + c);
#pragma unroll
                for (u32 k = 0; k < W; k++) out.at[k] *= share;
            }
            store<W>(x, row * p.cols + c, out);
        }
    });
}

// Lanes that share a segment of some dozen rows.
constexpr u32 TEAM = 8;

__device__ inline float team_sum(float x) {
#pragma unroll
    for (u32 mask = TEAM / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(ALL, x, mask);
    return x;
}

__device__ inline float team_max(float x) {
#pragma unroll
    for (u32 mask = TEAM / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, mask));
    return x;
}

// out[i] = f(rows of segment i that take part, lane of the team) for each segment, by teams; all lanes of a warp call f
// together, those behind the last segment with no rows.
template <class F>
__device__ inline void each_segment(Segments table, float* out, F f) {
    constexpr u32 TEAMS = WARP / TEAM;
    for (u32 first = warp_index() * TEAMS; first < table.n; first += warp_count() * TEAMS) {
        u32 i = first + lane_index() / TEAM, lane = lane_index() % TEAM;
        Rows rows = {0, 0};
        if (i < table.n) rows = table.members(i);
        float value = f(rows, lane);
        if (i < table.n && lane == 0) out[i] = value;
    }
}

// segment_lse: the log-sum-exp of the rows of each segment that take part; -1e30 where there are none.
// Floor: 4 bytes a row; bound by latency at our sizes (some thousand rows).
// Layout: 8 lanes a segment, which read 8 neighbours at once. Not yet measured on a GPU.
struct SegmentLse { Size rows; Size n; u32 tail; };
KERNEL segment_lse(
    const float* __restrict__ x, const u32* __restrict__ segments, float* __restrict__ lse, const u32* counts,
    SegmentLse p
) {
    Segments table = {segments, p.rows(counts), p.n(counts), p.tail};
    each_segment(table, lse, [x](Rows rows, u32 lane) {
        float largest = FLOOR, sum = 0.0f;
        for (u32 row = rows.begin + lane; row < rows.end; row += TEAM) largest = fmaxf(largest, x[row]);
        largest = team_max(largest);
        for (u32 row = rows.begin + lane; row < rows.end; row += TEAM) sum += expf(x[row] - largest);
        sum = team_sum(sum);
        return rows.begin < rows.end ? largest + logf(sum) : FLOOR;
    });
}

// segment_total: the sum of dy over the rows of each segment that take part.
// Floor: 4 bytes a row; bound by latency at our sizes (some thousand rows).
// Layout: 8 lanes a segment, as in segment_lse. Not yet measured on a GPU.
struct SegmentTotal { Size rows; Size n; u32 tail; };
KERNEL segment_total(
    const float* __restrict__ dy, const u32* __restrict__ segments, float* __restrict__ total, const u32* counts,
    SegmentTotal p
) {
    Segments table = {segments, p.rows(counts), p.n(counts), p.tail};
    each_segment(table, total, [dy](Rows rows, u32 lane) {
        float sum = 0.0f;
        for (u32 row = rows.begin + lane; row < rows.end; row += TEAM) sum += dy[row];
        return team_sum(sum);
    });
}

// y[row] = f(row, segment) where the row takes part in a segment, else `outside`: a thread a row, which finds its
// segment by bisection in a table that stays cached.
template <class F>
__device__ inline void each_member(Segments table, float* y, float outside, F f) {
    for (u32 row = thread_index(); row < table.rows; row += thread_count()) {
        u32 segment = table.at(row);
        bool takes_part = segment < table.n && table.members(segment).has(row);
        y[row] = takes_part ? f(row, segment) : outside;
    }
}

// segment_log_softmax: y = x - lse of its segment; -1e30 in rows that take no part. y may lie in x's place.
// Floor: 8 bytes a row; bound by bandwidth. Not yet measured on a GPU.
struct SegmentLogSoftmax { Size rows; Size n; u32 tail; };
KERNEL segment_log_softmax(
    const float* x, const u32* __restrict__ segments, const float* __restrict__ lse, float* y, const u32* counts,
    SegmentLogSoftmax p
) {
    Segments table = {segments, p.rows(counts), p.n(counts), p.tail};
    each_member(table, y, FLOOR, [=](u32 row, u32 segment) { return x[row] - lse[segment]; });
}

// segment_log_softmax_grad: dx = dy - exp(y) total of its segment; 0 in rows that take no part. dx may lie in dy's
// place.
// Floor: 12 bytes a row; bound by bandwidth. Not yet measured on a GPU.
struct SegmentLogSoftmaxGrad { Size rows; Size n; u32 tail; };
KERNEL segment_log_softmax_grad(
    const float* __restrict__ y, const float* dy, const u32* __restrict__ segments, const float* __restrict__ total,
    float* dx, const u32* counts, SegmentLogSoftmaxGrad p
) {
    Segments table = {segments, p.rows(counts), p.n(counts), p.tail};
    each_member(table, dx, 0.0f, [=](u32 row, u32 segment) { return dy[row] - expf(y[row]) * total[segment]; });
}
