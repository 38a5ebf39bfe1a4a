// Sums and maxima over a work-group of X by 1 by 1 work-items, X a power of two, each of which must come here. `lanes` is
// local memory of X floats that nobody is reading any more; it may be used again right after. Every work-item gets the
// result, of additions in one order.
#if SUBGROUPS
#define OD_REDUCE(result, value, lanes, within, join)                                 \
  {                                                                                   \
    const float od_part = within(value);                                              \
    if (SG_LANE == 0) lanes[SG_INDEX] = od_part;                                      \
    BARRIER(); /* every sub-group's part is there */                                  \
    result = lanes[0];                                                                \
    for (int od_i = 1; od_i < SG_COUNT; od_i++) result = join(result, lanes[od_i]);   \
    BARRIER(); /* everyone has read them */                                           \
  }
#else
#define OD_REDUCE(result, value, lanes, within, join)                                 \
  {                                                                                   \
    lanes[LID(0)] = value;                                                            \
    BARRIER(); /* every value is there */                                             \
    for (int od_width = X / 2; od_width > 0; od_width /= 2) {                         \
      if (LID(0) < od_width)                                                          \
        lanes[LID(0)] = join(lanes[LID(0)], lanes[LID(0) + od_width]);                \
      BARRIER(); /* this level of the tree is done */                                 \
    }                                                                                 \
    result = lanes[0];                                                                \
    BARRIER(); /* everyone has read it */                                             \
  }
#endif
#define OD_ADD(a, b)    ((a) + (b))
#define GROUP_SUM(result, value, lanes) OD_REDUCE(result, value, lanes, SG_SUM, OD_ADD)
#define GROUP_MAX(result, value, lanes) OD_REDUCE(result, value, lanes, SG_MAX, FMAX)
