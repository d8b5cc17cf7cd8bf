/* The sums of Winograd's F(4x4, 3x3), each in one pass over memory; winograd_sums.py has the same in torch.

   Tensors are float32 with channels innermost; "tiles" are counted image by image, row by row. Channels are worked on
   16 at a time, and the last few of them in a vector that is filled up with zeros. */

#include <stddef.h>
#include <string.h>

#define WIDE 16
#define POINTS 6
#define TILE 4

typedef float vec __attribute__((vector_size(4 * WIDE)));

#define INLINE static inline __attribute__((always_inline))

INLINE void load(vec *to, const float *from, size_t some) {
    if (some == WIDE) {
        memcpy(to, from, sizeof(vec));
    } else {
        *to = (vec){0};
        memcpy(to, from, sizeof(float) * some);
    }
}

INLINE void store(float *to, const vec *from, size_t some) {
    memcpy(to, from, some == WIDE ? sizeof(vec) : sizeof(float) * some);
}

/* One axis at a time: `d`, `o` are arrays whose elements lie `s`, `t` apart. */

INLINE void to_points(const vec *d, int s, vec *o, int t) {
    vec even = d[4 * s] - 4 * d[2 * s], odd = d[3 * s] - 4 * d[s];
    vec near = d[4 * s] - d[2 * s], far = 2 * (d[3 * s] - d[s]);
    o[0] = 4 * d[0] - 5 * d[2 * s] + d[4 * s];
    o[t] = even + odd;
    o[2 * t] = even - odd;
    o[3 * t] = near + far;
    o[4 * t] = near - far;
    o[5 * t] = 4 * d[s] - 5 * d[3 * s] + d[5 * s];
}

/* Four of the six: the first and the last, 4 v[0] and v[5], lie in the tiles beside this one. */
INLINE void from_points(const vec *v, int s, vec *o, int t) {
    vec near = v[2 * s] - v[s], far = v[4 * s] - v[3 * s];
    vec sum = v[s] + v[2 * s], more = v[3 * s] + v[4 * s];
    o[0] = 4 * near + 2 * far + 4 * v[5 * s];
    o[t] = -5 * v[0] - 4 * sum - more;
    o[2 * t] = -near - 2 * far - 5 * v[5 * s];
    o[3 * t] = v[0] + sum + more;
}

INLINE void to_positions(const vec *m, int s, vec *o, int t) {
    vec sum = m[s] + m[2 * s], more = m[3 * s] + m[4 * s];
    vec near = m[s] - m[2 * s], far = m[3 * s] - m[4 * s];
    o[0] = m[0] + sum + more;
    o[t] = near + 2 * far;
    o[2 * t] = sum + 4 * more;
    o[3 * t] = near + 8 * far + m[5 * s];
}

INLINE void from_positions(const vec *y, int s, vec *o, int t) {
    vec even = y[0] + y[2 * s], odd = y[s] + y[3 * s];
    vec far_even = y[0] + 4 * y[2 * s], far_odd = 2 * y[s] + 8 * y[3 * s];
    o[0] = y[0];
    o[t] = even + odd;
    o[2 * t] = even - odd;
    o[3 * t] = far_even + far_odd;
    o[4 * t] = far_even - far_odd;
    o[5 * t] = y[3 * s];
}

INLINE void kernel_to_points(const vec *g, int s, vec *o, int t) {
    vec near = g[0] + g[2 * s], far = g[0] + 4 * g[2 * s];
    o[0] = g[0] * (1.0f / 4);
    o[t] = (near + g[s]) * (-1.0f / 6);
    o[2 * t] = (g[s] - near) * (1.0f / 6);
    o[3 * t] = (far + 2 * g[s]) * (1.0f / 24);
    o[4 * t] = (far - 2 * g[s]) * (1.0f / 24);
    o[5 * t] = g[2 * s];
}

INLINE void kernel_from_points(const vec *u, int s, vec *o, int t) {
    vec near = u[s] + u[2 * s], far = u[3 * s] + u[4 * s];
    o[0] = u[0] * (1.0f / 4) - near * (1.0f / 6) + far * (1.0f / 24);
    o[t] = (u[2 * s] - u[s]) * (1.0f / 6) + (u[3 * s] - u[4 * s]) * (1.0f / 12);
    o[2 * t] = (far - near) * (1.0f / 6) + u[5 * s];
}

/* What all of them are given of the images: their number and size, and how far apart images, rows and columns lie. */
typedef struct {
    ptrdiff_t n, height, width, channels, apart, rows_apart, columns_apart;
} images;

static inline ptrdiff_t tiles_of(ptrdiff_t side) { return (side + TILE - 1) / TILE; }

/* Where the positions of a square of an image lie, from (top, at) on; outside of it `known` is 0, and so is `from`. */
typedef struct {
    const float *from[POINTS * POINTS];
    ptrdiff_t known[POINTS * POINTS];
} square;

static const float ZEROS[WIDE];

static square cut(const images *of, const float *image, ptrdiff_t top, ptrdiff_t at, int size) {
    square found;
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++) {
            const ptrdiff_t h = top + i, w = at + j;
            const int inside = h >= 0 && w >= 0 && h < of->height && w < of->width;
            found.from[i * size + j] = inside ? image + h * of->rows_apart + w * of->columns_apart : ZEROS;
            found.known[i * size + j] = inside ? -1 : 0;
        }
    return found;
}

INLINE void load_square(vec *to, const square *of, int size, ptrdiff_t k, size_t some) {
    for (int p = 0; p < size * size; p++) load(&to[p], of->from[p] + (k & of->known[p]), some);
}

/* The rows of tiles in parallel, their tiles in turn: what is below runs for (row, c), and n and r, its image and row
   there. */
#define EACH_TILE                                                                                                      \
    const ptrdiff_t down = tiles_of(of->height), across = tiles_of(of->width);                                         \
    const ptrdiff_t tiles = of->n * down * across, C = of->channels;                                                   \
    _Pragma("omp parallel for num_threads(threads)")                                                                   \
    for (ptrdiff_t row = 0; row < of->n * down; row++)                                                                 \
        for (ptrdiff_t c = 0, n = row / down, r = row % down; c < across; c++)

/* `work` on vectors of channels, k being the first of each, and on what is left of them. */
#define EACH_VECTOR(work, ...)                                                                                         \
    do {                                                                                                               \
        ptrdiff_t k = 0;                                                                                               \
        for (; k + WIDE <= C; k += WIDE) work(k, WIDE, __VA_ARGS__);                                                   \
        if (k < C) work(k, (size_t)(C - k), __VA_ARGS__);                                                              \
    } while (0)

/* `along` on the columns of d, size x size, then on the rows of what came of them: o, made x made. */
#define BOTH_AXES(along, d, size, o, made)                                                                             \
    do {                                                                                                               \
        vec between[(made) * (size)];                                                                                  \
        for (int j = 0; j < (size); j++) along((d) + j, size, between + j, size);                                      \
        for (int i = 0; i < (made); i++) along(between + i * (size), 1, (o) + i * (made), 1);                          \
    } while (0)

/* The 36 points of a tile or kernel lie `apart` floats from each other. */
INLINE void load_points(vec *to, const float *points, ptrdiff_t apart, size_t some) {
    for (int p = 0; p < POINTS * POINTS; p++) load(&to[p], points + p * apart, some);
}

INLINE void store_points(float *points, ptrdiff_t apart, const vec *from, size_t some) {
    for (int p = 0; p < POINTS * POINTS; p++) store(points + p * apart, &from[p], some);
}

INLINE void one_to_points(ptrdiff_t k, size_t some, const square *of, float *to, ptrdiff_t apart) {
    vec d[POINTS * POINTS], o[POINTS * POINTS];
    load_square(d, of, POINTS, k, some);
    BOTH_AXES(to_points, d, POINTS, o, POINTS);
    store_points(to + k, apart, o, some);
}

/* B^T d B of every tile: `points` [36, tiles, C] of the images x. */
void points_of_images(const images *of, const float *x, float *points, int threads) {
    EACH_TILE {
        const square d = cut(of, x + n * of->apart, r * TILE - 1, c * TILE - 1, POINTS);
        EACH_VECTOR(one_to_points, &d, points + (row * across + c) * C, tiles * C);
    }
}

INLINE void one_from_positions(ptrdiff_t k, size_t some, const square *of, float *to, ptrdiff_t apart) {
    vec y[TILE * TILE], o[POINTS * POINTS];
    load_square(y, of, TILE, k, some);
    BOTH_AXES(from_positions, y, TILE, o, POINTS);
    store_points(to + k, apart, o, some);
}

/* A g A^T of every tile: `points` [36, tiles, C] of the gradients g. */
void points_of_gradient(const images *of, const float *g, float *points, int threads) {
    EACH_TILE {
        const square y = cut(of, g + n * of->apart, r * TILE, c * TILE, TILE);
        EACH_VECTOR(one_from_positions, &y, points + (row * across + c) * C, tiles * C);
    }
}

INLINE void one_to_positions(ptrdiff_t k, size_t some, const float *from, ptrdiff_t apart, const float *bias, float *y,
                             const images *of, ptrdiff_t rows, ptrdiff_t columns) {
    vec m[POINTS * POINTS], o[TILE * TILE], b;
    load_points(m, from + k, apart, some);
    BOTH_AXES(to_positions, m, POINTS, o, TILE);
    load(&b, bias + k, some);
    for (int i = 0; i < TILE && i < rows; i++)
        for (int j = 0; j < TILE && j < columns; j++) {
            vec sum = o[i * TILE + j] + b;
            store(y + i * of->rows_apart + j * of->columns_apart + k, &sum, some);
        }
}

/* A^T m A of every tile, and a bias [C]: the images y of `points` [36, tiles, C]. */
void positions(const images *of, const float *points, const float *bias, float *y, int threads) {
    EACH_TILE {
        float *to = y + n * of->apart + r * TILE * of->rows_apart + c * TILE * of->columns_apart;
        EACH_VECTOR(one_to_positions, points + (row * across + c) * C, tiles * C, bias, to, of, of->height - r * TILE,
                    of->width - c * TILE);
    }
}

INLINE void one_from_points(ptrdiff_t k, size_t some, const float *points, ptrdiff_t apart, ptrdiff_t below, float *x,
                            const images *of, ptrdiff_t r, ptrdiff_t c, ptrdiff_t down, ptrdiff_t across) {
    /* columns of points: 5 of the tile to the left, 0 ... 5 of this one, 0 of the tile to the right */
    vec e[TILE * (POINTS + 2)];
    for (int j = -1; j <= POINTS; j++) {
        const int beside = j < 0 ? -1 : j == POINTS, point = j < 0 ? POINTS - 1 : j == POINTS ? 0 : j;
        vec v[POINTS], near, o[TILE];
        if (c + beside < 0 || c + beside >= across) {
            for (int i = 0; i < TILE; i++) e[i * (POINTS + 2) + j + 1] = (vec){0};
            continue;
        }
        const float *from = points + beside * of->channels + point * apart + k;
        for (int i = 0; i < POINTS; i++) load(&v[i], from + i * POINTS * apart, some);
        from_points(v, 1, o, 1);
        if (r > 0) {
            load(&near, from - below + (POINTS - 1) * POINTS * apart, some);
            o[0] += near;
        }
        if (r + 1 < down) {
            load(&near, from + below, some);
            o[TILE - 1] += 4 * near;
        }
        for (int i = 0; i < TILE; i++) e[i * (POINTS + 2) + j + 1] = o[i];
    }
    for (int i = 0; i < TILE && r * TILE + i < of->height; i++) {
        const vec *line = e + i * (POINTS + 2);
        vec o[TILE];
        from_points(line + 1, 1, o, 1);
        o[0] += line[0];
        o[TILE - 1] += 4 * line[POINTS + 1];
        for (int j = 0; j < TILE && c * TILE + j < of->width; j++)
            store(x + i * of->rows_apart + j * of->columns_apart + k, &o[j], some);
    }
}

/* The sum over tiles, which overlap by two, of B v B^T: the images x of `points` [36, tiles, C].

   Each position is written once: a tile's four rows take the last row of the tiles above and the first of those below,
   and its four columns likewise. */
void images_of_points(const images *of, const float *points, float *x, int threads) {
    EACH_TILE {
        float *to = x + n * of->apart + r * TILE * of->rows_apart + c * TILE * of->columns_apart;
        EACH_VECTOR(one_from_points, points + (row * across + c) * C, tiles * C, across * C, to, of, r, c, down,
                    across);
    }
}

INLINE void one_kernel_to_points(ptrdiff_t k, size_t some, const float *g, ptrdiff_t C, float *to, ptrdiff_t apart) {
    vec d[9], u[POINTS * POINTS];
    for (int i = 0; i < 9; i++) load(&d[i], g + i * C + k, some);
    BOTH_AXES(kernel_to_points, d, 3, u, POINTS);
    store_points(to + k, apart, u, some);
}

/* G g G^T: `points` [36, O, C] of kernels [O, 3, 3, C] in memory. */
void points_of_kernels(ptrdiff_t O, ptrdiff_t C, const float *g, float *points, int threads) {
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t o = 0; o < O; o++) EACH_VECTOR(one_kernel_to_points, g + o * 9 * C, C, points + o * C, O * C);
}

INLINE void one_kernel_from_points(ptrdiff_t k, size_t some, const float *from, ptrdiff_t apart, ptrdiff_t C,
                                   float *g) {
    vec u[POINTS * POINTS], d[9];
    load_points(u, from + k, apart, some);
    BOTH_AXES(kernel_from_points, u, POINTS, d, 3);
    for (int i = 0; i < 9; i++) store(g + i * C + k, &d[i], some);
}

/* G^T u G: kernels [O, 3, 3, C] in memory of `points` [36, O, C]. */
void kernels_of_points(ptrdiff_t O, ptrdiff_t C, const float *points, float *g, int threads) {
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t o = 0; o < O; o++) EACH_VECTOR(one_kernel_from_points, points + o * C, O * C, C, g + o * 9 * C);
}
