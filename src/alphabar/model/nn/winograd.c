/* Winograd's F(4x4, 3x3) and its gradients, some tiles of four by four positions at a time, so that what lies between
   images and images stays near; winograd.py says what it computes.

   "Tiles" are counted image by image, row by row. What there is of a tile or kernel at each of the 36 points is laid out
   in panels of 16 channels, the last filled up with zeros: [36, channels / 16, tiles or rows of a kernel, 16]. */

#include <string.h>

#include "vectors.h"

#define PANEL (2 * WIDE)
#define POINTS 6
#define ALL (POINTS * POINTS)
#define TILE 4

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

INLINE void to_positions(const vec *m, int s, vec *o, int t) {
    vec sum = m[s] + m[2 * s], more = m[3 * s] + m[4 * s];
    vec near = m[s] - m[2 * s], far = m[3 * s] - m[4 * s];
    o[0] = m[0] + sum + more;
    o[t] = near + 2 * far;
    o[2 * t] = sum + 4 * more;
    o[3 * t] = near + 8 * far + m[5 * s];
}

/* The transpose of to_positions. */
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

/* The transpose of kernel_to_points. */
INLINE void kernel_from_points(const vec *u, int s, vec *o, int t) {
    vec near = u[s] + u[2 * s], far = u[3 * s] + u[4 * s];
    o[0] = u[0] * (1.0f / 4) - near * (1.0f / 6) + far * (1.0f / 24);
    o[t] = (u[2 * s] - u[s]) * (1.0f / 6) + (u[3 * s] - u[4 * s]) * (1.0f / 12);
    o[2 * t] = (far - near) * (1.0f / 6) + u[5 * s];
}

/* `along` on the columns of d, size x size, then on the rows of what came of them: o, made x made. */
#define BOTH_AXES(along, d, size, o, made)                                                                             \
    do {                                                                                                               \
        vec between[(made) * (size)];                                                                                  \
        for (int j = 0; j < (size); j++) along((d) + j, size, between + j, size);                                      \
        for (int i = 0; i < (made); i++) along(between + i * (size), 1, (o) + i * (made), 1);                          \
    } while (0)

/* What all of them are given of images: their number and size, and how far apart images, rows and columns lie. */
typedef struct {
    ptrdiff_t n, height, width, channels, apart, rows_apart, columns_apart;
} images;

static inline ptrdiff_t tiles_of(ptrdiff_t side) { return (side + TILE - 1) / TILE; }
static inline ptrdiff_t tiles_in(const images *of) { return of->n * tiles_of(of->height) * tiles_of(of->width); }
static inline ptrdiff_t filled(ptrdiff_t channels) { return (channels + PANEL - 1) / PANEL * PANEL; }

/* Where channel k of a panel's first row or tile lies, of so many. */
static inline ptrdiff_t in_panel(ptrdiff_t k, ptrdiff_t rows) { return k / PANEL * PANEL * rows + k % PANEL; }

/* `work` on vectors of channels, k being the first of each, `some` of which there are. */
#define EACH_VECTOR(channels, work, ...)                                                                               \
    do {                                                                                                               \
        ptrdiff_t k = 0;                                                                                               \
        for (; k + WIDE <= (channels); k += WIDE) work(k, WIDE, __VA_ARGS__);                                          \
        for (; k < filled(channels); k += WIDE) work(k, k < (channels) ? (channels) - k : 0, __VA_ARGS__);             \
    } while (0)

INLINE vec load_some(const float *from, ptrdiff_t some) {
    if (some == WIDE) return load(from);
    vec filled_up = {0};
    memcpy(&filled_up, from, sizeof(float) * some);
    return filled_up;
}

INLINE void store_some(float *to, vec from, ptrdiff_t some) {
    if (some == WIDE)
        store(to, from);
    else
        memcpy(to, &from, sizeof(float) * some);
}

/* How far apart the points of so many tiles or rows of a kernel lie: an odd number of lines of the cache, so that they
   do not fall into few of its sets. */
static inline ptrdiff_t points_apart(ptrdiff_t rows, ptrdiff_t channels) {
    return (rows * filled(channels) / PANEL | 1) * PANEL;
}

/* The floats of a kernel's points: its rows are filled up, too. */
ptrdiff_t size_of_kernels(ptrdiff_t rows, ptrdiff_t channels) { return ALL * points_apart(filled(rows), channels); }

/* The floats that convolve needs for each thread, and gradient_of_kernels for all of them, with `some` tiles at once. */
ptrdiff_t size_of_room(ptrdiff_t some, ptrdiff_t channels, ptrdiff_t out_channels) {
    return ALL * (points_apart(some, channels) + points_apart(some, out_channels));
}

/* Where a tile lies. */
typedef struct {
    ptrdiff_t n, top, at;
} place;

static inline place place_of(const images *of, ptrdiff_t tile) {
    const ptrdiff_t down = tiles_of(of->height), across = tiles_of(of->width);
    return (place){tile / (down * across), tile / across % down * TILE, tile % across * TILE};
}

/* Where the positions of a square of an image lie, from (top, at) on; outside of it `known` is 0, and so is `from`. */
typedef struct {
    const float *from[ALL];
    ptrdiff_t known[ALL];
} square;

static const float ZEROS[WIDE];

INLINE square cut(const images *of, const float *image, ptrdiff_t top, ptrdiff_t at, int size) {
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

INLINE void load_square(vec *to, const square *of, int size, ptrdiff_t k, ptrdiff_t some) {
    for (int p = 0; p < size * size; p++) to[p] = load_some(of->from[p] + (k & of->known[p]), some);
}

/* The points of a tile or kernel lie `apart` floats from each other. */
INLINE void load_points(vec *to, const float *points, ptrdiff_t apart) {
    for (int p = 0; p < ALL; p++) to[p] = load(points + p * apart);
}

INLINE void store_points(float *points, ptrdiff_t apart, const vec *from) {
    for (int p = 0; p < ALL; p++) store(points + p * apart, from[p]);
}

INLINE void panel_to_points(ptrdiff_t k, ptrdiff_t some, const square *of, float *tile, ptrdiff_t tiles, ptrdiff_t apart) {
    vec d[ALL], o[ALL];
    load_square(d, of, POINTS, k, some);
    BOTH_AXES(to_points, d, POINTS, o, POINTS);
    store_points(tile + in_panel(k, tiles), apart, o);
}

/* B^T d B of a tile of x and of the positions around it. */
static void image_to_points(const images *of, const float *x, ptrdiff_t tile, float *to, ptrdiff_t tiles,
                            ptrdiff_t apart) {
    const place here = place_of(of, tile);
    const square d = cut(of, x + here.n * of->apart, here.top - 1, here.at - 1, POINTS);
    EACH_VECTOR(of->channels, panel_to_points, &d, to, tiles, apart);
}

INLINE void panel_from_positions(ptrdiff_t k, ptrdiff_t some, const square *of, float *tile, ptrdiff_t tiles,
                                 ptrdiff_t apart) {
    vec y[TILE * TILE], o[ALL];
    load_square(y, of, TILE, k, some);
    BOTH_AXES(from_positions, y, TILE, o, POINTS);
    store_points(tile + in_panel(k, tiles), apart, o);
}

/* A g A^T of a tile of the gradient g. */
static void gradient_to_points(const images *of, const float *g, ptrdiff_t tile, float *to, ptrdiff_t tiles,
                               ptrdiff_t apart) {
    const place here = place_of(of, tile);
    const square y = cut(of, g + here.n * of->apart, here.top, here.at, TILE);
    EACH_VECTOR(of->channels, panel_from_positions, &y, to, tiles, apart);
}

INLINE void panel_to_positions(ptrdiff_t k, ptrdiff_t some, const float *tile, ptrdiff_t tiles, ptrdiff_t apart,
                               const float *bias, const images *of, float *y, ptrdiff_t rows, ptrdiff_t columns) {
    vec m[ALL], o[TILE * TILE];
    load_points(m, tile + in_panel(k, tiles), apart);
    BOTH_AXES(to_positions, m, POINTS, o, TILE);
    const vec b = load_some(bias + k, some);
    for (int i = 0; i < TILE && i < rows; i++)
        for (int j = 0; j < TILE && j < columns; j++)
            store_some(y + i * of->rows_apart + j * of->columns_apart + k, o[i * TILE + j] + b, some);
}

/* A^T m A and the bias: a tile of y. */
static void points_to_image(const float *from, ptrdiff_t tiles, ptrdiff_t apart, const float *bias, const images *of,
                            ptrdiff_t tile, float *y) {
    const place here = place_of(of, tile);
    float *to = y + here.n * of->apart + here.top * of->rows_apart + here.at * of->columns_apart;
    EACH_VECTOR(of->channels, panel_to_positions, from, tiles, apart, bias, of, to, of->height - here.top,
                of->width - here.at);
}

/* Products of matrices: `rows` of them at once, 16 columns wide, which is what the registers hold. */

#define ROWS 6

/* out [rows, 16] = or += the sum over k of a(row, k) b[k]; a's columns come in `panels`, each `wide`. */
INLINE void product(int rows, const float *a, ptrdiff_t row, ptrdiff_t column, ptrdiff_t wide, ptrdiff_t panels,
                    ptrdiff_t panel, const float *b, float *out, int add) {
    vec left[ROWS], right[ROWS];
    for (int i = 0; i < rows; i++) {
        left[i] = add ? load(out + i * PANEL) : (vec){0};
        right[i] = add ? load(out + i * PANEL + WIDE) : (vec){0};
    }
    for (ptrdiff_t q = 0; q < panels; q++)
        for (ptrdiff_t k = 0; k < wide; k++, b += PANEL) {
            const vec b_left = load(b), b_right = load(b + WIDE);
            for (int i = 0; i < rows; i++) {
                const float one = a[q * panel + i * row + k * column];
                left[i] += one * b_left, right[i] += one * b_right;
            }
        }
    for (int i = 0; i < rows; i++) {
        store(out + i * PANEL, left[i]);
        store(out + i * PANEL + WIDE, right[i]);
    }
}

/* m [O / 16, tiles, 16] of v [C / 16, tiles, 16] and u [O / 16, C, 16], for the first `some` of the tiles. */
static void times_kernel(ptrdiff_t some, ptrdiff_t tiles, ptrdiff_t C, ptrdiff_t O, const float *v, const float *u,
                         float *m) {
    for (ptrdiff_t j = 0; j < O; j += PANEL) {
        ptrdiff_t t = 0;
#define AT_ONCE(rows)                                                                                                  \
    product(rows, v + t * PANEL, PANEL, 1, PANEL, C / PANEL, tiles * PANEL, u + j * C, m + j * tiles + t * PANEL, 0)
        for (; t + ROWS <= some; t += ROWS) AT_ONCE(ROWS);
        switch (some - t) {
        case 1: AT_ONCE(1); break;
        case 2: AT_ONCE(2); break;
        case 3: AT_ONCE(3); break;
        case 4: AT_ONCE(4); break;
        case 5: AT_ONCE(5); break;
        }
#undef AT_ONCE
    }
}

/* du [O, 16] += the sum over `some` tiles of m [O / 16, tiles, 16], transposed, times v [tiles, 16]: 16 rows as 6, 6
   and 4. */
static void times_gradient(ptrdiff_t some, ptrdiff_t tiles, ptrdiff_t O, const float *m, const float *v, float *du) {
    for (ptrdiff_t o = 0; o < O; o += PANEL, m += tiles * PANEL, du += PANEL * PANEL) {
        product(6, m, 1, PANEL, some, 1, 0, v, du, 1);
        product(6, m + 6, 1, PANEL, some, 1, 0, v, du + 6 * PANEL, 1);
        product(4, m + 12, 1, PANEL, some, 1, 0, v, du + 12 * PANEL, 1);
    }
}

/* y [n, H, W, O] = the convolution of x [n, H, W, C] with the kernel whose points are u [36, O / 16, C, 16], and a bias
   [O]. Each thread takes `most` tiles at a time, in a room of its own. */
void convolve(const images *of, const float *x, const float *u, const float *bias, const images *to, float *y,
              float *room, ptrdiff_t most, int threads) {
    const ptrdiff_t C = filled(of->channels), O = filled(to->channels), tiles = tiles_in(of);
    const ptrdiff_t v_apart = points_apart(most, C), m_apart = points_apart(most, O);
    const ptrdiff_t u_apart = points_apart(C, O), each = size_of_room(most, C, O);
    const ptrdiff_t share = (tiles + threads - 1) / threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; thread++) {
        float *v = room + thread * each, *m = v + ALL * v_apart;
        const ptrdiff_t end = (thread + 1) * share < tiles ? (thread + 1) * share : tiles;
        for (ptrdiff_t first = thread * share; first < end; first += most) {
            const ptrdiff_t some = end - first < most ? end - first : most;
            for (ptrdiff_t t = 0; t < some; t++) image_to_points(of, x, first + t, v + t * PANEL, most, v_apart);
            for (int p = 0; p < ALL; p++)
                times_kernel(some, most, C, O, v + p * v_apart, u + p * u_apart, m + p * m_apart);
            for (ptrdiff_t t = 0; t < some; t++)
                points_to_image(m + t * PANEL, most, m_apart, bias, to, first + t, y);
        }
    }
}

/* du [36, C / 16, O, 16] += the gradient of the kernel's points, for x [n, H, W, C] and g [n, H, W, O]. All threads work
   on the same `most` tiles at a time, so that the sums do not depend on their number. */
void gradient_of_kernels(const images *of, const float *x, const images *to, const float *g, float *du, float *room,
                         ptrdiff_t most, int threads) {
    const ptrdiff_t C = filled(of->channels), O = filled(to->channels), tiles = tiles_in(of);
    const ptrdiff_t v_apart = points_apart(most, C), m_apart = points_apart(most, O), du_apart = points_apart(O, C);
    float *v = room, *m = v + ALL * v_apart;
#pragma omp parallel num_threads(threads)
    for (ptrdiff_t first = 0; first < tiles; first += most) {
        const ptrdiff_t some = tiles - first < most ? tiles - first : most;
#pragma omp for schedule(static)
        for (ptrdiff_t t = 0; t < some; t++) {
            image_to_points(of, x, first + t, v + t * PANEL, most, v_apart);
            gradient_to_points(to, g, first + t, m + t * PANEL, most, m_apart);
        }
#pragma omp for collapse(2) schedule(static)
        for (int p = 0; p < ALL; p++)
            for (ptrdiff_t k = 0; k < C; k += PANEL)
                times_gradient(some, most, O, m + p * m_apart, v + p * v_apart + k * most, du + p * du_apart + k * O);
    }
}

/* Eight kernels of w [O, 9, C] from k on, of which there are `some`, seen from each of eight input channels from c on. */
INLINE void panel_of_kernels(ptrdiff_t k, ptrdiff_t some, ptrdiff_t c, const float *w, ptrdiff_t channels, float *u,
                             ptrdiff_t rows, ptrdiff_t apart) {
    const ptrdiff_t here = channels - c < WIDE ? channels - c : WIDE;
    float turned[WIDE][9][WIDE] = {0};
    for (ptrdiff_t o = 0; o < some; o++)
        for (int i = 0; i < 9; i++)
            for (ptrdiff_t j = 0; j < here; j++) turned[j][i][o] = w[((k + o) * 9 + i) * channels + c + j];
    for (ptrdiff_t j = 0; j < here; j++) {
        vec g[9], o[ALL];
        for (int i = 0; i < 9; i++) g[i] = load(turned[j][i]);
        BOTH_AXES(kernel_to_points, g, 3, o, POINTS);
        store_points(u + (c + j) * PANEL + in_panel(k, rows), apart, o);
    }
}

/* G g G^T: u [36, O / 16, C, 16] of kernels w [O, 9, C]. What fills up the rows of channels is left as it is. */
void points_of_kernels(ptrdiff_t outs, ptrdiff_t channels, const float *w, float *u, int threads) {
    const ptrdiff_t C = filled(channels), apart = points_apart(C, outs);
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t c = 0; c < channels; c += WIDE) EACH_VECTOR(outs, panel_of_kernels, c, w, channels, u, C, apart);
}

INLINE void panel_of_turned_kernel(ptrdiff_t k, ptrdiff_t some, const float *w, ptrdiff_t channels, float *row,
                                   ptrdiff_t rows, ptrdiff_t apart) {
    vec g[9], u[ALL];
    for (int i = 0; i < 9; i++) g[8 - i] = load_some(w + i * channels + k, some);
    BOTH_AXES(kernel_to_points, g, 3, u, POINTS);
    store_points(row + in_panel(k, rows), apart, u);
}

/* The same of the kernels turned around, with input and output exchanged: u [36, C / 16, O, 16]. */
void points_of_turned_kernels(ptrdiff_t outs, ptrdiff_t channels, const float *w, float *u, int threads) {
    const ptrdiff_t O = filled(outs), apart = points_apart(O, channels);
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t o = 0; o < outs; o++)
        EACH_VECTOR(channels, panel_of_turned_kernel, w + o * 9 * channels, channels, u + o * PANEL, O, apart);
}

INLINE void kernel_of_panel(ptrdiff_t k, ptrdiff_t some, const float *row, ptrdiff_t rows, ptrdiff_t apart, float *w,
                            ptrdiff_t channels) {
    vec u[ALL], g[9];
    load_points(u, row + in_panel(k, rows), apart);
    BOTH_AXES(kernel_from_points, u, POINTS, g, 3);
    for (int i = 0; i < 9; i++) store_some(w + i * channels + k, g[i], some);
}

/* G^T u G: kernels w [O, 9, C] of u [36, C / 16, O, 16]. */
void kernels_of_points(ptrdiff_t outs, ptrdiff_t channels, const float *u, float *w, int threads) {
    const ptrdiff_t O = filled(outs), apart = points_apart(O, channels);
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t o = 0; o < outs; o++)
        EACH_VECTOR(channels, kernel_of_panel, u + o * PANEL, O, apart, w + o * 9 * channels, channels);
}
