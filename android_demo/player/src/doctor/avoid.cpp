#include "doctor/avoid.h"

#include <stdio.h>

#include "base/json.h"
#include "bundle/checker.h"
#include "bundle/targets.h"

namespace od {
namespace {

constexpr size_t kMaxList = 4 << 20, kMaxPrograms = 4096, kMaxDefines = 64;
constexpr i64 kInt32 = i64(1) << 31;
const char* const kFix = "give a file that `ondevice doctor --out FILE` wrote";

bool is_digest(Text text) {
  if (text.size != 64) return false;
  for (size_t i = 0; i < text.size; ++i) {
    const char c = text.data[i];
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

bool parse_program(const Checker& check, const Json& row, const Place& at, Pool& pool, AvoidedProgram& out) {
  const Json* fields[3];
  const Place digest = at.field("sha256"), defines = at.field("defines");
  if (!check.record(row, {"kernel", "sha256", "defines"}, fields, at) ||
      !check.identifier(*fields[0], at.field("kernel"), out.kernel)) {
    return false;
  }
  if (!fields[1]->is(Json::Kind::text) || !is_digest(fields[1]->text)) {
    return check.fail(digest, "is %s (expected 64 hexadecimal digits)", shown(*fields[1]).text);
  }
  out.sha256 = fields[1]->text;
  if (!check.table(*fields[2], kMaxDefines, defines) ||
      !pool.array(out.defines, fields[2]->members.count, check.error())) {
    return false;
  }
  for (size_t i = 0; i < out.defines.count; ++i) {
    const Member& member = fields[2]->members[i];
    out.defines[i].name = member.key;
    if (!check.identifier(member.key, defines) ||
        !check.integer(member.value, -kInt32, kInt32 - 1, defines.key(member.key), out.defines[i].value)) {
      return false;
    }
  }
  return true;
}

// Whether a plan's kernel is that program, in whatever order the file has its defines.
bool is(const PlanKernel& kernel, const AvoidedProgram& program, const Manifest& manifest) {
  if (manifest.kernels[kernel.file] != program.kernel || kernel.defines.count != program.defines.count) return false;
  for (const Define& own : kernel.defines) {
    bool same = false;
    for (const Define& other : program.defines) same |= own.name == other.name && own.value == other.value;
    if (!same) return false;
  }
  char path[128];
  const int size = snprintf(path, sizeof path, "kernels/%.*s.cl", OD_TEXT(program.kernel));
  const FileEntry* file = manifest.file({path, static_cast<size_t>(size)});
  return file && file->sha256 == program.sha256;
}

// Whether the chosen target's plans have none of the programs.
bool has_none(Bundle& bundle, const AvoidList& list, Error& error) {
  const Manifest& manifest = bundle.manifest();
  for (const PlanEntry& entry : manifest.plans) {
    const Plan* plan;
    if (!bundle.served(entry)) continue;
    if (!bundle.plan(entry.component, entry.sizes, plan, error)) return false;
    for (const PlanKernel& kernel : plan->kernels) {
      for (const AvoidedProgram& program : list.programs) {
        if (!is(kernel, program, manifest)) continue;
        return fail(error, Code::device, manifest.files[entry.file].path,
                    "convert again with `--avoid FILE`, the list that was given here",
                    "it has a program of %.*s.cl that is wrong on %.*s.", OD_TEXT(program.kernel),
                    OD_TEXT(list.device));
      }
    }
  }
  return true;
}

}  // namespace

bool parse_avoid(Bytes data, Text name, Pool& pool, AvoidList& out, Error& error) {
  Json file;
  const JsonLimits limits = {kMaxList};
  const Checker check(name, error);
  const auto read = [&] {
    const Json *fields[4], *device;
    const Place root, at("programs");
    if (!parse_json(data, name, pool, file, error, limits) ||
        !check.record(file, {"format", "version", "device", "programs"}, fields, root)) {
      return false;
    }
    if (!fields[0]->is(Json::Kind::text) || fields[0]->text != "ondevice-avoid" ||
        !fields[1]->is(Json::Kind::integer) || fields[1]->integer != 1) {
      return fail(error, Code::usage, name, kFix, "it is no list of programs to avoid, of this version.");
    }
    if (!check.field(*fields[2], "name", device, "device") || !check.text(*device, "device", out.device) ||
        !check.array(*fields[3], 0, kMaxPrograms, at) || !pool.array(out.programs, fields[3]->list.count, error)) {
      return false;
    }
    for (size_t i = 0; i < out.programs.count; ++i) {
      if (!parse_program(check, fields[3]->list[i], at.item(i), pool, out.programs[i])) return false;
    }
    return true;
  };
  if (read()) return true;
  if (error.code == Code::bundle) error.code = Code::usage;  // the file is a flag's, and no part of the bundle
  return false;
}

bool choose_without(Bundle& bundle, const Facts& device, const AvoidList& list, bool any_target, Error& error) {
  if (list.device != Text(device.name)) {
    log(Level::info, "the list of programs to avoid is of %.*s, and not of %s", OD_TEXT(list.device), device.name);
    return true;
  }
  if (has_none(bundle, list, error)) return true;
  if (error.code != Code::device || !any_target) return false;
  const u32 chosen = bundle.target();
  const Manifest& manifest = bundle.manifest();
  for (u32 i = 0; i < manifest.targets.count; ++i) {
    Error other;
    if (i == chosen || !can_run(manifest.targets[i], device.limits())) continue;
    if (!bundle.for_target(manifest.targets[i].name, other)) continue;
    if (!has_none(bundle, list, other)) continue;
    log(Level::info, "plans of %.*s are taken: those of %.*s have programs that are wrong here",
        OD_TEXT(manifest.targets[i].name), OD_TEXT(manifest.targets[chosen].name));
    error = {};
    return true;
  }
  return false;
}

}  // namespace od
