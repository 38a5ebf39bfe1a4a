// od_player: a bundle of ondevice on an OpenCL device, without Python.
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool/verbs.h"

namespace od {
namespace {

const Verb* const kVerbs[] = {&kDraw, &kRun, &kBench, &kVerify, &kShow, &kDevices, &kDoctor};
Player* interrupted = nullptr;

// The first Ctrl-C ends the drawing between two launches; the second ends the process.
void on_signal(int number) {
  if (!interrupted) _exit(128 + number);
  interrupted->cancel();
  interrupted = nullptr;
}

void print_line(void* user, Level level, const char* line) {
  if (level == Level::warning || *static_cast<bool*>(user)) {
    fprintf(stderr, "%s%s\n", level == Level::warning ? "warning: " : "", line);
  }
}

int print_help(FILE* to) {
  fprintf(to, "od_player %s: replays a bundle that `ondevice convert` wrote\n\n", kVersion);
  for (const Verb* verb : kVerbs) fprintf(to, "  od_player %s %s\n      %s\n", verb->name, verb->usage, verb->help);
  fprintf(to,
          "\n  each of them: [--device D] (a number, gpu, cpu, or part of a name) [--cache DIR] [--plans TARGET] "
          "[--avoid FILE] [--verbose]\n\nResults go to stdout, all else to stderr. Exit codes: 2 usage, 9 bundle, 10 "
          "no device, 11 kernel "
          "build,\n12 device, 13 NaN, 16 output, 130 Ctrl-C.\n");
  return to == stdout ? 0 : 2;
}

}  // namespace

void on_interrupt(Player* player) { interrupted = player; }

bool open_player(const Arguments& arguments, Player& player, Error& error) {
  return open_player(arguments, arguments.word(0), player, error);
}

bool open_player(const Arguments& arguments, const char* bundle, Player& player, Error& error) {
  PlayerOptions options;
  options.bundle = bundle;
  options.device = arguments.value("--device");
  options.cache = arguments.value("--cache");
  options.plans = arguments.value("--plans");
  options.avoid = arguments.value("--avoid");
  if (!player.open(options, error)) return false;
  on_interrupt(&player);
  return true;
}

}  // namespace od

int main(int count, char** arguments) {
  using namespace od;
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
  signal(SIGPIPE, SIG_IGN);
  if (count < 2) return print_help(stderr);
  if (strcmp(arguments[1], "--help") == 0 || strcmp(arguments[1], "-h") == 0) return print_help(stdout);
  if (strcmp(arguments[1], "--version") == 0) return printf("od_player %s\n", kVersion) < 0;
  for (const Verb* verb : kVerbs) {
    if (strcmp(verb->name, arguments[1]) != 0) continue;
    Arguments parsed;
    Error error;
    static bool verbose = false;
    set_log(print_line, &verbose);
    const bool done = parsed.parse({arguments + 2, static_cast<size_t>(count - 2)}, verb->flags, verb->words, error) &&
                      (verbose = parsed.has("--verbose"), verb->run(parsed, error));
    on_interrupt(nullptr);
    if (done) return fflush(stdout) == 0 ? 0 : static_cast<int>(Code::output);
    fprintf(stderr, "error: %s\n", error.message);
    return static_cast<int>(error.code);
  }
  fprintf(stderr, "error: %s: there is no such verb. Fix: od_player --help lists them.\n", arguments[1]);
  return 2;
}
