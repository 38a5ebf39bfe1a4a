// Weights with adapters in them, for tests/player/test_adapters.py: `check_adapters BUNDLE NAME:SCALE...` prints each
// that these change, its bytes in hexadecimal, or why it cannot have them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapt/changed.h"

int main(int count, char** arguments) {
  using namespace od;
  Bundle bundle;
  Error error;
  List<ActiveAdapter> adapters;
  if (count < 2 || !bundle.open(arguments[1], error)) {
    printf("%d %s\n", static_cast<int>(error.code), error.message);
    return 0;
  }
  for (int i = 2; i < count; ++i) {
    const char* const colon = strrchr(arguments[i], ':');
    const Text name(arguments[i], static_cast<size_t>(colon - arguments[i]));
    for (u32 k = 0; k < bundle.manifest().adapters.count; ++k) {
      if (bundle.manifest().adapters[k].name == name) adapters.push({k, strtod(colon + 1, nullptr)});
    }
  }
  Changed changed(bundle);
  if (!changed.open(adapters.span())) return 1;
  const Span<WeightEntry> weights = bundle.manifest().weights;
  for (u32 i = 0; i < weights.count; ++i) {
    if (!changed.has(i)) continue;
    List<u8> bytes;
    printf("%.*s\t", OD_TEXT(weights[i].key));
    if (changed.values(i, bytes, error)) {
      for (const u8 byte : bytes) printf("%02x", byte);
    } else {
      printf("%d %s", static_cast<int>(error.code), error.message);
    }
    puts("");
    error = {};
  }
  return 0;
}
