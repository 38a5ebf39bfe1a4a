// PNG files, for tests/player/test_png.py. encode WIDTH HEIGHT [KEYWORD TEXT]...: of the pixels on stdin, to stdout.
// decode MOST: of files on stdin, each after its size (8 bytes), to stdout: size (4 and 4 bytes) and pixels, or two
// zeros and the error on a line of its own.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "picture/png.h"

namespace {

bool read(od::List<od::u8>& data, size_t count) {
  return data.resize(count) && fread(data.begin(), 1, count, stdin) == count;
}

int decode(od::u64 most) {
  od::u64 size;
  od::List<od::u8> file, pixels;
  while (fread(&size, sizeof size, 1, stdin) == 1 && read(file, size)) {
    od::u32 sides[2] = {};
    od::Error error;
    const od::Bytes bytes = static_cast<const od::List<od::u8>&>(file).span();
    const bool good = od::decode_png(bytes, "a.png", most, pixels, sides[0], sides[1], error);
    fwrite(sides, sizeof sides, 1, stdout);
    if (good) {
      fwrite(pixels.begin(), 1, pixels.size(), stdout);
    } else {
      puts(error.message);
    }
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 3 && !strcmp(arguments[1], "decode")) return decode(strtoull(arguments[2], nullptr, 10));
  const od::u32 width = static_cast<od::u32>(atoi(arguments[2])), height = static_cast<od::u32>(atoi(arguments[3]));
  od::List<od::u8> pixels, out;
  od::PngText texts[4];
  size_t given = 0;
  for (int i = 4; i + 1 < count && given < 4; i += 2) texts[given++] = {arguments[i], arguments[i + 1]};
  od::Error error;
  const bool good =
      read(pixels, size_t(3) * width * height) &&
      od::encode_png(static_cast<const od::List<od::u8>&>(pixels).span(), width, height, {texts, given}, out, error);
  if (!good) {
    puts(error.message);
    return 1;
  }
  fwrite(out.begin(), 1, out.size(), stdout);
  return 0;
}
