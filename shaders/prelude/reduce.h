// Sums and maxima over a work-group of X by 1 by 1 work-items, or over parts of it. Each of them must come to such a
// word. `lanes` is local memory of X floats that nobody is reading any more; it may be used again right after. Every
// work-item gets the result, of additions in one order.
#define LANE_SUM(v)     ((v).x + (v).y + ((v).z + (v).w)) // of the 4 lanes of a vector

// Of parts of `size` neighbours each, by a tree in local memory. What stands past the last whole part gets anything.
#define OD_TREE(result, value, lanes, size, join)                                           \
  {                                                                                         \
    const int od_at = LID(0) % (size);                                                      \
    lanes[LID(0)] = value;                                                                  \
    BARRIER(); /* every value is there */                                                   \
    for (int od_width = size; od_width > 1; od_width = (od_width + 1) / 2) {                \
      const int od_half = (od_width + 1) / 2;                                               \
      if (od_at + od_half < od_width && LID(0) + od_half < X)                               \
        lanes[LID(0)] = join(lanes[LID(0)], lanes[LID(0) + od_half]);                       \
      BARRIER(); /* this level of the tree is done */                                       \
    }                                                                                       \
    result = lanes[LID(0) - od_at];                                                         \
    BARRIER(); /* everyone has read it */                                                   \
  }
// Of the whole group; and of parts, which may be the whole group.
#if SUBGROUPS
#define OD_GROUP(result, value, lanes, within, join)                                        \
  {                                                                                         \
    const float od_part = within(value);                                                    \
    if (SG_LANE == 0) lanes[SG_INDEX] = od_part;                                            \
    BARRIER(); /* every sub-group's part is there */                                        \
    result = lanes[0];                                                                      \
    for (int od_i = 1; od_i < SG_COUNT; od_i++) result = join(result, lanes[od_i]);         \
    BARRIER(); /* everyone has read them */                                                 \
  }
#define OD_PARTS(result, value, lanes, size, within, join)                                  \
  if ((size) == X) OD_GROUP(result, value, lanes, within, join)                             \
  else OD_TREE(result, value, lanes, size, join)
#else
#define OD_GROUP(result, value, lanes, within, join) OD_TREE(result, value, lanes, X, join)
#define OD_PARTS(result, value, lanes, size, within, join) OD_TREE(result, value, lanes, size, join)
#endif
#define OD_ADD(a, b)    ((a) + (b))
#define GROUP_SUM(result, value, lanes) OD_GROUP(result, value, lanes, SG_SUM, OD_ADD)
#define GROUP_MAX(result, value, lanes) OD_GROUP(result, value, lanes, SG_MAX, FMAX)
#define PART_SUM(result, value, lanes, size) OD_PARTS(result, value, lanes, size, SG_SUM, OD_ADD)
#define PART_MAX(result, value, lanes, size) OD_PARTS(result, value, lanes, size, SG_MAX, FMAX)
