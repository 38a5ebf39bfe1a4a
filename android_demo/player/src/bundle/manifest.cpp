#include "bundle/manifest.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/sort.h"
#include "bundle/made.h"
#include "bundle/targets.h"

namespace od {
namespace {

constexpr Text kFile("bundle.json", 11), kScheduler("scheduler/scheduler_config.json", 31);
constexpr size_t kMaxFiles = 16384, kMaxPlans = 1024, kMaxWeights = 65536, kMaxKernels = 4096, kMaxRules = 256;
constexpr size_t kMaxReasons = 64, kMaxTokenizers = 16, kMaxPreludes = 16, kMaxModel = 256;
constexpr i64 kMaxCount = i64(1) << 53;
constexpr i64 kMajor = 2;

const FileEntry* find_file(Span<FileEntry> files, Text path) {
  return find_sorted(files, [&](const FileEntry& file) { return compare(file.path, path); });
}

// MAJOR.MINOR, each of one to four digits.
bool read_version(Text text, u32 out[2]) {
  size_t at = 0;
  for (int part = 0; part < 2; ++part) {
    const size_t begin = at;
    out[part] = 0;
    for (; at < text.size && text.data[at] >= '0' && text.data[at] <= '9' && at - begin < 4; ++at) {
      out[part] = out[part] * 10 + static_cast<u32>(text.data[at] - '0');
    }
    if (at == begin || (text.data[begin] == '0' && at > begin + 1)) return false;
    if (part == 0 && (at == text.size || text.data[at++] != '.')) return false;
  }
  return at == text.size;
}

class Reader {
 public:
  Reader(Pool& pool, Manifest& out, Error& error) : check_(kFile, error), pool_(pool), out_(out), error_(error) {}

  bool all(const Json& value) {
    const Json* found[10];
    const Json* files;
    if (!version(value) ||
        !check_.record(value,
                       {"producer", "model", "components", "plans", "kernels", "preludes", "tokenizers", "samplers",
                        "pipeline", "weights"},
                       found, {}) ||
        !check_.field(value, "files", files, {})) {
      return false;
    }
    if (!check_.text(*found[0], "producer", out_.producer) || !read_files(*files) || !components(*found[2]) ||
        !kernels(*found[4]) || !listed(*found[5], kMaxPreludes, "preludes", "kernels/prelude", ".h", out_.preludes) ||
        !listed(*found[7], kMaxFiles, "samplers", "samplers", ".json", out_.samplers) || !tokenizers(*found[6])) {
      return false;
    }
    if (!out_.file(kScheduler)) return check_.fail("files", "has no %.*s", OD_TEXT(kScheduler));
    const Json* targets = value.find("targets");
    if (!weights(*found[9]) || !parse_adapters(check_, value, pool_, out_) || (targets && !parse_targets(check_, *targets, pool_, out_.targets)) ||
        !plans(*found[3])) {
      return false;
    }
    out_.draws = !found[8]->is(Json::Kind::null);
    return (!out_.draws || parse_pipeline(*found[8], pool_, out_, out_.pipeline, error_)) && model(*found[1]);
  }

 private:
  bool version(const Json& value) {
    const Json* format = value.find("format");
    if (!format || !format->is(Json::Kind::text) || format->text != "ondevice-bundle") {
      const Json* got = value.is(Json::Kind::object) ? format : &value;
      return fail(error_, Code::bundle, kFile, kDamaged,
                  "is not the manifest of a bundle (got format %s, expected \"ondevice-bundle\").",
                  got ? shown(*got).text : "null");
    }
    const Json* found = value.find("version");
    u32 parts[2];
    if (!found || !found->is(Json::Kind::text) || !read_version(found->text, parts)) {
      return check_.fail("version", "is %s (expected MAJOR.MINOR)", found ? shown(*found).text : "null");
    }
    out_.major = parts[0];
    out_.minor = parts[1];
    return parts[0] == kMajor || fail(error_, Code::bundle, kFile,
                                      parts[0] > kMajor ? "install a newer ondevice"
                                                        : "convert the checkpoint again; --force replaces this one",
                                      "has format %u.%u (expected %u.x).", parts[0], parts[1], unsigned(kMajor));
  }

  bool read_files(const Json& value) {
    const Place at("files");
    if (!check_.table(value, kMaxFiles, at) || !pool_.array(out_.files, value.members.count, error_)) return false;
    List<Text> names;
    for (size_t i = 0; i < value.members.count; ++i) {
      const Member& member = value.members[i];
      FileEntry& file = out_.files[i];
      const Place row = at.key(member.key);
      if (!is_path(member.key)) {
        return check_.fail(at, "names %s (expected a path of at most three plain names inside the bundle)",
                           shown(member.key).text);
      }
      const Json* found[2];
      if (!check_.record(member.value, {"bytes", "sha256"}, found, row) ||
          !check_.integer(*found[0], 0, kMaxBytes, row.field("bytes"), file.bytes)) {
        return false;
      }
      file.path = member.key;
      file.sha256 = found[1]->text;
      bool digits = file.sha256.size == 64;
      for (const u8 c : file.sha256.bytes()) digits = digits && ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'));
      if (!digits) {
        return check_.fail(row.field("sha256"), "is %s (expected 64 hexadecimal digits)", shown(*found[1]).text);
      }
      if (!names.push(file.path)) return Pool::no_memory(error_, sizeof(Text));
    }
    if (!check_.distinct({names.begin(), names.size()}, at)) return false;
    sort(out_.files, [](const FileEntry& a, const FileEntry& b) { return compare(a.path, b.path) < 0; });
    return true;
  }

  bool components(const Json& value) {
    const Place at("components");
    if (!check_.table(value, kMaxPlans, at) || !pool_.array(out_.components, value.members.count, error_)) return false;
    for (size_t i = 0; i < value.members.count; ++i) {
      const Member& member = value.members[i];
      const Place row = at.key(member.key);
      const Json* dtype;
      if (!check_.identifier(member.key, at) || !check_.field(member.value, "dtype", dtype, row) ||
          !check_.dtype(*dtype, row.field("dtype"), out_.components[i].dtype)) {
        return false;
      }
      out_.components[i].name = member.key;
      const Json* rewrite = member.value.find("rewrite");
      if (rewrite && !check_rewrite(*rewrite, row.field("rewrite"))) return false;
    }
    return true;
  }

  // How the graph was rewritten is for people: it is checked, and not kept.
  bool check_rewrite(const Json& value, const Place& at) {
    const Json* found[2];
    u64 nodes[2];
    if (!check_.record(value, {"nodes", "rules"}, found, at)) return false;
    const Place counts = at.field("nodes"), rules = at.field("rules");
    if (!check_.array(*found[0], 2, 2, counts)) return false;
    for (size_t i = 0; i < 2; ++i) {
      if (!check_.integer(found[0]->list[i], 0, kMaxCount, counts.item(i), nodes[i])) return false;
    }
    if (!check_.array(*found[1], 0, kMaxRules, rules)) return false;
    for (size_t i = 0; i < found[1]->list.count; ++i) {
      const Place rule = rules.item(i), skipped = rule.field("skipped");
      const Json* row[5];
      Text text;
      u64 count;
      if (!check_.record(found[1]->list[i], {"rule", "family", "applied", "skipped", "off"}, row, rule) ||
          !check_.identifier(*row[0], rule.field("rule"), text) || !check_.name(*row[1], rule.field("family"), text) ||
          !check_.integer(*row[2], 0, kMaxCount, rule.field("applied"), count) ||
          !check_.table(*row[3], kMaxReasons, skipped)) {
        return false;
      }
      for (const Member& reason : row[3]->members) {
        if (!check_.text(reason.key, skipped) ||
            !check_.integer(reason.value, 1, kMaxCount, skipped.key(reason.key), count)) {
          return false;
        }
      }
      bool off;
      if (!check_.flag(found[1]->list[i], "off", rule, off)) return false;
    }
    return true;
  }

  // Names, each of which has a file FOLDER/NAME + ENDING.
  bool listed(const Json& value, size_t most, const Place& at, Text folder, const char* ending, Span<Text>& out) {
    if (!check_.array(value, 0, most, at) || !pool_.array(out, value.list.count, error_)) return false;
    for (size_t i = 0; i < out.count; ++i) {
      if (!check_.name(value.list[i], at.item(i), out[i])) return false;
    }
    if (!check_.distinct({out.data, out.count}, at)) return false;
    for (size_t i = 0; i < out.count; ++i) {
      char path[512];
      snprintf(path, sizeof path, "%.*s/%.*s%s", OD_TEXT(folder), OD_TEXT(out[i]), ending);
      if (!out_.file(path)) {
        return check_.fail(at.item(i), "is %s, but %s is not in files", shown(out[i]).text, path);
      }
    }
    return true;
  }

  bool kernels(const Json& value) {
    const Place at("kernels");
    if (!listed(value, kMaxKernels, at, "kernels", ".cl", out_.kernels)) return false;
    for (size_t i = 0; i < out_.kernels.count; ++i) {
      if (!check_.identifier(out_.kernels[i], at.item(i))) return false;  // it is the entry point's name too
    }
    return true;
  }

  bool tokenizers(const Json& value) {
    const Place at("tokenizers");
    const Text kinds[] = {"bpe", "unigram"};
    if (!check_.table(value, kMaxTokenizers, at) || !pool_.array(out_.tokenizers, value.members.count, error_)) {
      return false;
    }
    for (size_t i = 0; i < value.members.count; ++i) {
      const Member& member = value.members[i];
      TokenizerEntry& entry = out_.tokenizers[i];
      const Place row = at.key(member.key);
      const Json* found[3];
      char folder[128];
      if (!check_.identifier(member.key, at) || !check_.record(member.value, {"kind", "length", "files"}, found, row) ||
          !check_.one_of(*found[0], {kinds, 2}, row.field("kind"), entry.kind) ||
          !check_.integer(*found[1], 1, 65536, row.field("length"), entry.length)) {
        return false;
      }
      entry.name = member.key;
      snprintf(folder, sizeof folder, "tokenizers/%.*s", OD_TEXT(member.key));
      if (!listed(*found[2], 64, row.field("files"), folder, "", entry.files)) return false;
    }
    return true;
  }

  // Index of a file in a folder.
  bool file_of(const Json& value, const char* folder, const Place& at, u32& out) {
    const FileEntry* file =
        value.is(Json::Kind::text) && value.text.starts_with(folder) ? find_file(out_.files, value.text) : nullptr;
    if (!file) return check_.fail(at, "is %s (expected a file of %s in files)", shown(value).text, folder);
    out = static_cast<u32>(file - out_.files.data);
    return true;
  }

  bool weights(const Json& value) {
    const Place at("weights");
    if (!check_.table(value, kMaxWeights, at) || !pool_.array(out_.weights, value.members.count, error_)) return false;
    for (size_t i = 0; i < value.members.count; ++i) {
      if (!weight(value.members[i], at, out_.weights[i])) return false;
    }
    return true;
  }

  bool weight(const Member& member, const Place& weights, WeightEntry& out) {
    const Place at = weights.key(member.key);
    const Json* found[5];
    if (!check_.text(member.key, weights) ||
        !check_.record(member.value, {"dtype", "shape", "file", "offset", "bytes"}, found, at) ||
        !check_.dtype(*found[0], at.field("dtype"), out.dtype) ||
        !check_.shape(*found[1], out.dtype, at.field("shape"), out.shape) ||
        !check_.tensor_bytes(*found[4], out.dtype, out.shape, at.field("bytes"), out.bytes) ||
        !file_of(*found[2], "weights/", at.field("file"), out.file) ||
        !check_.place(*found[3], out.bytes, out_.files[out.file].bytes, at.field("offset"), out.offset)) {
      return false;
    }
    out.key = member.key;
    const Json* made = member.value.find("made");
    return !made || parse_made(check_, *made, at.field("made"), out, pool_, out.made);
  }

  bool plans(const Json& value) {
    const Place at("plans");
    List<Text> components, targets;
    for (const Component& component : out_.components) {
      if (!components.push(component.name)) return Pool::no_memory(error_, sizeof(Text));
    }
    for (const TargetEntry& target : out_.targets) {
      if (!targets.push(target.name)) return Pool::no_memory(error_, sizeof(Text));
    }
    if (!check_.array(value, 1, kMaxPlans, at) || !pool_.array(out_.plans, value.list.count, error_)) return false;
    for (size_t i = 0; i < out_.plans.count; ++i) {
      if (!plan(value.list[i], at.item(i), components.span(), targets.span(), out_.plans[i])) return false;
    }
    for (size_t i = 0; i < out_.plans.count; ++i) {
      const PlanEntry& entry = out_.plans[i];
      u64 taken = 0;
      size_t owner = i;  // of its file, by which a plan that was read is known
      for (size_t j = i; j-- > 0;) {
        const PlanEntry& before = out_.plans[j];
        if (before.component == entry.component && before.sizes == entry.sizes) taken |= before.targets;
        if (before.file == entry.file) owner = j;
      }
      taken &= entry.targets;
      if (!taken && owner == i) continue;
      if (!taken) {
        const Place plan_at = at.item(i);
        return check_.fail(plan_at.field("file"), "is %s, as in plans[%zu] (expected another)",
                           shown(out_.files[entry.file].path).text, owner);
      }
      char sizes[1024], target[160] = "";
      if (out_.targets.count) {
        snprintf(target, sizeof target, " for %.*s", OD_TEXT(out_.targets[size_t(__builtin_ctzll(taken))].name));
      }
      return check_.fail(at.item(i), "is a second plan of %.*s at %s%s", OD_TEXT(out_.components[entry.component].name),
                         entry.sizes.shown(sizes, sizeof sizes), target);
    }
    return true;
  }

  bool plan(const Json& row, const Place& at, Span<Text> components, Span<Text> targets, PlanEntry& out) {
    const Json* found[5];
    if (!check_.record(row, {"component", "sizes", "file", "arena", "weight_bytes"}, found, at) ||
        !check_.one_of(*found[0], {components.data, components.count}, at.field("component"), out.component) ||
        !check_.sizes(*found[1], at.field("sizes"), out.sizes) ||
        !file_of(*found[2], "plans/", at.field("file"), out.file) ||
        !check_.integer(*found[3], 0, kMaxBytes, at.field("arena"), out.arena) ||
        !check_.integer(*found[4], 0, kMaxBytes, at.field("weight_bytes"), out.weight_bytes)) {
      return false;
    }
    out.targets = ~u64(0);
    const Json* served = row.find("targets");
    if (!served) return true;
    const Place names = at.field("targets");
    if (!check_.array(*served, 1, kMaxTargets, names)) return false;
    out.targets = 0;
    Text repeated[kMaxTargets];
    for (size_t i = 0; i < served->list.count; ++i) {
      u32 target = 0;
      if (!check_.one_of(served->list[i], {targets.data, targets.count}, names.item(i), target)) return false;
      out.targets |= u64(1) << target;
      repeated[i] = served->list[i].text;
    }
    return check_.distinct({repeated, served->list.count}, names);
  }

  bool model(const Json& value) {
    const Place at("model");
    const Json* found;
    if (!check_.table(value, kMaxModel, at) || !check_.field(value, "family", found, at) ||
        !check_.text(*found, at.field("family"), out_.family) || !check_.field(value, "source", found, at) ||
        !check_.text(*found, at.field("source"), out_.source)) {
      return false;
    }
    out_.model = value;
    return true;
  }

  Checker check_;
  Pool& pool_;
  Manifest& out_;
  Error& error_;
};

}  // namespace

const WeightEntry* Manifest::weight(Text key) const {
  return find_sorted(weights, [&](const WeightEntry& weight) { return compare(weight.key, key); });
}

const FileEntry* Manifest::file(Text path) const { return find_file(files, path); }

const Component* Manifest::component(Text name) const {
  for (const Component& component : components) {
    if (component.name == name) return &component;
  }
  return nullptr;
}

bool parse_manifest(const Json& value, Pool& pool, Manifest& out, Error& error) {
  return Reader(pool, out, error).all(value);
}

}  // namespace od
