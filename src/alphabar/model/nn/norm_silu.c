/* SiLU of a GroupNorm of x + shift, and its gradients, each in two passes over an image; norm_silu.py says of what.

   Images are [positions, C] of float32. A pass takes BLOCK positions at a time, so that sums over positions stay in
   registers and what is read once more is still near. */

#include <math.h>
#include <stdint.h>

#include "vectors.h"

#define BLOCK 16

typedef int32_t ivec __attribute__((vector_size(4 * WIDE)));
typedef double doubles __attribute__((vector_size(8 * WIDE)));
typedef double loose_doubles __attribute__((vector_size(8 * WIDE), aligned(8), may_alias));

/* What all are given: the images' number, positions, channels and groups, and what is one value for each channel, or
   (`mean`, `rate`) for each channel of an image. */
typedef struct {
    ptrdiff_t n, positions, channels, groups, shift_apart;
    const float *weight, *bias, *shift;
    float *mean, *rate;
} norm;

/* 1 / (1 + exp(-z)): exp is 2^n times a polynomial of what remains, to 3e-9 of its size. */
INLINE vec sigmoid(vec z) {
    const float ROUND = 12582912.0f; /* 1.5 * 2^23: added and taken away again, it leaves a whole number */
    const ivec too_low = z < -87.0f, too_high = z > 87.0f;
    const vec most = (vec){0} + 87.0f;
    const vec x = (vec)((~(too_low | too_high) & (ivec)-z) | (too_low & (ivec)most) | (too_high & (ivec)-most));
    const vec shifted = x * 1.44269504f + ROUND, n = shifted - ROUND;
    const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    const vec q = 0.49999993f + r * (0.16666521f + r * (0.04166839f + r * (0.00836872f + r * 0.00138146f)));
    const vec e = (vec)((ivec)(1 + r + r * r * q) + ((ivec)shifted << 23));
    return 1 / (1 + e);
}

/* `work` on vectors of the channels of an image from c0 to c1, a block of positions at a time: from p on, so many. */
#define EACH_BLOCK(work, ...)                                                                                          \
    for (ptrdiff_t p = 0; p < P; p += BLOCK)                                                                           \
        for (ptrdiff_t k = c0; k < c1; k += WIDE) work(k, p, C, P - p < BLOCK ? P - p : BLOCK, __VA_ARGS__)

/* The mean, and the sum of squares about it, of this block and of what came before it (Chan, Golub and LeVeque 1979). */
INLINE void add_up(ptrdiff_t k, ptrdiff_t before, ptrdiff_t C, ptrdiff_t block, const float *x, double *means,
                   double *squares) {
    const float *from = x + before * C + k;
    vec sum = {0}, about = {0};
    for (ptrdiff_t p = 0; p < block; p++) sum += load(from + p * C);
    const vec own = sum / (float)block;
    for (ptrdiff_t p = 0; p < block; p++) {
        const vec d = load(from + p * C) - own;
        about += d * d;
    }
    doubles mean = *(const loose_doubles *)(means + k);
    const doubles apart = __builtin_convertvector(own, doubles) - mean;
    const double share = (double)block / (double)(before + block);
    *(loose_doubles *)(means + k) = mean + apart * share;
    *(loose_doubles *)(squares + k) += __builtin_convertvector(about, doubles) + apart * apart * (share * (double)before);
}

INLINE void apply(ptrdiff_t k, ptrdiff_t first, ptrdiff_t C, ptrdiff_t block, const float *x, const norm *of,
                  const float *mean, const float *rate, float *y) {
    const ptrdiff_t at = first * C + k;
    const vec m = load(mean + k), r = load(rate + k) * load(of->weight + k), bias = load(of->bias + k);
    for (ptrdiff_t p = 0; p < block; p++) {
        const vec z = (load(x + at + p * C) - m) * r + bias;
        store(y + at + p * C, z * sigmoid(z));
    }
}

/* The channels of an image from c0 to c1, which are whole groups. */
static void forward(const norm *of, ptrdiff_t n, ptrdiff_t c0, ptrdiff_t c1, double eps, const float *x, float *y,
                    double *means, double *squares) {
    const ptrdiff_t C = of->channels, P = of->positions, size = C / of->groups;
    const float *shift = of->shift ? of->shift + n * of->shift_apart : NULL;
    float *mean = of->mean + n * C, *rate = of->rate + n * C;
    for (ptrdiff_t c = c0; c < c1; c++) means[c] = squares[c] = 0;
    EACH_BLOCK(add_up, x, means, squares);
    for (ptrdiff_t g = c0; g < c1; g += size) {
        double all = 0, square = 0;
        for (ptrdiff_t c = g; c < g + size; c++) all += means[c] + (shift ? shift[c] : 0);
        all /= size;
        for (ptrdiff_t c = g; c < g + size; c++) {
            const double apart = means[c] + (shift ? shift[c] : 0) - all;
            square += squares[c] / (double)P + apart * apart;
        }
        for (ptrdiff_t c = g; c < g + size; c++) {
            mean[c] = (float)(all - (shift ? shift[c] : 0));
            rate[c] = (float)(1 / sqrt(square / size + eps));
        }
    }
    EACH_BLOCK(apply, x, of, mean, rate, y);
}

/* The gradient of z into `out`, and its sums, with x normalised and without, into of_weight and of_bias. */
INLINE void gradient_of_silu(ptrdiff_t k, ptrdiff_t first, ptrdiff_t C, ptrdiff_t block, const float *x,
                             const float *g, const norm *of, const float *mean, const float *rate, float *of_weight,
                             float *of_bias, float *out) {
    const ptrdiff_t at = first * C + k;
    const vec m = load(mean + k), r = load(rate + k), weight = load(of->weight + k), bias = load(of->bias + k);
    vec with = {0}, sum = {0};
    for (ptrdiff_t p = 0; p < block; p++) {
        const vec normal = (load(x + at + p * C) - m) * r, z = normal * weight + bias, gate = sigmoid(z);
        const vec d = load(g + at + p * C) * (gate * (1 + z * (1 - gate)));
        with += d * normal, sum += d;
        store(out + at + p * C, d);
    }
    store(of_weight + k, load(of_weight + k) + with), store(of_bias + k, load(of_bias + k) + sum);
}

/* From the gradient of z to that of x, in place, and its sum into of_shift. */
INLINE void gradient_of_norm(ptrdiff_t k, ptrdiff_t first, ptrdiff_t C, ptrdiff_t block, const float *x,
                             const norm *of, const float *mean, const float *rate, const float *along,
                             const float *level, float *of_shift, float *out) {
    const ptrdiff_t at = first * C + k;
    const vec m = load(mean + k), r = load(rate + k), weight = r * load(of->weight + k);
    const vec a = r * r * load(along + k), b = r * load(level + k);
    vec sum = {0};
    for (ptrdiff_t p = 0; p < block; p++) {
        const vec d = load(out + at + p * C) * weight - (load(x + at + p * C) - m) * a - b;
        sum += d;
        store(out + at + p * C, d);
    }
    store(of_shift + k, load(of_shift + k) + sum);
}

static void backward(const norm *of, ptrdiff_t n, ptrdiff_t c0, ptrdiff_t c1, const float *x, const float *g,
                     float *out, float *of_weight, float *of_bias, float *of_shift, float *along, float *level) {
    const ptrdiff_t C = of->channels, P = of->positions, size = C / of->groups;
    const float *mean = of->mean + n * C, *rate = of->rate + n * C;
    for (ptrdiff_t c = c0; c < c1; c++) of_weight[c] = of_bias[c] = of_shift[c] = 0;
    EACH_BLOCK(gradient_of_silu, x, g, of, mean, rate, of_weight, of_bias, out);
    for (ptrdiff_t first = c0; first < c1; first += size) {
        double a = 0, b = 0;
        for (ptrdiff_t c = first; c < first + size; c++) {
            a += (double)of_weight[c] * of->weight[c];
            b += (double)of_bias[c] * of->weight[c];
        }
        for (ptrdiff_t c = first; c < first + size; c++) {
            along[c] = (float)(a / (size * P));
            level[c] = (float)(b / (size * P));
        }
    }
    EACH_BLOCK(gradient_of_norm, x, of, mean, rate, along, level, of_shift, out);
}

/* Of every image and of each of `parts` of its channels, which are whole groups and vectors; n and c0 are its own. */
#define EACH_PART(work, ...)                                                                                           \
    const ptrdiff_t C = of->channels, each = C / parts, apart = of->positions * C;                                     \
    _Pragma("omp parallel for num_threads(threads)")                                                                   \
    for (ptrdiff_t i = 0; i < of->n * parts; i++) {                                                                    \
        const ptrdiff_t n = i / parts, c0 = i % parts * each;                                                          \
        work(of, n, c0, c0 + each, __VA_ARGS__);                                                                       \
    }

/* y [n, positions, C], and mean and rate [n, C], with which y = SiLU((x - mean) rate weight + bias); `room` is
   [n, 2, C]. */
void norm_silu(const norm *of, double eps, const float *x, float *y, double *room, ptrdiff_t parts, int threads) {
    EACH_PART(forward, eps, x + n * apart, y + n * apart, room + 2 * n * C, room + (2 * n + 1) * C)
}

/* The gradients of x [n, positions, C], and of weight, bias and shift, image by image [n, C]; `room` is [n, 2, C]. */
void norm_silu_gradient(const norm *of, const float *x, const float *g, float *of_x, float *of_weight, float *of_bias,
                        float *of_shift, float *room, ptrdiff_t parts, int threads) {
    EACH_PART(backward, x + n * apart, g + n * apart, of_x + n * apart, of_weight + n * C, of_bias + n * C,
              of_shift + n * C, room + 2 * n * C, room + (2 * n + 1) * C)
}
