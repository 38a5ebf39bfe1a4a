KERNEL(scale_add)(IN(float, x), IN(stg, w), OUT(float, y), ARG(int, n), ARG(float, factor) GRID) {
  const int i = GID(0);
  if (i < n) y[i] = factor * x[i] + LOAD(w, i % WEIGHTS);
}
