/* The transforms and matrix products of backbones/fast/winograd, for the CPU that compiles this file.

   Feature maps are in channels-last layout; transformed numbers and products are float32. A vector lane is a channel. No
   sum runs over lanes, so results do not depend on the width of vectors, the pieces or the number of threads. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8 /* rows of a block of a product: the sums and two vectors fit into the registers */
#else
#define LANES 8
#define ROWS 6
#endif
#define VECTORS 2
#define PANEL 32 /* contiguous channels in the right matrix of a product; same value as MULTIPLE in native.py */
#define CHUNK 256 /* channels of a tile that are transformed at a time, so that they fit into the cache */
#define BLOCK 64 /* rows of a product that a thread computes at a time */
#define LONGEST 9 /* largest edge of a tile */
#define GAP 16 /* numbers between two matrices, to avoid conflicts in cache lines; same value in native.py */

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Flags __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

typedef struct {
    char *data;
    int64_t image, row, column; /* strides in bytes */
    int64_t height, width;
    int64_t half; /* 1: bfloat16, 0: float32 */
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

/* Rounds to nearest, ties to even, like PyTorch; a NaN stays NaN. */
INLINE void store(char *to, Floats value, int half) {
    if (!half) {
        *(Floats *)to = value;
        return;
    }
    Words bits = (Words)value, none = (Words)(Flags)(value != value);
    Words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    *(Halves *)to = __builtin_convertvector((none & 0x7fc0) | (~none & rounded), Halves);
}

/* The product of a matrix row and a vector, for LANES channels at once. */
INLINE Floats combined(const float *row, const Floats *from, int length) {
    Floats sum = row[0] * from[0];
    UNROLLED
    for (int k = 1; k < length; k++) sum += row[k] * from[k];
    return sum;
}

/* Transforms one tile of (size x size) pixels to (reach x reach) numbers, for all channels; pixels outside are zero. */
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

/* Transforms the tiles of a piece.

   x: (.., H, W, channels). matrix: (reach, size).
   edge: pixels from one tile to the next. border: pixels of the first tile that are outside the map.
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

/* Transforms (reach x reach) products to one tile of (edge x edge) pixels, for all channels; skips pixels outside. */
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

/* Transforms the products of a piece to pixels.

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

/* Computes c = a b, or c += a b if add is set.

   a: (number, rows, length), or (number, length, rows) if turned is set. b: (number, columns / PANEL, length, PANEL).
   c: (number, rows, columns); may be the same memory as a, if turned is not set and length equals columns. */
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
