KERNEL(fill)(IN(float, x), OUT(float, y), ARG(int, n) GRID) {
  const int i = GID(0);
  if (i < n) y[i] = 0.5f;
}
