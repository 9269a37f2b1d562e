/* The maps of backbones/winograd and their matrix products, for the processor that compiles this.

   Maps of pixels lie channels last; numbers and products are float32. A lane is a channel: nothing is ever summed over
   lanes, so each number is the same whatever the width of the vectors, the pieces and the threads. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8 /* of a block of a product, which its sums and two vectors leave in registers */
#else
#define LANES 8
#define ROWS 6
#endif
#define VECTORS 2
#define PANEL 32 /* channels that lie side by side in the right side of a product: native.py's, too */
#define CHUNK 256 /* channels of a tile that are mapped at a time, so that it stays in the cache */
#define BLOCK 64 /* rows of a product that a thread computes at a time */
#define LONGEST 9 /* edge of a tile */
#define GAP 16 /* numbers between matrices, which otherwise fill the same lines of a cache: native.py's, too */

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Flags __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

typedef struct {
    char *data;
    int64_t image, row, column; /* bytes from one to the next */
    int64_t height, width;
    int64_t half; /* bfloat16 instead of float32 */
} Maps;

typedef struct {
    int64_t first, images, row, rows, columns;
} Piece;

typedef struct {
    int64_t image, row, column;
} Place;

INLINE Place place_of(int64_t tile, const Piece *piece) {
    int64_t line = tile / piece->columns;
    return (Place){piece->first + line / piece->rows, piece->row + line % piece->rows, tile % piece->columns};
}

INLINE Floats load(const char *from, int half) {
    if (!half) return *(const Floats *)from;
    return (Floats)(__builtin_convertvector(*(const Halves *)from, Words) << 16);
}

/* To the nearest, of two as near to the even one, as PyTorch does; what is not a number stays none. */
INLINE void store(char *to, Floats value, int half) {
    if (!half) {
        *(Floats *)to = value;
        return;
    }
    Words bits = (Words)value, none = (Words)(Flags)(value != value);
    Words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    *(Halves *)to = __builtin_convertvector((none & 0x7fc0) | (~none & rounded), Halves);
}

/* A row of a matrix times a vector, for as many channels as there are lanes. */
INLINE Floats combined(const float *row, const Floats *from, int length) {
    Floats sum = row[0] * from[0];
    UNROLLED
    for (int k = 1; k < length; k++) sum += row[k] * from[k];
    return sum;
}

/* One tile of (size x size) pixels to (reach x reach) numbers, each of all channels; zero beyond the map. */
INLINE void spread_tile(const Maps *x, int64_t image, int64_t top, int64_t left, int64_t channels, const float *matrix,
                        float *to, int64_t number_step, int64_t panel_step, int size, int reach, int half) {
    float between[LONGEST * LONGEST * CHUNK] __attribute__((aligned(64)));
    for (int64_t first = 0; first < channels; first += CHUNK) {
        int64_t some = channels - first < CHUNK ? channels - first : CHUNK;
        for (int j = 0; j < size; j++) {
            int there = left + j >= 0 && left + j < x->width;
            const char *from = x->data + image * x->image + (left + j) * x->column + first * (half ? 2 : 4);
            for (int64_t c = 0; c < some; c += LANES) {
                Floats pixels[LONGEST];
                UNROLLED
                for (int i = 0; i < size; i++) {
                    int inside = there && top + i >= 0 && top + i < x->height;
                    pixels[i] = inside ? load(from + (top + i) * x->row + c * (half ? 2 : 4), half) : (Floats){0};
                }
                UNROLLED
                for (int i = 0; i < reach; i++)
                    *(Floats *)(between + (i * size + j) * CHUNK + c) = combined(matrix + i * size, pixels, size);
            }
        }
        for (int i = 0; i < reach; i++)
            for (int64_t c = 0; c < some; c += LANES) {
                Floats half_way[LONGEST];
                UNROLLED
                for (int j = 0; j < size; j++) half_way[j] = *(Floats *)(between + (i * size + j) * CHUNK + c);
                float *place = to + i * reach * number_step + (first + c) / PANEL * panel_step + (first + c) % PANEL;
                UNROLLED
                for (int j = 0; j < reach; j++)
                    *(Floats *)(place + j * number_step) = combined(matrix + j * size, half_way, size);
            }
    }
}

INLINE void spread_tiles(const Maps *x, const Piece *piece, int64_t channels, int64_t edge, int64_t border,
                         const float *matrix, float *to, int64_t panels, int64_t threads, int size, int reach, int half) {
    int64_t tiles = piece->images * piece->rows * piece->columns;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t tile = 0; tile < tiles; tile++) {
        Place at = place_of(tile, piece);
        spread_tile(x, at.image, at.row * edge - border, at.column * edge - border, channels, matrix,
                    to + tile * (panels ? PANEL : channels), tiles * channels + GAP, panels ? tiles * PANEL : PANEL, size,
                    reach, half);
    }
}

/* What the tiles of a piece are mapped to.

   x: (.., H, W, channels). matrix: (reach, size).
   edge, border: pixels from one tile to the next, and that the first begins outside the map.
   to: (reach * reach, tiles, channels), or with panels (reach * reach, channels / PANEL, tiles, PANEL). */
void spread(const Maps *x, const Piece *piece, int64_t channels, int64_t edge, int64_t border, const float *matrix,
            int64_t size, int64_t reach, float *to, int64_t panels, int64_t threads) {
#define OF(SIZE, REACH)                                                                                               \
    if (size == SIZE && reach == REACH && x->half)                                                                    \
        spread_tiles(x, piece, channels, edge, border, matrix, to, panels, threads, SIZE, REACH, 1);                  \
    else if (size == SIZE && reach == REACH)                                                                          \
        spread_tiles(x, piece, channels, edge, border, matrix, to, panels, threads, SIZE, REACH, 0);
    OF(6, 6) OF(4, 6) OF(3, 6) OF(9, 9) OF(7, 9) OF(3, 9)
#undef OF
}

/* (reach x reach) products, each of all channels, to one tile of (edge x edge) pixels, as far as they lie on the map. */
INLINE void gather_tile(const Maps *y, int64_t image, int64_t top, int64_t left, int64_t channels, const float *matrix,
                        const float *from, int64_t product_step, const float *bias, int64_t relu, int edge, int reach,
                        int half) {
    float between[LONGEST * LONGEST * CHUNK] __attribute__((aligned(64)));
    for (int64_t first = 0; first < channels; first += CHUNK) {
        int64_t some = channels - first < CHUNK ? channels - first : CHUNK;
        for (int j = 0; j < reach; j++)
            for (int64_t c = 0; c < some; c += LANES) {
                Floats products[LONGEST];
                UNROLLED
                for (int i = 0; i < reach; i++)
                    products[i] = *(const Floats *)(from + (i * reach + j) * product_step + first + c);
                UNROLLED
                for (int i = 0; i < edge; i++)
                    *(Floats *)(between + (i * reach + j) * CHUNK + c) = combined(matrix + i * reach, products, reach);
            }
        for (int i = 0; i < edge && top + i < y->height; i++)
            for (int64_t c = 0; c < some; c += LANES) {
                Floats half_way[LONGEST];
                UNROLLED
                for (int j = 0; j < reach; j++) half_way[j] = *(Floats *)(between + (i * reach + j) * CHUNK + c);
                char *to = y->data + image * y->image + (top + i) * y->row + left * y->column;
                UNROLLED
                for (int j = 0; j < edge; j++) {
                    if (left + j >= y->width) break;
                    Floats pixel = combined(matrix + j * reach, half_way, reach);
                    if (bias) pixel += *(const Floats *)(bias + first + c);
                    if (relu) pixel = (Floats)((Words)pixel & ~(Words)(Flags)(pixel < 0)); /* a NaN stays one */
                    store(to + j * y->column + (first + c) * (half ? 2 : 4), pixel, half);
                }
            }
    }
}

INLINE void gather_tiles(const Maps *y, const Piece *piece, int64_t channels, const float *matrix, const float *from,
                         const float *bias, int64_t relu, int64_t threads, int edge, int reach, int half) {
    int64_t tiles = piece->images * piece->rows * piece->columns;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t tile = 0; tile < tiles; tile++) {
        Place at = place_of(tile, piece);
        gather_tile(y, at.image, at.row * edge, at.column * edge, channels, matrix, from + tile * channels,
                    tiles * channels + GAP, bias, relu, edge, reach, half);
    }
}

/* The pixels of a piece, from its products.

   y: (.., H, W, channels). matrix: (edge, reach). from: (reach * reach, tiles, channels). bias: (channels,) or NULL. */
void gather(const Maps *y, const Piece *piece, int64_t channels, const float *matrix, int64_t edge, int64_t reach,
            const float *from, const float *bias, int64_t relu, int64_t threads) {
#define OF(EDGE, REACH)                                                                                               \
    if (edge == EDGE && reach == REACH && y->half)                                                                    \
        gather_tiles(y, piece, channels, matrix, from, bias, relu, threads, EDGE, REACH, 1);                          \
    else if (edge == EDGE && reach == REACH)                                                                          \
        gather_tiles(y, piece, channels, matrix, from, bias, relu, threads, EDGE, REACH, 0);
    OF(4, 6) OF(3, 6) OF(7, 9) OF(3, 9)
#undef OF
}

INLINE void block(const float *a, int64_t a_row, int64_t a_column, const float *b, float *c, int64_t c_row,
                  int64_t length, int64_t add, int rows) {
    Floats sums[ROWS][VECTORS];
    UNROLLED
    for (int i = 0; i < rows; i++)
        UNROLLED
        for (int j = 0; j < VECTORS; j++) sums[i][j] = add ? *(Floats *)(c + i * c_row + j * LANES) : (Floats){0};
    for (int64_t k = 0; k < length; k++) {
        Floats right[VECTORS];
        UNROLLED
        for (int j = 0; j < VECTORS; j++) right[j] = *(const Floats *)(b + k * PANEL + j * LANES);
        UNROLLED
        for (int i = 0; i < rows; i++)
            UNROLLED
            for (int j = 0; j < VECTORS; j++) sums[i][j] += a[i * a_row + k * a_column] * right[j];
    }
    UNROLLED
    for (int i = 0; i < rows; i++)
        UNROLLED
        for (int j = 0; j < VECTORS; j++) *(Floats *)(c + i * c_row + j * LANES) = sums[i][j];
}

/* c (number, rows, columns) = or += a (number, rows, length), or (number, length, rows) if it is turned, times
   b (number, columns / PANEL, length, PANEL). c may be a, if that is not turned and has as many columns. */
void multiply(const float *a, const float *b, float *c, int64_t number, int64_t rows, int64_t length, int64_t columns,
              int64_t turned, int64_t add, int64_t threads) {
    int64_t a_row = turned ? 1 : length, a_column = turned ? rows : 1, blocks = (rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t one = 0; one < number * blocks; one++) {
        float beside[BLOCK * CHUNK] __attribute__((aligned(64)));
        int64_t which = one / blocks, first = one % blocks * BLOCK, some = rows - first < BLOCK ? rows - first : BLOCK;
        const float *left = a + which * (rows * length + GAP) + first * a_row;
        const float *right = b + which * (length * columns + GAP);
        float *place = c + which * (rows * columns + GAP) + first * columns, *to = c == a ? beside : place;
        for (int64_t j = 0; j < columns; j += VECTORS * LANES) {
            const float *panel = right + j / PANEL * length * PANEL + j % PANEL;
            int64_t i = 0;
            for (; i + ROWS <= some; i += ROWS)
                block(left + i * a_row, a_row, a_column, panel, to + i * columns + j, columns, length, add, ROWS);
            for (; i < some; i++)
                block(left + i * a_row, a_row, a_column, panel, to + i * columns + j, columns, length, add, 1);
        }
        if (c == a) memcpy(place, beside, some * columns * sizeof(float));
    }
}
