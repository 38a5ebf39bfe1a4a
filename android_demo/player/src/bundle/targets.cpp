#include "bundle/targets.h"

#include <stdio.h>

namespace od {
namespace {

// What a target says that its plans take of a device at most, and a device how much it has.
struct Limit {
  const char* name;
  const char* words;
  u64 TargetEntry::*most;
  u64 DeviceLimits::*has;
};
constexpr Limit kLimits[] = {
    {"work_group", "work group", &TargetEntry::work_group, &DeviceLimits::work_group},
    {"local_memory", "local memory", &TargetEntry::local_memory, &DeviceLimits::local_memory},
    {"allocation", "allocation", &TargetEntry::allocation, &DeviceLimits::allocation},
    {"image_width", "image width", &TargetEntry::image_width, &DeviceLimits::image_width},
    {"image_height", "image height", &TargetEntry::image_height, &DeviceLimits::image_height},
};

bool contains_folded(Text text, Text part) {
  for (size_t i = 0; i + part.size <= text.size; ++i) {
    if (compare_folded(text.slice(i, i + part.size), part) == 0) return true;
  }
  return false;
}

bool is_of(const TargetEntry& target, const DeviceLimits& device) {
  for (const Text part : target.devices) {
    if (contains_folded(device.name, part) || contains_folded(device.version, part)) return true;
  }
  return false;
}

// Why a device cannot run a target's plans, for people.
void append_misfit(const TargetEntry& target, const DeviceLimits& device, char* out, size_t room, size_t& used) {
  const auto add = [&](const char* format, auto... values) {
    if (used < room) used += static_cast<size_t>(snprintf(out + used, room - used, format, values...));
  };
  add("%s%.*s: it needs ", used ? "; " : "", OD_TEXT(target.name));
  if (target.needs & ~device.capabilities) {
    const char* between = "";
    for (const Text need : target.need_names) {
      if (!(need_of(need) & ~device.capabilities)) continue;
      add("%s%.*s", between, OD_TEXT(need));
      between = ", ";
    }
    return;
  }
  for (const Limit& limit : kLimits) {
    if (!(device.*limit.has) || target.*limit.most <= device.*limit.has) continue;
    add("%s of %llu (the device has %llu)", limit.words, static_cast<unsigned long long>(target.*limit.most),
        static_cast<unsigned long long>(device.*limit.has));
    return;
  }
}

bool parse_target(const Checker& check, const Json& row, const Place& at, Pool& pool, TargetEntry& out) {
  const Json* fields[4];
  if (!check.record(row, {"name", "devices", "needs", "limits"}, fields, at) ||
      !check.name(*fields[0], at.field("name"), out.name)) {
    return false;
  }
  const auto texts = [&](const Json& value, const Place& place, size_t most, bool identifiers, Span<Text>& found) {
    if (!check.array(value, 0, most, place) || !pool.array(found, value.list.count, check.error())) return false;
    for (size_t i = 0; i < found.count; ++i) {
      const Place item = place.item(i);
      if (!(identifiers ? check.identifier(value.list[i], item, found[i])
                        : check.text(value.list[i], item, found[i]))) {
        return false;
      }
    }
    return true;
  };
  if (!texts(*fields[1], at.field("devices"), kMaxTargets, false, out.devices) ||
      !texts(*fields[2], at.field("needs"), kMaxNeeds, true, out.need_names)) {
    return false;
  }
  for (const Text need : out.need_names) out.needs |= need_of(need);
  const Place limits = at.field("limits");
  const Json* numbers[5];
  const char* const keys[] = {kLimits[0].name, kLimits[1].name, kLimits[2].name, kLimits[3].name, kLimits[4].name};
  if (!check.record(*fields[3], keys, numbers, limits)) return false;
  for (size_t i = 0; i < 5; ++i) {
    if (!check.integer(*numbers[i], 0, kMaxBytes, limits.field(keys[i]), out.*kLimits[i].most)) return false;
  }
  return true;
}

}  // namespace

bool can_run(const TargetEntry& target, const DeviceLimits& device) {
  if (target.needs & ~device.capabilities) return false;
  for (const Limit& limit : kLimits) {
    if (device.*limit.has && target.*limit.most > device.*limit.has) return false;
  }
  return true;
}

bool parse_targets(const Checker& check, const Json& rows, Pool& pool, Span<TargetEntry>& out) {
  const Place at("targets");
  if (!check.array(rows, 1, kMaxTargets, at) || !pool.array(out, rows.list.count, check.error())) return false;
  Text names[kMaxTargets];
  for (size_t i = 0; i < out.count; ++i) {
    if (!parse_target(check, rows.list[i], at.item(i), pool, out[i])) return false;
    names[i] = out[i].name;
  }
  return check.distinct({names, out.count}, at);
}

bool target_for(const Manifest& manifest, const DeviceLimits& device, u32& target, Error& error) {
  const auto& targets = manifest.targets;
  target = 0;
  bool of_any = false;
  for (u32 i = 0; i < targets.count; ++i) {
    if (!is_of(targets[i], device)) continue;
    of_any = true;
    target = i;
    if (can_run(targets[i], device)) return true;
  }
  for (u32 i = static_cast<u32>(targets.count); i-- > 0;) {
    target = i;
    if (can_run(targets[i], device)) return true;
  }
  if (targets.empty()) return true;  // a bundle for one kind of devices
  char why[900] = "";
  size_t used = 0;
  for (u32 i = 0; i < targets.count; ++i) {
    if (of_any ? is_of(targets[i], device) : i + 1 == targets.count) {
      append_misfit(targets[i], device, why, sizeof why, used);
    }
  }
  return fail(error, Code::device, "", "convert for a --target of this device, or use another --device",
              "%.*s runs none of the bundle's plans (%s).", OD_TEXT(device.name), why);
}

bool check_serves(const Plan& plan, Text file, const Manifest& manifest, u64 served, Error& error) {
  u64 work_group = 0, width = 0, height = 0;
  for (const Dispatch& call : plan.dispatches) {
    work_group = max(work_group, u64(call.group[0]) * call.group[1] * call.group[2]);
  }
  for (const Operand& operand : plan.operands) {
    width = max<u64>(width, operand.width);
    height = max<u64>(height, operand.height);
  }
  const u64 taken[] = {work_group, 0, plan.arena, width, height};  // of local memory its kernels know
  for (u32 i = 0; i < manifest.targets.count; ++i) {
    const TargetEntry& target = manifest.targets[i];
    if (!(served >> i & 1)) continue;
    if (const u32 unsaid = plan.needs & ~target.needs) {
      return fail(error, Code::bundle, file, kDamaged, "needs %s, which target %.*s of bundle.json does not say.",
                  name_of(static_cast<Need>(unsaid & -unsaid)), OD_TEXT(target.name));
    }
    for (size_t k = 0; k < 5; ++k) {
      if (taken[k] <= target.*kLimits[k].most) continue;
      return fail(error, Code::bundle, file, kDamaged, "takes %s of %llu (target %.*s of bundle.json says %llu).",
                  kLimits[k].name, static_cast<unsigned long long>(taken[k]), OD_TEXT(target.name),
                  static_cast<unsigned long long>(target.*kLimits[k].most));
    }
  }
  return true;
}

}  // namespace od
