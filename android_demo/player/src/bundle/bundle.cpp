#include "bundle/bundle.h"

#include <stdio.h>
#include <string.h>

#include "base/sha256.h"
#include "bundle/checker.h"

namespace od {
namespace {

constexpr Text kFile("bundle.json", 11), kScheduler("scheduler/scheduler_config.json", 31);
constexpr size_t kTree = 512 << 20;  // bytes of parsed JSON: several times what any real file takes
constexpr size_t kHashed = 4 << 20;  // bytes between two calls of who waits
constexpr size_t kMaxTable = 16384;

bool wrong_digest(Text path, Error& error) {
  return fail(error, Code::bundle, path, kDamaged, "was changed: its sha256 is not the one in bundle.json.");
}

bool append(List<char>& out, Text text, Error& error) {
  const size_t size = out.size();
  if (!out.resize(size + text.size)) return Pool::no_memory(error, text.size);
  memcpy(out.begin() + size, text.data, text.size);
  return true;
}

}  // namespace

bool Bundle::open(const char* path, Error& error) { return files_.open(path, error) && read_manifest(error); }

bool Bundle::open(int descriptor, const char* name, Error& error) {
  return files_.open(descriptor, name, error) && read_manifest(error);
}

bool Bundle::read_manifest(Error& error) {
  choose(0);
  pool_.clear();
  manifest_ = {};
  u64 bytes;
  if (!files_.size(kFile, bytes, error)) return false;
  if (bytes > kMaxJson) {
    return fail(error, Code::bundle, kFile, kDamaged, "is too large (got %llu bytes, expected at most %zu).",
                static_cast<unsigned long long>(bytes), kMaxJson);
  }
  Pool texts;
  Bytes data;
  Json value;
  if (!files_.read(kFile, texts, data, error)) return false;
  sha256(data, digest_);
  if (!parse_json(data, kFile, pool_, value, error) ||
      !parse_manifest(value, pool_, manifest_, error) || !pool_.array(small_, manifest_.files.count, error)) {
    return false;
  }
  for (const FileEntry& file : manifest_.files) {
    if (!check_size(file, error)) return false;
  }
  return choose(manifest_.targets.count ? static_cast<u32>(manifest_.targets.count) - 1 : 0);
}

bool Bundle::choose(u32 target) {
  target_ = target;
  plans_.known.clear();
  plans_.seen.rows.clear();
  plans_.pool.clear();
  return true;
}

bool Bundle::check_size(const FileEntry& file, Error& error) {
  u64 bytes;
  if (!files_.size(file.path, bytes, error)) return false;
  return bytes == file.bytes ||
         fail(error, Code::bundle, file.path, kDamaged, "is cut or changed (got %llu bytes, expected %llu).",
              static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(file.bytes));
}

bool Bundle::for_device(const DeviceLimits& device, Error& error) {
  u32 target;
  return target_for(manifest_, device, target, error) && choose(target);
}

bool Bundle::for_target(Text name, Error& error) {
  for (u32 i = 0; i < manifest_.targets.count; ++i) {
    if (manifest_.targets[i].name == name) return choose(i);
  }
  const bool several = manifest_.targets.count > 0;
  char have[800] = "it is for one kind of devices, so none has a name";
  size_t used = 0;
  for (u32 i = 0; i < manifest_.targets.count && used < sizeof have; ++i) {
    used += static_cast<size_t>(snprintf(have + used, sizeof have - used, "%s%.*s", i ? ", " : "it has those of ",
                                         OD_TEXT(manifest_.targets[i].name)));
  }
  return fail(error, Code::usage, "--plans", several ? "name one of these" : "leave it out",
              "%.*s has no plans of %.*s (%s).", OD_TEXT(files_.name()), OD_TEXT(name), have);
}

const PlanEntry* Bundle::find_of(u32 target, u32 component, const Sizes& sizes) const {
  for (const PlanEntry& entry : manifest_.plans) {
    if (entry.component == component && (entry.targets >> target & 1) && entry.sizes == sizes) return &entry;
  }
  return nullptr;
}

const PlanEntry* Bundle::find(u32 component, const Sizes& sizes) const { return find_of(target_, component, sizes); }

bool Bundle::plan(u32 component, const Sizes& sizes, const Plan*& out, Error& error) {
  if (const PlanEntry* entry = find(component, sizes)) return load(*entry, plans_, out, error);
  const Text name = manifest_.components[component].name;
  char have[700] = "none", one[640], fix[160];
  size_t used = 0;
  for (const PlanEntry& entry : manifest_.plans) {
    if (entry.component != component || !served(entry) || used >= sizeof have) continue;
    used += static_cast<size_t>(
        snprintf(have + used, sizeof have - used, "%s%s", used ? "; " : "", entry.sizes.shown(one, sizeof one)));
  }
  const u32 scale = manifest_.draws ? manifest_.pipeline.latents.scale : 0;
  if (scale && sizes.has("width") && sizes.has("height")) {
    snprintf(fix, sizeof fix, "convert the checkpoint again with `--size %ux%u`", sizes.get("width") * scale,
             sizes.get("height") * scale);
  } else {
    snprintf(fix, sizeof fix, "convert the checkpoint again with `--size WIDTHxHEIGHT`");
  }
  return fail(error, Code::bundle, files_.name(), fix, "has no plan of %.*s for %s (it has %s).", OD_TEXT(name),
              sizes.shown(one, sizeof one), have);
}

bool Bundle::load(const PlanEntry& entry, Plans& plans, const Plan*& out, Error& error) {
  for (const Known& known : plans.known) {
    if (known.file == entry.file) {
      out = known.plan;
      return true;
    }
  }
  const FileEntry& file = manifest_.files[entry.file];
  // What a plan keeps is copied out of its JSON, which is several times as large.
  Pool tree(kTree);
  Bytes data;
  Json value;
  char digest[65];
  auto* plan = plans.pool.one<Plan>();
  if (!plan) return Pool::no_memory(error, sizeof(Plan));
  if (!check_size(file, error) || !files_.read(file.path, tree, data, error)) return false;
  sha256(data, digest);
  if (file.sha256 != digest) return wrong_digest(file.path, error);
  if (!parse_json(data, file.path, tree, value, error) ||
      !parse_plan(value, file.path, plans.pool, manifest_, entry, *plan, error) ||
      !check_ports(*plan, file.path, manifest_, plans.seen, error)) {
    return false;
  }
  if (!plans.known.push({entry.file, plan})) return Pool::no_memory(error, sizeof(Known));
  out = plan;
  return true;
}

bool Bundle::stages(u32 height, u32 width, u32 rows, List<const Plan*>& out, Error& error) {
  return stages_of(target_, height, width, rows, plans_, out, error);
}

bool Bundle::stages_of(u32 target, u32 height, u32 width, u32 rows, Plans& plans, List<const Plan*>& out,
                       Error& error) {
  out.clear();
  if (!manifest_.draws) return true;
  const u32 decoder = manifest_.pipeline.after[manifest_.pipeline.after.count - 1].component;
  Sizes sizes;
  sizes.set("batch", 1);
  sizes.set("height", height);
  sizes.set("width", width);
  sizes.set("rows", rows);
  while (true) {
    sizes.set("stage", static_cast<u32>(out.size()) + 1);
    const PlanEntry* entry = find_of(target, decoder, sizes);
    if (!entry) break;
    const Plan* plan;
    if (!load(*entry, plans, plan, error)) return false;
    if (!out.push(plan)) return Pool::no_memory(error, sizeof plan);
  }
  return out.empty() || check_stages({out.begin(), out.size()}, manifest_, error);
}

bool Bundle::read(Text path, size_t most, Bytes& out, Error& error) {
  const FileEntry* file = manifest_.file(path);
  if (!file) return fail(error, Code::bundle, path, kDamaged, "is not a file of %.*s.", OD_TEXT(files_.name()));
  if (file->bytes > most) {
    return fail(error, Code::bundle, path, kDamaged, "is too large (got %llu bytes, expected at most %zu).",
                static_cast<unsigned long long>(file->bytes), most);
  }
  Small& small = small_[static_cast<size_t>(file - manifest_.files.data)];
  if (!small.known) {
    char digest[65];
    if (!check_size(*file, error) || !files_.read(path, pool_, small.bytes, error)) return false;
    sha256(small.bytes, digest);
    if (file->sha256 != digest) return wrong_digest(path, error);
    small.known = true;
  }
  out = small.bytes;
  return true;
}

bool Bundle::text(Text path, Text& out, Error& error) {
  Bytes data;
  if (!read(path, kMaxText, data, error)) return false;
  out = {reinterpret_cast<const char*>(data.data), data.count};
  Small& small = small_[static_cast<size_t>(manifest_.file(path) - manifest_.files.data)];
  for (Text rest = out; !small.is_text && rest.size;) {
    u32 letter;
    const size_t size = decode_letter(rest, letter);
    if (!size) return fail(error, Code::bundle, path, kDamaged, "is not UTF-8 text.");
    rest = rest.slice(size, rest.size);
  }
  small.is_text = true;
  return true;
}

bool Bundle::shard(u32 file, Bytes& out, Error& error) {
  const FileEntry& entry = manifest_.files[file];
  if (!check_size(entry, error) || !files_.map(entry.path, out, error)) return false;
  return out.count == entry.bytes || fail(error, Code::bundle, entry.path, kDamaged, "changed while it was read.");
}

void Bundle::forget(u32 file) { forget(file, 0, manifest_.files[file].bytes); }
void Bundle::forget(u32 file, u64 from, u64 bytes) { files_.forget(manifest_.files[file].path, from, bytes); }
void Bundle::expect(u32 file, u64 from, u64 bytes) { files_.expect(manifest_.files[file].path, from, bytes); }
bool Bundle::fetch(u32 file, u64 from, u64 bytes, Error& error) {
  return files_.fetch(manifest_.files[file].path, from, bytes, error);
}

bool Bundle::source(const PlanKernel& kernel, Text dialect, List<char>& out, Error& error) {
  bool known = false;
  char have[400] = "none";
  size_t used = 0;
  for (const Text prelude : manifest_.preludes) {
    known = known || prelude == dialect;
    if (used >= sizeof have) continue;
    used +=
        static_cast<size_t>(snprintf(have + used, sizeof have - used, "%s%.*s", used ? ", " : "", OD_TEXT(prelude)));
  }
  if (!known) {
    return fail(error, Code::bundle, files_.name(), "use a device of one of these dialects, or convert again",
                "has no kernels for the dialect %s (it has %s).", shown(dialect).text, have);
  }
  const Text name = manifest_.kernels[kernel.file];
  char path[256];
  Text prelude, text_of_kernel;
  snprintf(path, sizeof path, "kernels/prelude/%.*s.h", OD_TEXT(dialect));
  if (!text(path, prelude, error)) return false;
  snprintf(path, sizeof path, "kernels/%.*s.cl", OD_TEXT(name));
  if (!text(path, text_of_kernel, error)) return false;
  out.clear();
  char line[160];
  for (const Define& define : kernel.defines) {
    snprintf(line, sizeof line, "#define %.*s %d\n", OD_TEXT(define.name), define.value);
    if (!append(out, line, error)) return false;
  }
  snprintf(line, sizeof line, "\n#line 1 \"%.*s.cl\"\n", OD_TEXT(name));
  if (!append(out, prelude, error) || !append(out, line, error) || !append(out, text_of_kernel, error) ||
      !append(out, {"", 1}, error)) {
    return false;
  }
  out.pop();
  return true;
}

bool Bundle::table(Text path, Error& error) {
  Bytes data;
  Pool tree(kTree);
  Json value;
  return read(path, kMaxJson, data, error) && parse_json(data, path, tree, value, error) &&
         Checker(path, error).table(value, kMaxTable, {});
}

bool Bundle::verify(bool (*progress)(void* user, u64 done, u64 total), void* user, Error& error) {
  u64 total = 0, done = 0;
  for (const FileEntry& file : manifest_.files) total += file.bytes;
  for (const FileEntry& file : manifest_.files) {
    if (!verify_digest(file, progress, user, done, total, error)) return false;
  }
  for (u32 target = 0; target < max<size_t>(manifest_.targets.count, 1); ++target) {
    if (!verify_target(target, error)) return false;
  }
  char path[256];
  Text found;
  for (const Text kernel : manifest_.kernels) {
    snprintf(path, sizeof path, "kernels/%.*s.cl", OD_TEXT(kernel));
    if (!text(path, found, error)) return false;
  }
  for (const Text prelude : manifest_.preludes) {
    snprintf(path, sizeof path, "kernels/prelude/%.*s.h", OD_TEXT(prelude));
    if (!text(path, found, error)) return false;
  }
  for (const Text sampler : manifest_.samplers) {
    snprintf(path, sizeof path, "samplers/%.*s.json", OD_TEXT(sampler));
    if (!table(path, error)) return false;
  }
  return table(kScheduler, error);
}

bool Bundle::verify_digest(const FileEntry& file, bool (*progress)(void* user, u64 done, u64 total), void* user,
                           u64& done, u64 total, Error& error) {
  Bytes data;
  Sha256 hash;
  char digest[65];
  if (!check_size(file, error) || !files_.map(file.path, data, error)) return false;
  for (size_t at = 0; at < data.count; at += kHashed) {
    const size_t size = min(kHashed, data.count - at);
    hash.add(data.slice(at, at + size));
    files_.forget(file.path, at, size);
    done += size;
    if (progress && !progress(user, done, total)) {
      return fail(error, Code::cancelled, files_.name(), "", "the check of its files was cancelled.");
    }
  }
  hash.finish(digest);
  return file.sha256 == digest || wrong_digest(file.path, error);
}

bool Bundle::verify_target(u32 target, Error& error) {
  Plans plans;
  for (const PlanEntry& entry : manifest_.plans) {
    const Plan* plan;
    if (!(entry.targets >> target & 1)) continue;
    if (!load(entry, plans, plan, error)) return false;
    if (!manifest_.draws || entry.sizes.get("stage") != 1 || entry.sizes.count != 5) continue;
    if (entry.component != manifest_.pipeline.after[manifest_.pipeline.after.count - 1].component) continue;
    List<const Plan*> stages;
    const Sizes& sizes = entry.sizes;
    if (!stages_of(target, sizes.get("height"), sizes.get("width"), sizes.get("rows"), plans, stages, error)) {
      return false;
    }
  }
  return true;
}

}  // namespace od
