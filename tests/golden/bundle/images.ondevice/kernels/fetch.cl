KERNEL(fetch)(IN_IMAGE(x), IN_IMAGE(w), OUT(float, y), ARG(int, width), ARG(int, rows) GRID) {
  const int column = GID(0), row = GID(1);
  if (column >= width || row >= rows) return;
  STORE4(y, row * width + column, TEXEL(x, column, rows - 1 - row) + TEXEL(w, row % 2 * width + column, row / 2));
}
