// The epilogue: what happens to a result before it is stored, in this order. ondevice/graph/epilogue.py has the same
// table of steps.
//   scale (of int8 weights), bias, shift, activation, gate, residual, and a ReLU of the sum
// A kernel is built with the defines of the steps that its op has; the others come to nothing. The operands are called
// `scales`, `bias`, `shift`, `gate` and `residual`, and the result `y`, in every kernel. `load` is LOAD for one value
// and LOADV for a vector; `i` counts elements.
#if W8
#define SCALE(z, i)               z = z * LOADSV(scales, i);
#else
#define SCALE(z, i)
#endif
#if HAS_BIAS
#define ADD_BIAS(z, load, i)      z += load(bias, i);
#else
#define ADD_BIAS(z, load, i)
#endif
#if HAS_SHIFT
#define ADD_SHIFT(z, load, i)     z += load(shift, i);
#else
#define ADD_SHIFT(z, load, i)
#endif
// GEGLU multiplies by what this gives of the columns beside.
#if ACT_Silu
#define ACTIVATE(v)     SILU(v)
#define ACTIVATE_EACH(z, n) SILU_EACH(z, n)
#elif ACT_Relu
#define ACTIVATE(v)     RELU(v)
#elif ACT_QuickGelu
#define ACTIVATE(v)     QUICK_GELU(v)
#elif ACT_GeluTanh
#define ACTIVATE(v)     GELU_TANH(v)
#elif ACT_Gelu || ACT_Geglu
#define ACTIVATE(v)     GELU(v)
#else
#define ACTIVATE(v)     (v)
#endif
#ifndef ACTIVATE_EACH  // of n vectors
#define ACTIVATE_EACH(z, n) for (int od_i = 0; od_i < (n); od_i++) z[od_i] = ACTIVATE(z[od_i]);
#endif
// A vector of a product; with GEGLU, times its gates `beside`.
#if ACT_Geglu
#define OD_ACTIVATED(z, beside, beside_at)     \
  vec od_beside = beside;                      \
  SCALE(od_beside, beside_at)                  \
  ADD_BIAS(od_beside, LOADV, beside_at)        \
  z = z * ACTIVATE(od_beside);
#else
#define OD_ACTIVATED(z, beside, beside_at) z = ACTIVATE(z);
#endif
#if HAS_GATE
#define TIMES_GATE(z, load, i)    z *= load(gate, i);
#else
#define TIMES_GATE(z, load, i)
#endif
#if HAS_ADD
#define ADD_RESIDUAL(z, load, i)          \
  z += load(OVERWRITTEN(residual, y), i); \
  RECTIFY(z)
#else
#define ADD_RESIDUAL(z, load, i)
#endif
// Of the sum, and so only beside HAS_ADD.
#if ACT_ThenRelu
#define RECTIFY(z)      z = RELU(z);
#else
#define RECTIFY(z)
#endif

// What follows scale and bias, of one value or of a vector of a convolution.
#define FINISH(z, load, shift_at, out) \
  ADD_SHIFT(z, load, shift_at)         \
  z = ACTIVATE(z);                     \
  ADD_RESIDUAL(z, load, out)
// What follows the activation, of a product of rows.
#define FINISH_ROW(z, load, gate_at, out) \
  TIMES_GATE(z, load, gate_at)            \
  ADD_RESIDUAL(z, load, out)

// Of a vector that would pass the end of a row, `lanes` values one by one. `finish(value, lane)`: the steps that are
// left; AS_IS for none.
#define STORE_LANES(z, out, lanes, finish)            \
  {                                                   \
    float od_line[V];                                 \
    STOREP(od_line, 0, z);                            \
    for (int od_c = 0; od_c < (lanes); od_c++) {      \
      float od_one = od_line[od_c];                   \
      finish(od_one, od_c)                            \
      STORE(y, (out) + od_c, od_one);                 \
    }                                                 \
  }
#define AS_IS(value, lane)

// The end of a product: a vector of a row, of which y has `columns` more from it on. `at` is where its columns are in
// scales and bias, and with GEGLU `beside` its gates, whose columns are at `beside_at`.
#define OD_REST_OF_ROW(one, c) FINISH_ROW(one, LOAD, od_times + c, od_out + c)
#define STORE_PRODUCT(given, at, beside, beside_at, gate_at, out, columns)      \
  {                                                                             \
    const int od_times = gate_at, od_out = out;                                 \
    vec od_z = given;                                                           \
    SCALE(od_z, at)                                                             \
    ADD_BIAS(od_z, LOADV, at)                                                   \
    OD_ACTIVATED(od_z, beside, beside_at)                                       \
    if (V <= (columns)) {                                                       \
      FINISH_ROW(od_z, LOADV, od_times, od_out)                                 \
      STOREV(y, od_out, od_z);                                                  \
    } else STORE_LANES(od_z, od_out, columns, OD_REST_OF_ROW)                   \
  }
