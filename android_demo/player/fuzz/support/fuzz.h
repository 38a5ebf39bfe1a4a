// What the fuzz targets share. Inputs that have several parts have a zero byte between them.
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

// The same numbers of the same seed.
class Chance {
 public:
  explicit Chance(u32 seed) : state_(seed * 2654435761u + 1) {}
  u32 below(size_t count) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<u32>((state_ >> 33) % (count ? count : 1));
  }

 private:
  u64 state_;
};

// Part `which` of an input; empty where there are fewer.
Bytes part(Bytes input, u32 which);

// An input that was accepted: half of those to come are made from one of them. What is kept for its coverage is refused
// almost always, and from what is refused little is made that is not.
void remember(Bytes input);

// Change a few values of a part that is JSON, or bytes of one that is not. The last part is chosen most often.
size_t mutate_json(u8* data, size_t size, size_t most, u32 seed);

}  // namespace od::fuzz
