// od_player run: one plan, with inputs from files or from the noise of a seed; its outputs as files and hashes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "base/sha256.h"
#include "picture/mersenne.h"
#include "tool/verbs.h"

namespace od {
namespace {

// "batch=2,height=64,width=64"; nothing: the component's first plan.
bool find_plan(Bundle& bundle, const Arguments& arguments, const Plan*& out, Error& error) {
  const Manifest& manifest = bundle.manifest();
  const Component* component = manifest.component(arguments.word(1));
  if (!component) {
    return fail(error, Code::usage, arguments.word(1), "od_player verify reads the bundle",
                "the bundle has no such component.");
  }
  const auto index = static_cast<u32>(component - manifest.components.data);
  Sizes sizes;
  const char* at = arguments.value("--sizes");
  while (at && *at) {
    const char* equals = strchr(at, '=');
    char* end = nullptr;
    const unsigned long value = equals ? strtoul(equals + 1, &end, 10) : 0;
    if (!equals || end == equals + 1 || (*end && *end != ',') || !value || value > 65536 ||
        !sizes.set({at, static_cast<size_t>(equals - at)}, static_cast<u32>(value))) {
      return fail(error, Code::usage, "--sizes", "use batch=2,height=64,width=64", "is \"%.60s\".", at);
    }
    at = *end ? end + 1 : end;
  }
  for (const PlanEntry& entry : manifest.plans) {
    const bool wanted = sizes.count ? entry.sizes == sizes : true;
    if (entry.component == index && bundle.served(entry) && wanted) return bundle.plan(index, entry.sizes, out, error);
  }
  return bundle.plan(index, sizes, out, error);  // says what there is
}

// The bytes of an input: a file's, or a draw (floats) or zeros (whole numbers).
bool read_input(const Operand& operand, Span<const char* const> files, Mersenne& noise, Pool& pool, Bytes& out,
                Error& error) {
  for (const char* text : files) {
    const char* equals = strchr(text, '=');
    if (!equals || Text(text, static_cast<size_t>(equals - text)) != operand.name) continue;
    if (!read_file(equals + 1, static_cast<size_t>(operand.bytes), pool, out, error)) return false;
    if (out.count == operand.bytes) return true;
    return fail(error, Code::usage, equals + 1, "write it little-endian and dense", "has %zu bytes (expected %llu).",
                out.count, static_cast<unsigned long long>(operand.bytes));
  }
  Span<u8> data;
  if (!pool.array(data, static_cast<size_t>(operand.bytes), error)) return false;
  if (operand.dtype == Dtype::f32) noise.draw({reinterpret_cast<float*>(data.data), data.count / sizeof(float)});
  out = {data.data, data.count};
  return true;
}

bool write_outputs(const Plan& plan, Span<const Output> outputs, const char* folder, JsonWriter& out, Error& error) {
  out.key("outputs").begin_object();
  for (size_t i = 0; i < outputs.count; ++i) {
    const Operand& operand = plan.operands[plan.outputs[i]];
    const Bytes data = {outputs[i].host.data, outputs[i].host.count};
    char digest[65], path[4096];
    sha256(data, digest);
    out.key(operand.name).begin_object().member("dtype", name_of(operand.dtype)).key("shape").begin_list();
    for (u32 d = 0; d < operand.shape.rank; ++d) out.whole(operand.shape.dims[d]);
    out.end_list().member("sha256", digest).end_object();
    if (!folder) continue;
    snprintf(path, sizeof path, "%s/%zu.bin", folder, i);  // names are text, not file names
    if (!write_file(path, data, error)) return false;
  }
  out.end_object();
  return true;
}

bool run(const Arguments& arguments, Error& error) {
  i64 seed, repeats;
  if (!arguments.whole("--seed", INT64_MIN, INT64_MAX, 0, seed, error) ||
      !arguments.whole("--repeat", 1, 100000, 1, repeats, error)) {
    return false;
  }
  const char* folder = arguments.value("--out");
  if (folder && !make_folders(folder)) {
    return fail(error, Code::output, folder, "choose another folder", "cannot be made.");
  }
  Player player;
  const Plan* plan;
  if (!open_player(arguments, player, error) || !find_plan(player.bundle(), arguments, plan, error)) return false;
  player.session().check = arguments.has("--check");
  Pool pool;
  Mersenne noise(static_cast<u64>(seed));
  List<const char*> list;
  const auto files = arguments.values("--input", list);
  Span<Input> inputs;
  Span<Output> outputs;
  if (!pool.array(inputs, plan->inputs.count, error) || !pool.array(outputs, plan->outputs.count, error)) return false;
  for (size_t i = 0; i < inputs.count; ++i) {
    const Operand& operand = plan->operands[plan->inputs[i]];
    inputs[i].port = operand.name;
    if (!read_input(operand, files, noise, pool, inputs[i].host, error)) return false;
  }
  for (size_t i = 0; i < outputs.count; ++i) {
    const Operand& operand = plan->operands[plan->outputs[i]];
    outputs[i].port = operand.name;
    if (!pool.array(outputs[i].host, static_cast<size_t>(operand.bytes), error)) return false;
  }
  JsonWriter out;
  char sizes[256];
  out.begin_object()
      .member("component", arguments.word(1))
      .member("sizes", plan->sizes.shown(sizes, sizeof sizes))
      .key("seconds")
      .begin_list();
  for (i64 i = 0; i < repeats; ++i) {
    const double began = seconds();
    if (!player.session().run(*plan, {inputs.data, inputs.count}, outputs, error)) return false;
    out.number(seconds() - began);
  }
  out.end_list();
  if (!write_outputs(*plan, {outputs.data, outputs.count}, folder, out, error)) return false;
  out.member("arena", plan->arena)
      .member("weights", plan->weight_bytes)
      .member("peak_bytes", memory_peak())
      .end_object();
  const char* text = out.done();
  return out.ok() ? puts(text) >= 0 : Pool::no_memory(error, out.size());
}

const char* const kWords[] = {"BUNDLE", "COMPONENT"};
const Flag kFlags[] = {OD_DEVICE_FLAGS,    {"--sizes", true}, {"--input", true, true}, {"--seed", true},
                       {"--repeat", true}, {"--out", true},   {"--check", false}};

}  // namespace

const Verb kRun = {"run",
                   "run one component and print times, and the hashes of what it makes, as JSON",
                   "BUNDLE COMPONENT [--sizes batch=2,height=64,width=64] [--input PORT=FILE] [--seed N] [--repeat N]\n"
                   "      [--check] [--out DIR (0.bin, 1.bin... in the order of the outputs)]",
                   {kWords, 2},
                   {kFlags, sizeof kFlags / sizeof kFlags[0]},
                   run};

}  // namespace od
