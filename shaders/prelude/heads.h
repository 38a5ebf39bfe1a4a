// What kernels of attention share: a head's D columns of a row (a define of such kernels), and where a mask is.
#define LOG2_E          1.4426950408889634f                 // scores are taken in powers of two
#define HEAD_LINES      ((D + CACHE_LINE - 1) / CACHE_LINE)
// Asks for a line of a row; then `p` is at the next one, of the row below where this one `ends`.
#define ASK_LINE(p, row, ends)                                               \
  {                                                                          \
    PREFETCH_NEAR(p);                                                        \
    p += (ends) ? (row) - (HEAD_LINES - 1) * CACHE_LINE : CACHE_LINE;        \
  }
// What is a stride apart no CPU foresees, and what is asked for in a row waits: one line at a time of each of the four
// rows that a kernel reads and writes next. `asked`: how many times it has.
#define ASK_AHEAD                                \
  {                                              \
    const int ends = ++asked % HEAD_LINES == 0;  \
    ASK_LINE(q_ahead, q_row, ends)               \
    ASK_LINE(y_ahead, y_row, ends)               \
    ASK_LINE(k_ahead, k_row, ends)               \
    ASK_LINE(v_ahead, v_row, ends)               \
  }

// V columns of a row, the last of them where the row ends: some are taken twice. Of heads narrower than a vector all D;
// what is in lanes past them is not used. COPY_ROW: all of a row, as floats of a work-item's own.
#if D < V
#define HEAD_LANES      D                                   // columns of a vector
#define COLUMN(c)       0
#define LOAD_COLUMNS(to, from, at)                                                    \
  {                                                                                   \
    float od_line[V];                                                                 \
    for (int od_c = 0; od_c < D; od_c++) od_line[od_c] = LOAD(from, (at) + od_c);     \
    to = LOADP(od_line, 0);                                                           \
  }
#define STORE_COLUMNS(to, at, v)                                                      \
  {                                                                                   \
    float od_line[V];                                                                 \
    STOREP(od_line, 0, v);                                                            \
    for (int od_c = 0; od_c < D; od_c++) STORE(to, (at) + od_c, od_line[od_c]);       \
  }
#define COPY_ROW(to, i, from, at) \
  for (int od_c = 0; od_c < D; od_c++) (to)[(i) + od_c] = LOAD(from, (at) + od_c);
#else
#define HEAD_LANES      V
#define COLUMN(c)       MIN(c, D - V)
#define LOAD_COLUMNS(to, from, at) to = LOADV(from, at);
#define STORE_COLUMNS(to, at, v) STOREV(to, at, v);
#define COPY_ROW(to, i, from, at) \
  for (int od_c = 0; od_c < D; od_c += V) STOREP(to, (i) + COLUMN(od_c), LOADV(from, (at) + COLUMN(od_c)));
#endif

// Where a query's row of the mask begins, in kernels with `queries` and `keys`.
#if ROW_MASK  // one row for all queries
#define MASK_FROM(head, query) 0
#elif HEAD_MASKS
#define MASK_FROM(head, query) (((head) * queries + (query)) * keys)
#else
#define MASK_FROM(head, query) ((query) * keys)
#endif
