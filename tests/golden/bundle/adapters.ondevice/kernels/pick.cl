KERNEL(pick)(IN(int, ids), IN(float, x), IN(char, parts), OUT(float, y), ARG(int, n), ARG(int, count) GRID) {
  const int i = GID(0);
  if (i < count) y[i] = x[min(max(ids[i], 0), n - 1)] * ((float)parts[i] * 0.0078125f);
}
