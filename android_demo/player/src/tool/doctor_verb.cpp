// od_player doctor: whether the device computes a golden file's launches as the device did that it is of.
#include <stdio.h>

#include "base/os.h"
#include "doctor/doctor.h"
#include "tool/verbs.h"

namespace od {
namespace {

bool run(const Arguments& arguments, Error& error) {
  const char* file = arguments.value("--golden");
  if (!file) {
    return fail(error, Code::usage, "--golden", "make one with `ondevice doctor BUNDLE --golden FILE`",
                "a golden file is needed.");
  }
  Player player;
  Mapping golden;
  JsonWriter out;
  DoctorCounts counts;
  if (!open_player(arguments, player, error)) return false;
  if (!golden.open(file, error)) {
    error.code = Code::usage;
    return false;
  }
  if (!doctor(player.bundle(), player.device(), golden.bytes(), file, {}, out, counts, error)) return false;
  const char* text = out.done();
  if (!out.ok()) return Pool::no_memory(error, out.size());
  if (arguments.has("--json")) {
    puts(text);
  } else {
    printf("%s: %u of %u launches are as in %s\n", player.device().facts().name,
           counts.launches - counts.wrong - counts.refused, counts.launches, file);
  }
  if (!counts.wrong && !counts.refused) return true;
  return fail(error, counts.wrong ? Code::numeric : Code::device, player.device().facts().name,
              "see the rows of --json, and convert with --avoid", "%u launches are wrong, and %u were refused.",
              counts.wrong, counts.refused);
}

const char* const kWords[] = {"BUNDLE"};
const Flag kFlags[] = {OD_DEVICE_FLAGS, {"--golden", true}, {"--json", false}};

}  // namespace

const Verb kDoctor = {"doctor",
                      "run every launch of a golden file, and say which are wrong",
                      "BUNDLE --golden FILE [--json]",
                      {kWords, 1},
                      {kFlags, sizeof kFlags / sizeof kFlags[0]},
                      run};

}  // namespace od
