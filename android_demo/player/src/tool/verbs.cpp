// The short verbs: bench, verify, show and devices.
#include "tool/verbs.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace od {
namespace {

bool print(JsonWriter& out, Error& error) {
  const char* text = out.done();
  return out.ok() ? puts(text) >= 0 : Pool::no_memory(error, out.size());
}

bool run_bench(const Arguments& arguments, Error& error) {
  BenchOptions options;
  i64 warmups, repeats, steps;
  if (!arguments.whole("--warmup", 0, 1000, options.warmups, warmups, error) ||
      !arguments.whole("--repeat", 1, 100000, options.repeats, repeats, error) ||
      !arguments.whole("--steps", 1, 20000, 0, steps, error)) {
    return false;
  }
  options = {static_cast<u32>(warmups), static_cast<u32>(repeats), static_cast<u32>(steps)};
  Player player;
  JsonWriter out;
  return open_player(arguments, player, error) && bench(player, options, out, error) && print(out, error);
}

// Every file's sha256, and every plan of every target.
bool run_verify(const Arguments& arguments, Error& error) {
  Bundle bundle;
  if (!bundle.open(arguments.word(0), error) || !bundle.verify(nullptr, nullptr, error)) return false;
  const Manifest& manifest = bundle.manifest();
  for (size_t target = 0; target < max<size_t>(manifest.targets.count, 1); ++target) {
    if (manifest.targets.count && !bundle.for_target(manifest.targets[target].name, error)) return false;
    for (const PlanEntry& entry : manifest.plans) {
      const Plan* plan;
      if (bundle.served(entry) && !bundle.plan(entry.component, entry.sizes, plan, error)) return false;
    }
  }
  printf("%.*s: whole; %zu files, %zu plans, %zu weights\n", OD_TEXT(bundle.name()), manifest.files.count,
         manifest.plans.count, manifest.weights.count);
  return true;
}

bool run_show(const Arguments& arguments, Error& error) {
  Player player;
  JsonWriter out;
  if (!open_player(arguments, player, error)) return false;
  describe(player, out);
  return print(out, error);
}

bool run_devices(const Arguments& arguments, Error& error) {
  List<Facts> found;
  char remarks[2048] = "";
  if (!Device::list(arguments.value("--cache"), found, remarks, sizeof remarks, error)) return false;
  if (remarks[0]) fprintf(stderr, "%s\n", remarks);
  JsonWriter out;
  out.begin_list();
  for (size_t i = 0; i < found.size(); ++i) {
    const Facts& facts = found[i];
    describe(facts, out);
    if (arguments.has("--json")) continue;
    char has[160] = "";
    constexpr Need kByName[] = {kHalf, kImage2d, kMatrixUnit, kSubgroups, kWaveConstants};
    for (const Need need : kByName) {
      const size_t used = strlen(has);
      if (facts.capabilities & need) snprintf(has + used, sizeof has - used, "%s%s", used ? ", " : "", name_of(need));
    }
    printf("%zu  %s  %-4s %s  [%s, %s, driver %s]  %s%s; it has %s\n", i, facts.index, name_of(facts.kind), facts.name,
           facts.platform, facts.version, facts.driver, facts.refused[0] ? "not used: " : "usable", facts.refused,
           has[0] ? has : "nothing beyond OpenCL 1.2");
  }
  out.end_list();
  return !arguments.has("--json") || print(out, error);
}

const char* const kBundle[] = {"BUNDLE"};
const Flag kBenchFlags[] = {
    OD_DEVICE_FLAGS, {"--warmup", true}, {"--repeat", true}, {"--steps", true}, {"--json", false}};
const Flag kDeviceFlags[] = {OD_DEVICE_FLAGS};
const Flag kVerbose[] = {{"--verbose", false}};
const Flag kListFlags[] = {{"--json", false}, {"--cache", true}, {"--verbose", false}};

}  // namespace

const Verb kBench = {"bench",
                     "draw the same picture several times; times and memory as JSON",
                     "BUNDLE [--warmup N] [--repeat N] [--steps N] [--json]",
                     {kBundle, 1},
                     {kBenchFlags, sizeof kBenchFlags / sizeof kBenchFlags[0]},
                     run_bench};
const Verb kVerify = {"verify",  "read every file and every plan of a bundle", "BUNDLE", {kBundle, 1}, {kVerbose, 1},
                      run_verify};
const Verb kShow = {"show",
                    "what a bundle can draw on the device, and the memory that it takes, as JSON",
                    "BUNDLE",
                    {kBundle, 1},
                    {kDeviceFlags, sizeof kDeviceFlags / sizeof kDeviceFlags[0]},
                    run_show};
const Verb kDevices = {"devices", "list the OpenCL devices", "[--json]", {}, {kListFlags, 3}, run_devices};

}  // namespace od
