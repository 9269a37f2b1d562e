/* Finds where predicted masks in an image change between 0 and 1 along columns, and encodes or draws them.

   Each operation is the same as in runs.py, so the pixels are the same. Compile without fused multiply-add. */

#include <math.h>
#include <stdint.h>
#include <string.h>

static double between(double value, double low, double high) {
    return value > low ? (value < high ? value : high) : low; /* NaN gives low */
}

/* Positions where one mask changes, in ascending order. Pairs of changes at the same position cancel out.

   mask: (m, m). box: x0, y0, x1, y1. padded: memory for (m + 2) x (m + 2) numbers. to: for width x (m + 1). */
static int64_t changes(const float *mask, const double *box, int64_t m, int64_t height, int64_t width, double threshold,
                       float *padded, int64_t *to) {
    double wide = box[2] - box[0], high = box[3] - box[1];
    if (!(isfinite(wide) && isfinite(high) && wide > 0 && high > 0)) return 0;
    double cell_x = wide / m, cell_y = high / m, reach = (threshold < 0.5 ? 0.5 - threshold : 0) * cell_x;
    int64_t first = between(floor(box[0] - reach), 0, width), last = between(ceil(box[2] + reach), 0, width);
    int64_t side = m + 2, number = 0, furthest = 0;

    memset(padded, 0, side * side * sizeof(float)); /* transposed, as the loop runs over columns */
    for (int64_t y = 0; y < m; y++)
        for (int64_t x = 0; x < m; x++) padded[(x + 1) * side + y + 1] = mask[y * m + x];

    for (int64_t column = first; column < last; column++) {
        double place = between((column + 0.5 - box[0]) / cell_x - 0.5, -1, m), low = between(floor(place), -1, m - 1);
        float right = place - low, left = 1 - right, before = 0;
        const float *here = padded + ((int64_t)low + 1) * side, *next = here + side;
        for (int64_t k = 0; k + 1 < side; k++) {
            float after = here[k + 1] * left + next[k + 1] * right;
            int rises = after >= threshold;
            if (rises != (before >= threshold)) {
                double crossing = k - 0.5 + (threshold - before) / ((double)after - before);
                double row = box[1] + crossing * cell_y - 0.5;
                int64_t position = column * height + (int64_t)between(rises ? ceil(row) : floor(row) + 1, 0, height);
                if (position < furthest) position = furthest; /* rounding errors in tiny boxes */
                furthest = position;
                if (number && to[number - 1] == position)
                    number--; /* a run shorter than a pixel, or one that continues in the next column */
                else
                    to[number++] = position;
            }
            before = after;
        }
    }
    return number;
}

static char *write_number(char *to, int64_t value) {
    for (;;) { /* five bits per character, the lowest first; bit 5: more follow */
        int64_t bits = value & 31;
        value >>= 5;
        int more = bits & 16 ? value != -1 : value != 0;
        *to++ = (char)((bits | (more ? 32 : 0)) + 48);
        if (!more) return to;
    }
}

/* Writes COCO's compressed counts of n masks to text; ends (n) gets the end of each mask in text. */
void encode(const float *masks, const double *boxes, int64_t n, int64_t m, int64_t height, int64_t width,
            double threshold, float *padded, int64_t *positions, char *text, int64_t *ends) {
    char *to = text;
    for (int64_t i = 0; i < n; i++) {
        int64_t number = changes(masks + i * m * m, boxes + 4 * i, m, height, width, threshold, padded, positions);
        int64_t pixels = height * width, end = 0, runs[2]; /* the last two */
        if (!number || positions[number - 1] != pixels) positions[number++] = pixels;
        for (int64_t k = 0; k < number; k++) {
            int64_t run = positions[k] - end;
            end = positions[k];
            to = write_number(to, k > 2 ? run - runs[k % 2] : run);
            runs[k % 2] = run;
        }
        ends[i] = to - text;
    }
}

/* Writes the ones of n masks into frames (n, width, height), which must be zero before. */
void draw(const float *masks, const double *boxes, int64_t n, int64_t m, int64_t height, int64_t width,
          double threshold, float *padded, int64_t *positions, char *frames) {
    for (int64_t i = 0; i < n; i++) {
        int64_t number = changes(masks + i * m * m, boxes + 4 * i, m, height, width, threshold, padded, positions);
        char *frame = frames + i * height * width;
        for (int64_t k = 0; k + 1 < number; k += 2) memset(frame + positions[k], 1, positions[k + 1] - positions[k]);
    }
}
