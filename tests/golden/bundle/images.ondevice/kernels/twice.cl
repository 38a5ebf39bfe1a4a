KERNEL(twice)(IN(float, x), OUT(float, y), ARG(int, n) GRID) {
  const int i = GID(0);
  if (i < n) y[i] = 2.0f * x[i];
}
