// What nvcc makes of ordinary code: sample.ptx is this file, compiled and not touched but for its version line.
//   nvcc -ptx -O3 -std=c++17 -arch=compute_80 sample.cu -o sample.ptx   (13.0.88; .version 9.0 -> 7.1)
typedef unsigned int u32;

__device__ float block_sum(float x, float* parts) {
    for (u32 mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (u32 i = 0; i < blockDim.x / 32; i++) sum += parts[i];
    __syncthreads();
    return sum;
}

// A block a row: y = softmax(x), z = log of the sum of exponentials.
extern "C" __global__ void __launch_bounds__(256) soft_max(const float* x, float* y, float* z, u32 cols) {
    __shared__ float parts[8];
    const float* row = x + blockIdx.x * cols;
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < cols; c += blockDim.x) sum += expf(row[c]);
    sum = block_sum(sum, parts);
    for (u32 c = threadIdx.x; c < cols; c += blockDim.x) y[blockIdx.x * cols + c] = expf(row[c]) / sum;
    if (threadIdx.x == 0) z[blockIdx.x] = logf(sum);
}

// Functions by number, one thread an element.
extern "C" __global__ void functions(const float* x, float* y, u32 n, u32 kind) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    switch (kind) {
        case 0: v = tanhf(v); break;
        case 1: v = sqrtf(fabsf(v)); break;
        case 2: v = sinf(v) + cosf(v); break;
        case 3: v = powf(fabsf(v), 1.5f); break;
        case 4: v = erff(v); break;
        case 5: v = log1pf(fabsf(v)); break;
        case 6: v = fmodf(v, 0.7f); break;
        case 7: v = rsqrtf(fabsf(v)); break;
        case 8: v = __fdividef(v, 3.0f) + __expf(v); break;
        default: v = floorf(v) + truncf(v) + rintf(v) + roundf(v);
    }
    y[i] = v;
}

// Transposes 32 x 32 tiles of a square matrix, and counts the bytes of its elements.
extern "C" __global__ void __launch_bounds__(256) transpose(const u32* x, u32* y, u32* histogram, u32 n) {
    __shared__ u32 tile[32][33];
    __shared__ u32 counts[256];
    counts[threadIdx.x] = 0;
    __syncthreads();
    u32 row = blockIdx.x / (n / 32) * 32, col = blockIdx.x % (n / 32) * 32;
    for (u32 i = threadIdx.x; i < 1024; i += 256) {
        u32 v = x[(row + i / 32) * n + col + i % 32];
        tile[i / 32][i % 32] = v;
        atomicAdd(&counts[v >> 24], 1u);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < 1024; i += 256) y[(col + i / 32) * n + row + i % 32] = tile[i % 32][i / 32];
    atomicAdd(&histogram[threadIdx.x], counts[threadIdx.x]);
}

// An array that has to live in local memory, vector loads, and 64-bit arithmetic.
extern "C" __global__ void mixed(const float4* x, float* y, unsigned long long* z, u32 step) {
    float a[16];
    for (u32 i = 0; i < 4; i++) {
        float4 v = x[threadIdx.x * 4 + i];
        a[4 * i] = v.x;
        a[4 * i + 1] = v.y;
        a[4 * i + 2] = v.z;
        a[4 * i + 3] = v.w;
    }
    for (u32 i = 0; i < 40; i++) a[i * step & 15] += a[(i + 1) * step & 15];
    y[threadIdx.x] = a[step & 15] + a[7];
    unsigned long long k = 0x123456789abcdefull * (threadIdx.x + 1);
    z[threadIdx.x] = k / (step + 3) + k % 1000003 + (k >> 7) + __umul64hi(k, k) + __popcll(k) + __clzll(k);
}
