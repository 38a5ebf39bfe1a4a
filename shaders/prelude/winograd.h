// Winograd's F(4x4, 3x3) at the points 0, +-1/sqrt 2, +-sqrt 2 and infinity, which have half the error of 0, +-1, +-2:
// six pixels, three taps or six products, `step` apart, of one row or column. Lowering transforms stored weights by
// the same points.
#define WINOGRAD_PATCH(t, d, step)                                                                                     \
  {                                                                                                                    \
    const vec od_even = FMA(SPLAT(-2.0f), d[2 * step], d[4 * step]), od_odd = FMA(SPLAT(-2.0f), d[step], d[3 * step]); \
    const vec od_near = FMA(SPLAT(-0.5f), d[2 * step], d[4 * step]), od_far = FMA(SPLAT(-0.5f), d[step], d[3 * step]); \
    t[0] = FMA(SPLAT(-2.5f), d[2 * step], d[0] + d[4 * step]);                                                         \
    t[1] = FMA(SPLAT(0.70710678118654752f), od_odd, od_even);                                                          \
    t[2] = FMA(SPLAT(-0.70710678118654752f), od_odd, od_even);                                                         \
    t[3] = FMA(SPLAT(1.41421356237309505f), od_far, od_near);                                                          \
    t[4] = FMA(SPLAT(-1.41421356237309505f), od_far, od_near);                                                         \
    t[5] = FMA(SPLAT(-2.5f), d[3 * step], d[step] + d[5 * step]);                                                      \
  }
// The first of the two ways over a patch, into `half_way`: `value(i, j)` is the pixel of row i and column j.
#define WINOGRAD_PATCH_COLUMNS(half_way, value)                                                                       \
  for (int j = 0; j < 6; j++) {                                                                                       \
    vec od_d[6], od_t[6];                                                                                             \
    UNROLL                                                                                                            \
    for (int i = 0; i < 6; i++) od_d[i] = value(i, j);                                                                \
    WINOGRAD_PATCH(od_t, od_d, 1)                                                                                     \
    UNROLL                                                                                                            \
    for (int i = 0; i < 6; i++) half_way[i * 6 + j] = od_t[i];                                                        \
  }
// Rows 1 and 2 (`near`) or 3 and 4 of G g.
#define WINOGRAD_TAPS_ROWS(t, u, g0, g1, g2, near)                                                        \
  {                                                                                                       \
    const vec od_even = ((near) ? -1.0f / 3.0f : 1.0f / 3.0f) * FMA(SPLAT((near) ? 2.0f : 0.5f), g0, g2); \
    const vec od_odd = ((near) ? -0.47140452079103168f : 0.23570226039551584f) * (g1);                    \
    t = od_even + od_odd;                                                                                 \
    u = od_even - od_odd;                                                                                 \
  }
#define WINOGRAD_TAPS(t, g)                             \
  {                                                     \
    t[0] = g[0];                                        \
    WINOGRAD_TAPS_ROWS(t[1], t[2], g[0], g[1], g[2], 1) \
    WINOGRAD_TAPS_ROWS(t[3], t[4], g[0], g[1], g[2], 0) \
    t[5] = g[2];                                        \
  }
// Rows 0 and 5 (`pair` 0), 1 and 2, or 3 and 4 of G g G^T, of V columns from `j` on: `value(t, j)` is those columns of
// tap t of nine, and `keep(q, z, j)` takes product q of twelve.
#define WINOGRAD_TAP_PAIR(keep, value, j, pair)                                                                       \
  {                                                                                                                   \
    vec od_above[3], od_below[3], od_row[6];                                                                          \
    UNROLL                                                                                                            \
    for (int b = 0; b < 3; b++) {                                                                                     \
      od_above[b] = value(b, j);                                                                                      \
      od_below[b] = value(6 + b, j);                                                                                  \
      if (pair > 0)                                                                                                   \
        WINOGRAD_TAPS_ROWS(od_above[b], od_below[b], od_above[b], value(3 + b, j), od_below[b], pair == 1)            \
    }                                                                                                                 \
    WINOGRAD_TAPS(od_row, od_above)                                                                                   \
    UNROLL                                                                                                            \
    for (int b = 0; b < 6; b++) keep(b, od_row[b], j)                                                                 \
    WINOGRAD_TAPS(od_row, od_below)                                                                                   \
    UNROLL                                                                                                            \
    for (int b = 0; b < 6; b++) keep(6 + b, od_row[b], j)                                                             \
  }
// The product of 36 that is `q` of twelve.
#define WINOGRAD_PRODUCT(pair, q) (((pair) > 0 ? 2 * (pair) - 1 + (q) / 6 : (q) / 6 * 5) * 6 + (q) % 6)
#define WINOGRAD_PIXELS(t, m, step)                                                                          \
  {                                                                                                          \
    const vec od_near = m[step] + m[2 * step], od_far = m[3 * step] + m[4 * step];                           \
    const vec od_odd = m[step] - m[2 * step], od_even = m[3 * step] - m[4 * step];                           \
    t[0] = m[0] + od_near + od_far;                                                                          \
    t[1] = FMA(SPLAT(1.41421356237309505f), od_even, 0.70710678118654752f * od_odd);                         \
    t[2] = FMA(SPLAT(2.0f), od_far, 0.5f * od_near);                                                         \
    t[3] = FMA(SPLAT(2.82842712474619009f), od_even, FMA(SPLAT(0.35355339059327376f), od_odd, m[5 * step])); \
  }
// The first of the two ways over a tile's sums of products: `value(i, j)`, as for a patch.
#define WINOGRAD_PIXEL_COLUMNS(half_way, value)                                                                       \
  for (int j = 0; j < 6; j++) {                                                                                       \
    vec od_m[6], od_t[4];                                                                                             \
    UNROLL                                                                                                            \
    for (int i = 0; i < 6; i++) od_m[i] = value(i, j);                                                                \
    WINOGRAD_PIXELS(od_t, od_m, 1)                                                                                    \
    UNROLL                                                                                                            \
    for (int i = 0; i < 4; i++) half_way[i * 6 + j] = od_t[i];                                                        \
  }
// Of kernels that have strips of tiles, in the names of their arguments: where the pixels of a tile's patch are, from
// a channel on. up_h by up_w is the picture once repeated to its larger size, h by w as it is stored; -1 is padding.
#define WINOGRAD_PLACES(at, tile, channel)                                                                            \
  {                                                                                                                   \
    const int od_item = (tile) / (tiles_h * tiles_w);                                                                 \
    const int od_top = (tile) / tiles_w % tiles_h * 4 - pad_top, od_left = (tile) % tiles_w * 4 - pad_left;           \
    int od_rows[6], od_columns[6];                                                                                    \
    for (int od_i = 0; od_i < 6; od_i++) {                                                                            \
      const int od_y = od_top + od_i, od_x = od_left + od_i;                                                          \
      od_rows[od_i] = od_y < 0 || od_y >= up_h ? -1 : (od_item * h + od_y * h / up_h) * w;                            \
      od_columns[od_i] = od_x < 0 || od_x >= up_w ? -1 : od_x * w / up_w;                                             \
    }                                                                                                                 \
    for (int od_i = 0; od_i < 36; od_i++)                                                                             \
      at[od_i] = MIN(od_rows[od_i / 6], od_columns[od_i % 6]) < 0 ? -1 :                                              \
          (od_rows[od_i / 6] + od_columns[od_i % 6]) * ic + (channel);                                                \
  }
// Of the same: B^T d B of all channels of a tile, to 36 planes of each block of channels, `row` further on for the next
// tile, whose pixels, and lines that are written, come nearer meanwhile. The last vector ends at the last channel.
#define OD_WINOGRAD_PIXEL(i, j)  LOADV(x, od_at[(i) * 6 + (j)] + od_c)
#define OD_WINOGRAD_PADDED(i, j) (od_at[(i) * 6 + (j)] < 0 ? SPLAT(0.0f) : OD_WINOGRAD_PIXEL(i, j))
#define WINOGRAD_PATCHES(to, row, plane, tile)                                                                        \
  {                                                                                                                   \
    int od_at[36], od_least = 0;                                                                                      \
    WINOGRAD_PLACES(od_at, tile, 0)                                                                                   \
    for (int i = 0; i < 36; i++) od_least = MIN(od_least, od_at[i]);                                                  \
    for (int od_step = 0; od_step < ic; od_step += V) {                                                               \
      const int od_c = MIN(od_step, ic - V);                                                                          \
      OUT_PTR(float) od_to = (to) + od_c / block * 36 * (plane) + od_c % block;                                       \
      vec od_half[36];                                                                                                \
      if (od_least < 0) {                                                                                             \
        WINOGRAD_PATCH_COLUMNS(od_half, OD_WINOGRAD_PADDED)                                                           \
      } else {                                                                                                        \
        for (int i = 0; i < 6; i++)                                                                                   \
          for (int j = 2; j < 6; j++) PREFETCH(x + od_at[i * 6 + j] + 4 * ic + od_c);                                 \
        WINOGRAD_PATCH_COLUMNS(od_half, OD_WINOGRAD_PIXEL)                                                            \
      }                                                                                                               \
      for (int i = 0; i < 6; i++) {                                                                                   \
        vec od_z[6];                                                                                                  \
        WINOGRAD_PATCH(od_z, (od_half + i * 6), 1)                                                                    \
        UNROLL                                                                                                        \
        for (int j = 0; j < 6; j++) {                                                                                 \
          STOREP(od_to, (i * 6 + j) * (plane), od_z[j]);                                                              \
          PREFETCH_NEAR(od_to + (i * 6 + j) * (plane) + (row));                                                       \
        }                                                                                                             \
      }                                                                                                               \
    }                                                                                                                 \
  }
// Of plain taps in panels, channels from `channel` on: V values of tap t, j on.
#define OD_WINOGRAD_TAP_SCALE(row, column) \
  LOADSV(scales, (panel * SCALE_BLOCKS(9 * ic) + (row) / SCALE_ROWS) * V * NV + (column))
#define WINOGRAD_TAP(taps, channel, t, j) \
  WEIGHT(taps, (t) * ic * V * NV + (j), OD_WINOGRAD_TAP_SCALE((t) * ic + (channel) + (j) / (V * NV), (j) % (V * NV)))
// The pixels of a tile, V channels from `c` on: A^T m A of `sum(i, j)`, and what follows a convolution.
#define OD_WINOGRAD_LANE(one, k) FINISH(one, LOAD, od_shift_at + k, od_out + k)
#if W8
#define OD_WINOGRAD_SCALE(c)      const vec od_scale = LOADSV(scales, c);
#define OD_WINOGRAD_SCALED(pixel) FMA(pixel, od_scale, od_base)
#else
#define OD_WINOGRAD_SCALE(c)
#define OD_WINOGRAD_SCALED(pixel) ((pixel) + od_base)
#endif
#define WINOGRAD_STORE(tile, c, sum)                                                                                  \
  {                                                                                                                   \
    const int od_item = (tile) / (tiles_h * tiles_w), od_shift_at = shift_from + od_item * shift_row + (c);           \
    const int od_y = (tile) / tiles_w % tiles_h * 4, od_x = (tile) % tiles_w * 4;                                     \
    vec od_half[24], od_base = SPLAT(0.0f);                                                                           \
    WINOGRAD_PIXEL_COLUMNS(od_half, sum)                                                                              \
    OD_WINOGRAD_SCALE(c)                                                                                              \
    ADD_BIAS(od_base, LOADV, c)                                                                                       \
    if (!RAGGED) { ADD_SHIFT(od_base, LOADV, od_shift_at) }                                                           \
    for (int od_i = 0; od_i < MIN(4, oh - od_y); od_i++) {                                                            \
      vec od_pixels[4];                                                                                               \
      WINOGRAD_PIXELS(od_pixels, (od_half + od_i * 6), 1)                                                             \
      for (int od_j = 0; od_j < MIN(4, ow - od_x); od_j++) {                                                          \
        const int od_out = ((od_item * oh + od_y + od_i) * ow + od_x + od_j) * oc + (c);                              \
        vec od_z = OD_WINOGRAD_SCALED(od_pixels[od_j]);                                                               \
        if (RAGGED) STORE_LANES(od_z, od_out, MIN(V, oc - (c)), OD_WINOGRAD_LANE)                                     \
        else {                                                                                                        \
          od_z = ACTIVATE(od_z);                                                                                      \
          ADD_RESIDUAL(od_z, LOADV, od_out)                                                                           \
          STOREV(y, od_out, od_z);                                                                                    \
        }                                                                                                             \
      }                                                                                                               \
    }                                                                                                                 \
  }
// The pixels of `count` tiles from `first` on, panels `some` to `end`, of each of which there are 36 planes of sums.
#define OD_WINOGRAD_SUM(i, j) LOADP(od_sums, ((i) * 6 + (j)) * od_plane)
#define WINOGRAD_STORE_STRIP(sums, plane, first, count, some, end)                                                    \
  {                                                                                                                   \
    const int od_plane = plane;                                                                                       \
    for (int od_tile = 0; od_tile < (count); od_tile++)                                                               \
      for (int od_of = 0, od_column = (some) * V * NV; od_column < MIN((end) * V * NV, oc); od_of++, od_column += V) { \
        OUT_PTR(float) od_sums = (sums) + od_of / NV * 36 * od_plane + od_tile * V * NV + od_of % NV * V;             \
        WINOGRAD_STORE((first) + od_tile, od_column, OD_WINOGRAD_SUM)                                                 \
      }                                                                                                               \
  }
