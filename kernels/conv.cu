// Depthwise temporal convolution over packed segments, and its gradients. A warp takes a row, a lane four neighbouring
// columns, or one where rows are not a multiple of 4 long.
#include "common.cuh"

// Rows [begin, end) of a segment; none where both are 0.
struct Rows { u32 begin, end; };

struct Filter {
    const u32* __restrict__ segments;
    u32 rows, n, width;

    // The rows of the segment that a row lies in: the first that ends behind it, by bisection in a table that stays
    // cached.
    __device__ Rows segment_of(u32 row) const {
        u32 low = 0, high = n;
        while (low < high) {
            u32 middle = (low + high) / 2;
            if (segments[2 * middle + 1] <= row) low = middle + 1;
            else high = middle;
        }
        if (low >= n || segments[2 * low] > row) return {0, 0};
        return {segments[2 * low], min(segments[2 * low + 1], rows)};
    }
    // The row that tap w reads for a row of a segment.
    __device__ u32 tap(u32 row, u32 w, Rows mine) const {
        u32 half = width / 2;
        return min(max(max(row + w, half) - half, mine.begin), mine.end - 1);
    }
    // The rows of the segment whose tap w reads this one: one, and for the first and last row also those for which the
    // filter reaches beyond the segment.
    __device__ Rows readers(u32 row, u32 w, Rows mine) const {
        if (mine.begin >= mine.end) return {0, 0};
        u32 same = row + width / 2;
        u32 begin = max(same, mine.begin + w) - w;
        u32 end = max(min(same + 1, mine.end + w), w) - w;
        if (row == mine.begin) begin = mine.begin;
        if (row + 1 == mine.end) end = mine.end;
        return {begin, end};
    }
};

template <u32 W>
__device__ inline void add_product(Pack<W>& sum, Pack<W> a, Pack<W> b) {
#pragma unroll
    for (u32 k = 0; k < W; k++) sum.at[k] = fmaf(a.at[k], b.at[k], sum.at[k]);
}

// conv: y[t] = bias + sum over the taps w of weight[w] x[t + w - width / 2], the row clamped to the segment of t; 0 in
// rows that lie in no segment.
// Floor: 8 bytes an element; bound by bandwidth: neighbouring rows are read from cache, and so is the filter.
// Not yet measured on a GPU; predicted on an H200 for 1024 x 64 x 512 and 5 taps: 60 % of the bandwidth, bound by the
// second-level cache. To try: a warp keeps a window of rows in registers and goes down a segment.
struct Conv { Size rows; Size n; u32 cols; u32 width; u32 biased; };
KERNEL conv(
    const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
    const u32* __restrict__ segments, float* __restrict__ y, const u32* counts, Conv p
) {
    Filter filter = {segments, p.rows(counts), p.n(counts), p.width};
    each_row(filter.rows, p.cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        Rows mine = filter.segment_of(row);
        for (u32 c = W * lane_index(); c < p.cols; c += W * WARP) {
            Pack<W> sum = {};
            if (mine.begin < mine.end) {
                if (p.biased == 1) sum = load<W>(bias, c);
                for (u32 w = 0; w < p.width; w++) {
                    u32 other = filter.tap(row, w, mine);
                    add_product<W>(sum, load<W>(weight, w * p.cols + c), load<W>(x, other * p.cols + c));
                }
            }
            store<W>(y, row * p.cols + c, sum);
        }
    });
}

// conv_dx: dx[s] = sum over the taps w and the rows t that read row s by them of weight[w] dy[t].
// Floor: 8 bytes an element; bound by bandwidth. Not yet measured on a GPU.
struct ConvDx { Size rows; Size n; u32 cols; u32 width; };
KERNEL conv_dx(
    const float* __restrict__ dy, const float* __restrict__ weight, const u32* __restrict__ segments,
    float* __restrict__ dx, const u32* counts, ConvDx p
) {
    Filter filter = {segments, p.rows(counts), p.n(counts), p.width};
    each_row(filter.rows, p.cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        Rows mine = filter.segment_of(row);
        for (u32 c = W * lane_index(); c < p.cols; c += W * WARP) {
            Pack<W> sum = {};
            for (u32 w = 0; w < p.width; w++) {
                Rows from = filter.readers(row, w, mine);
                for (u32 t = from.begin; t < from.end; t++) {
                    add_product<W>(sum, load<W>(weight, w * p.cols + c), load<W>(dy, t * p.cols + c));
                }
            }
            store<W>(dx, row * p.cols + c, sum);
        }
    });
}

// conv_dw: for every part of `part` rows the sums of dy[t] x[the row that tap w reads for t], and of dy: the first stage
// of the gradients of filter and bias.
// Floor: 8 bytes an element, 2 width FLOPs; bound by bandwidth: a row of x is read from cache by all taps.
// Layout: a block takes 64 columns of a part; strip s of its threads has the taps s, s + 4, …, of which the one behind
// the last is the bias; filters[part][tap][column], biases[part][column]. Not yet measured on a GPU.
struct ConvDw { Size rows; Size n; u32 cols; u32 width; u32 part; u32 parts; };
KERNEL conv_dw(
    const float* __restrict__ x, const float* __restrict__ dy, const u32* __restrict__ segments,
    float* __restrict__ filters, float* __restrict__ biases, const u32* counts, ConvDw p
) {
    Filter filter = {segments, p.rows(counts), p.n(counts), p.width};
    for (u32 part = blockIdx.y; part < p.parts; part += gridDim.y) {
        u32 end = min(filter.rows, (part + 1) * p.part);
        for (u32 c = blockIdx.x * COLUMNS + column_index(); c < p.cols; c += gridDim.x * COLUMNS) {
            for (u32 w = strip_index(); w <= p.width; w += STRIPS) {
                float sum = 0.0f;
                Rows mine = {0, 0};
                for (u32 row = part * p.part; row < end; row++) {
                    if (row >= mine.end) mine = filter.segment_of(row);
                    if (row >= mine.begin && row < mine.end) {
                        float other = w < p.width ? x[filter.tap(row, w, mine) * p.cols + c] : 1.0f;
                        sum = fmaf(dy[row * p.cols + c], other, sum);
                    }
                }
                if (w < p.width) filters[(part * p.width + w) * p.cols + c] = sum;
                else biases[part * p.cols + c] = sum;
            }
        }
    }
}
