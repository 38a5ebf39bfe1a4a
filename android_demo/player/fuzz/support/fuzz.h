// What the fuzz targets share. A target gives `fuzz`, and the way its inputs are changed is a word of CMakeLists.txt:
// its parts (JSON, or bytes) lie one after the other, a zero byte between them.
#pragma once

#include <stdlib.h>

#include "base/base.h"
#include "base/json.h"

// What libFuzzer links against; declared here because it has no header.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed);

namespace od::fuzz {

// Ends the process, so that libFuzzer keeps the input: what was accepted does not hold.
#define OD_HOLDS(condition) \
  do {                      \
    if (!(condition)) {     \
      abort();              \
    }                       \
  } while (0)

// An error says something, and where.
inline void check_error(const Error& error) {
  const Text message(error.message);
  OD_HOLDS(error.code != Code::none && message.size > 10 && message.size < sizeof error.message - 1);
  for (const u8 byte : message.bytes()) OD_HOLDS(byte >= 0x20 && byte != 0x7f);
}

// Part `which` of an input; empty where there are fewer.
Bytes part(Bytes input, u32 which);

// Change one value of one JSON text, or bytes of it. `parts` of the input are JSON, the last of them most often.
size_t mutate_json(u8* data, size_t size, size_t most, u32 seed);

}  // namespace od::fuzz
