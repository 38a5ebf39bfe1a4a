// The verbs of the command line. Each gives an exit code and fills `error` where it is not 0.
#pragma once

#include "base/base.h"
#include "player.h"
#include "tool/flags.h"

namespace od {

struct Verb {
  const char* name;
  const char* help;   // one line
  const char* usage;  // its words and flags
  Span<const char* const> words;
  Span<const Flag> flags;
  bool (*run)(const Arguments& arguments, Error& error);
};

extern const Verb kDraw, kRun, kBench, kVerify, kDevices, kShow, kDoctor;

// The player of `word` 0 by --device, --cache, --plans and --avoid; Ctrl-C ends what it draws.
bool open_player(const Arguments& arguments, Player& player, Error& error);
bool open_player(const Arguments& arguments, const char* bundle, Player& player, Error& error);
// What Ctrl-C ends, besides the process; null: nothing.
void on_interrupt(Player* player);

#define OD_DEVICE_FLAGS \
  {"--device", true}, {"--cache", true}, {"--plans", true}, {"--avoid", true}, { "--verbose", false }

}  // namespace od
