/* Plain-C twins of the hot kernels of the native engine, for AVX-512: the same loops on the same packed arrays, as a C
 * compiler sees them. Argument structs and tile widths come from the kernels themselves, in the generated twins.h.
 * Activations other than none and ReLU are left out. Compile with -ffp-contract=off: then results are equal to the bit.
 */
#include <immintrin.h>
#include <stdint.h>

#include "twins.h"

#define LINE 64
#define UNROLL _Pragma("GCC unroll 32")
#define INLINE static inline __attribute__((always_inline))

/* Address of channel 0 of a vector of lanes in a tensor. */
#define AT(a, tensor, image, vector)                                                                  \
    ((a)->tensor + (image) * (a)->tensor##_image + (vector) / (a)->tensor##_chunk_vectors * (a)->tensor##_chunk + \
     (vector) % (a)->tensor##_chunk_vectors * LINE)

INLINE __m512 load(int64_t address) { return _mm512_loadu_ps((const void *)address); }
INLINE void store(int64_t address, __m512 value) { _mm512_store_ps((void *)address, value); }
INLINE __m512 broadcast(int64_t address) { return _mm512_set1_ps(*(const float *)address); }

/* The sums of one output channel: sums.py. `bias` and so on are common to the arguments of both kernels. */
#define BEGIN(sums)                                                                          \
    if (block == 0) {                                                                        \
        const __m512 bias = broadcast(a->bias + channel * 4);                                \
        UNROLL for (int v = 0; v < vectors; v++)(sums)[v] = bias;                            \
    } else {                                                                                 \
        UNROLL for (int v = 0; v < vectors; v++)(sums)[v] =                                  \
            load(partials + channel * (vectors * LINE) + v * LINE);                          \
    }

#define FINISH(sums)                                                                         \
    if (block == a->blocks - 1) {                                                            \
        if (a->r != 0) {                                                                     \
            UNROLL for (int v = 0; v < vectors; v++)(sums)[v] =                              \
                _mm512_add_ps((sums)[v], load(r + channel * a->r_channel + v * LINE));       \
        }                                                                                    \
        if (a->activation == RELU) {                                                         \
            UNROLL for (int v = 0; v < vectors; v++)(sums)[v] =                              \
                _mm512_max_ps(_mm512_setzero_ps(), (sums)[v]);                               \
        }                                                                                    \
        UNROLL for (int v = 0; v < vectors; v++) store(y + channel * a->y_channel + v * LINE, (sums)[v]); \
    } else {                                                                                 \
        UNROLL for (int v = 0; v < vectors; v++)                                             \
            store(partials + channel * (vectors * LINE) + v * LINE, (sums)[v]);              \
    }

INLINE void stream_tile(
    const stream_arguments *a, const int vectors, int64_t part, int64_t x, int64_t y, int64_t r, int64_t partials
) {
    const int32_t *parts = (const int32_t *)a->parts, *starts = (const int32_t *)a->starts;
    const uint16_t *offsets = (const uint16_t *)a->offsets;
    const float *values = (const float *)a->values;
    for (int64_t block = 0; block < a->blocks; block++) {
        const int64_t here = x + ((const int64_t *)a->block_bases)[block];
        const uint16_t *rows = (const uint16_t *)a->rows + block * a->row_count * 2;
        int64_t entry = starts[block * a->part_count + part];
        for (int64_t row = parts[part]; row < parts[part + 1]; row++) {
            const int64_t channel = rows[2 * row], stop = entry + rows[2 * row + 1];
            __m512 sums[MAX_VECTORS];
            BEGIN(sums)
            for (; entry < stop; entry++) {
                const int64_t source = here + (int64_t)offsets[entry] * OFFSET_UNIT;
                const __m512 weight = _mm512_set1_ps(values[entry]);
                UNROLL for (int v = 0; v < vectors; v++) sums[v] =
                    _mm512_fmadd_ps(load(source + v * LINE), weight, sums[v]);
            }
            FINISH(sums)
        }
    }
}

void twin_stream(const stream_arguments *a, int64_t item, int64_t thread) {
    const int64_t part = item % a->part_count, place = item / a->part_count;
    const int64_t tile = place % a->tile_count, image = place / a->tile_count;
    const int32_t *tiles = (const int32_t *)a->tiles;
    const int64_t vector = tiles[2 * tile], partials = a->scratch + thread * a->scratch_thread;
    const int64_t x = AT(a, x, image, vector), y = AT(a, y, image, vector), r = a->r ? AT(a, r, image, vector) : 0;
    switch (tiles[2 * tile + 1]) {
#define CASE(vectors, panel)                                   \
    case vectors:                                              \
        stream_tile(a, vectors, part, x, y, r, partials); \
        break;
        FOR_EACH_TILE(CASE)
#undef CASE
    }
}

INLINE void dense_panel(
    const dense_arguments *a, const int vectors, const int panel, int64_t block, int64_t row, int64_t x, int64_t y,
    int64_t r, int64_t partials
) {
    __m512 sums[MAX_PANEL][MAX_VECTORS];
    UNROLL for (int p = 0; p < panel; p++) {
        const int64_t channel = row + p;
        BEGIN(sums[p])
    }
    const int64_t start = block * a->block_inputs, row_bytes = a->inputs * a->tap_count * 4;
    const int64_t stop = start + a->block_inputs < a->inputs ? start + a->block_inputs : a->inputs;
    for (int64_t tap = 0; tap < a->tap_count; tap++) {
        const int64_t moved = x + ((const int64_t *)a->taps)[tap], weight = a->weight + row * row_bytes + tap * 4;
        for (int64_t input = start; input < stop; input++) {
            __m512 lanes[MAX_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) lanes[v] = load(moved + input * a->x_channel + v * LINE);
            UNROLL for (int p = 0; p < panel; p++) {
                const __m512 factor = broadcast(weight + p * row_bytes + input * a->tap_count * 4);
                UNROLL for (int v = 0; v < vectors; v++) sums[p][v] = _mm512_fmadd_ps(lanes[v], factor, sums[p][v]);
            }
        }
    }
    UNROLL for (int p = 0; p < panel; p++) {
        const int64_t channel = row + p;
        FINISH(sums[p])
    }
}

INLINE void dense_tile(
    const dense_arguments *a, const int vectors, const int panel, int64_t part, int64_t x, int64_t y, int64_t r,
    int64_t partials
) {
    const int32_t *parts = (const int32_t *)a->parts;
    const int64_t first = parts[part], stop = parts[part + 1], whole = first + (stop - first) / panel * panel;
    for (int64_t block = 0; block < a->blocks; block++) {
        for (int64_t row = first; row < whole; row += panel)
            dense_panel(a, vectors, panel, block, row, x, y, r, partials);
        for (int64_t row = whole; row < stop; row++) dense_panel(a, vectors, 1, block, row, x, y, r, partials);
    }
}

void twin_dense(const dense_arguments *a, int64_t item, int64_t thread) {
    const int64_t part = item % a->part_count, place = item / a->part_count;
    const int64_t tile = place % a->tile_count, image = place / a->tile_count;
    const int32_t *tiles = (const int32_t *)a->tiles;
    const int64_t vector = tiles[2 * tile], partials = a->scratch + thread * a->scratch_thread;
    const int64_t x = AT(a, x, image, vector), y = AT(a, y, image, vector), r = a->r ? AT(a, r, image, vector) : 0;
    switch (tiles[2 * tile + 1]) {
#define CASE(vectors, panel)                                         \
    case vectors:                                                    \
        dense_tile(a, vectors, panel, part, x, y, r, partials); \
        break;
        FOR_EACH_TILE(CASE)
#undef CASE
    }
}

/* out[row] = sum over steps of left[row, step] * right[step], `height` rows at a time. */
INLINE void product_panel(
    const int vectors, const int height, int64_t row, int64_t depth, int64_t left, int64_t left_row, int64_t left_step,
    int64_t right, int64_t right_step, int64_t out, int64_t out_row
) {
    __m512 sums[ATTENTION_ROWS][ATTENTION_VECTORS];
    UNROLL for (int h = 0; h < height; h++) UNROLL for (int v = 0; v < vectors; v++) sums[h][v] = _mm512_setzero_ps();
    for (int64_t step = 0; step < depth; step++) {
        __m512 lanes[ATTENTION_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) lanes[v] = load(right + step * right_step + v * LINE);
        UNROLL for (int h = 0; h < height; h++) {
            const __m512 weight = broadcast(left + (row + h) * left_row + step * left_step);
            UNROLL for (int v = 0; v < vectors; v++) sums[h][v] = _mm512_fmadd_ps(lanes[v], weight, sums[h][v]);
        }
    }
    UNROLL for (int h = 0; h < height; h++)
        UNROLL for (int v = 0; v < vectors; v++) store(out + (row + h) * out_row + v * LINE, sums[h][v]);
}

INLINE void product(
    const int vectors, int64_t rows, int64_t depth, int64_t left, int64_t left_row, int64_t left_step, int64_t right,
    int64_t right_step, int64_t out, int64_t out_row
) {
    const int64_t whole = rows / ATTENTION_ROWS * ATTENTION_ROWS;
    int64_t row = 0;
    for (; row < whole; row += ATTENTION_ROWS)
        product_panel(vectors, ATTENTION_ROWS, row, depth, left, left_row, left_step, right, right_step, out, out_row);
    for (; row < rows; row++)
        product_panel(vectors, 1, row, depth, left, left_row, left_step, right, right_step, out, out_row);
}

/* functions.py: exponential */
INLINE __m512 exponential(__m512 x) {
    static const float factorials[] = {1.0f, 1.0f, 1 / 2.0, 1 / 6.0, 1 / 24.0, 1 / 120.0, 1 / 720.0, 1 / 5040.0};
    const __m512 low = _mm512_set1_ps(-87.3), magic = _mm512_set1_ps(12582912.0);
    const __m512 bounded = _mm512_min_ps(_mm512_max_ps(x, low), _mm512_set1_ps(88.3));
    const __m512 shifted = _mm512_fmadd_ps(bounded, _mm512_set1_ps(1.4426950408889634), magic);
    const __m512 n = _mm512_sub_ps(shifted, magic);
    __m512 rest = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375), bounded);
    rest = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4), rest);
    __m512 power = _mm512_set1_ps(factorials[7]);
    UNROLL for (int degree = 6; degree >= 0; degree--)
        power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(factorials[degree]));
    const __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    const __m512i exponent = _mm512_add_epi32(bits, _mm512_set1_epi32(127 << 23));
    const __m512 result = _mm512_mul_ps(power, _mm512_castsi512_ps(exponent));
    return _mm512_mask_mov_ps(result, _mm512_cmp_ps_mask(x, low, _CMP_LT_OQ), _mm512_setzero_ps());
}

INLINE void softmax(const attention_arguments *a, const int vectors, int64_t scores, int64_t mask) {
    const float *constants = (const float *)a->constants;
    const __m512 scale = _mm512_set1_ps(constants[0]), factor = _mm512_set1_ps(constants[1]);
    const __m512 term = _mm512_set1_ps(constants[2]);
    __m512 largest[ATTENTION_VECTORS], totals[ATTENTION_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) {
        largest[v] = _mm512_set1_ps(-__builtin_inff());
        totals[v] = _mm512_setzero_ps();
    }
    for (int64_t token = 0; token < a->tokens; token++) {
        __m512 padding = _mm512_setzero_ps();
        if (a->mask != 0) padding = _mm512_fmadd_ps(broadcast(mask + token * 4), factor, term);
        UNROLL for (int v = 0; v < vectors; v++) {
            const int64_t place = scores + token * (vectors * LINE) + v * LINE;
            const __m512 score = _mm512_fmadd_ps(load(place), scale, padding);
            store(place, score);
            largest[v] = _mm512_max_ps(score, largest[v]);
        }
    }
    for (int64_t token = 0; token < a->tokens; token++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            const int64_t place = scores + token * (vectors * LINE) + v * LINE;
            const __m512 power = exponential(_mm512_sub_ps(load(place), largest[v]));
            store(place, power);
            totals[v] = _mm512_add_ps(totals[v], power);
        }
    }
    UNROLL for (int v = 0; v < vectors; v++) totals[v] = _mm512_div_ps(_mm512_set1_ps(1.0), totals[v]);
    for (int64_t token = 0; token < a->tokens; token++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            const int64_t place = scores + token * (vectors * LINE) + v * LINE;
            store(place, _mm512_mul_ps(load(place), totals[v]));
        }
    }
}

INLINE void attention_tile(
    const attention_arguments *a, const int vectors, int64_t query, int64_t key, int64_t value, int64_t out,
    int64_t scratch, int64_t mask
) {
    const int64_t line = vectors * LINE;
    product(vectors, a->tokens, a->width, key, 4, a->channel, query, a->channel, scratch, line);
    softmax(a, vectors, scratch, mask);
    product(vectors, a->width, a->tokens, value, a->channel, 4, scratch, line, out, a->y_channel);
}

void twin_attention(const attention_arguments *a, int64_t item, int64_t thread) {
    const int64_t tile = item % a->tile_count, place = item / a->tile_count;
    const int64_t head = place % a->heads, image = place / a->heads;
    const int32_t *tiles = (const int32_t *)a->tiles;
    const int64_t vector = tiles[2 * tile], start = image * a->image + head * a->width * a->channel;
    const int64_t query = a->q + start + vector * LINE, key = a->k + start, value = a->v + start;
    const int64_t out = AT(a, y, image, vector) + head * a->width * a->y_channel;
    const int64_t scratch = a->scratch + thread * a->scratch_thread, mask = a->mask + image * a->mask_image;
    switch (tiles[2 * tile + 1]) {
#define CASE(vectors)                                                            \
    case vectors:                                                                \
        attention_tile(a, vectors, query, key, value, out, scratch, mask); \
        break;
        FOR_EACH_ATTENTION_TILE(CASE)
#undef CASE
    }
}

/* Run all items of a step on this thread: one call from Python for both kinds of kernels. */
void run_items(void (*kernel)(const void *, int64_t, int64_t), const void *arguments, int64_t items) {
    for (int64_t item = 0; item < items; item++) kernel(arguments, item, 0);
}
