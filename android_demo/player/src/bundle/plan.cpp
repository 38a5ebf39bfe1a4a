#include "bundle/plan.h"

#include <stdio.h>

#include "base/sort.h"
#include "bundle/arena.h"
#include "bundle/checker.h"
#include "bundle/targets.h"

namespace od {
namespace {

constexpr size_t kMaxOperands = 65536, kMaxDispatches = 65536, kMaxKernels = 4096;
constexpr u64 kMaxGroup = 1024, kMaxItems = u64(1) << 31;
constexpr i64 kMaxCount = i64(1) << 53;
constexpr double kMaxFloat = 3.4028234663852886e38;
constexpr u32 kTexel = 4;  // elements

class Reader {
 public:
  Reader(Text file, Pool& pool, const Manifest& manifest, const PlanEntry& entry, Plan& out, Error& error)
      : check_(file, error), pool_(pool), manifest_(manifest), entry_(entry), out_(out), error_(error) {}

  bool all(const Json& value) {
    const Json* found[9];
    if (!check_.record(
            value, {"component", "sizes", "dtype", "arena", "inputs", "outputs", "kernels", "operands", "dispatches"},
            found, {})) {
      return false;
    }
    const Json* needs = value.find("needs");
    Text component;
    Sizes sizes;
    if ((needs && !read_needs(*needs)) || !check_.identifier(*found[0], "component", component) ||
        !check_.dtype(*found[2], "dtype", out_.dtype) ||
        !check_.integer(*found[3], 0, kMaxBytes, "arena", out_.arena) || !check_.sizes(*found[1], "sizes", sizes) ||
        !operands(*found[7]) || !ends(*found[4], 0, "inputs", out_.inputs) ||
        !ends(*found[5], 1, "outputs", out_.outputs) || !kernels(*found[6]) || !dispatches(*found[8])) {
      return false;
    }
    return check_images(check_, out_) && check_arena(check_, out_, manifest_) && as_in_manifest(component, sizes) &&
           check_serves(out_, check_.where(), manifest_, entry_.targets, error_);
  }

 private:
  bool copy(Text text, Text& out) {
    out = pool_.copy(text);
    return out.size == text.size || Pool::no_memory(error_, text.size);
  }

  bool read_needs(const Json& value) {
    static constexpr Need kKnown[] = {kHalf, kImage2d, kMatrixUnit, kSubgroups, kWaveConstants};
    Text known[5];
    for (size_t i = 0; i < 5; ++i) known[i] = name_of(kKnown[i]);
    if (!check_.needs(value, {known, 5}, "needs")) return false;
    for (const Json& need : value.list) out_.needs |= need_of(need.text);
    return true;
  }

  bool operands(const Json& value) {
    const Place at("operands");
    const Text kinds[] = {"buffer", "image2d"};
    if (!check_.array(value, 0, kMaxOperands, at) || !pool_.array(out_.operands, value.list.count, error_))
      return false;
    for (u32 i = 0; i < out_.operands.count; ++i) {
      const Place row = at.item(i);
      const Json* kind = value.list[i].find("kind");
      u32 is_image = 0;
      if (kind && !check_.one_of(*kind, {kinds, 2}, row.field("kind"), is_image)) return false;
      if (is_image && !(out_.needs & kImage2d)) {
        return check_.fail(row.field("kind"), "is \"image2d\", which `needs` does not say");
      }
      if (!(is_image ? image(value.list[i], row, i) : operand(value.list[i], row, out_.operands[i]))) return false;
    }
    return names(at);
  }

  bool operand(const Json& value, const Place& at, Operand& out) {
    const Json* found[4];
    if (!check_.record(value, {"name", "dtype", "shape", "bytes"}, found, at) || !name(*found[0], at, out) ||
        !check_.dtype(*found[1], at.field("dtype"), out.dtype) ||
        !check_.shape(*found[2], out.dtype, at.field("shape"), out.shape) ||
        !check_.tensor_bytes(*found[3], out.dtype, out.shape, at.field("bytes"), out.bytes)) {
      return false;
    }
    out.weight = out.view = kNone;
    const Json* offset = value.find("offset");
    const Json* key = value.find("weight");
    if (!offset == !key) return check_.fail(at, "has both or none of offset and weight (expected one)");
    if (offset) return check_.place(*offset, out.bytes, out_.arena, at.field("offset"), out.offset);
    const WeightEntry* weight = key->is(Json::Kind::text) ? manifest_.weight(key->text) : nullptr;
    if (!weight) {
      return check_.fail(at.field("weight"), "is %s (expected a key of the weights of bundle.json)", shown(*key).text);
    }
    if (weight->dtype != out.dtype || weight->shape != out.shape) {
      char stored[128], wanted[128];
      return check_.fail(at.field("weight"), "is %s, stored as %s%s (expected %s%s)", shown(*key).text,
                         name_of(weight->dtype), weight->shape.shown(stored, sizeof stored), name_of(out.dtype),
                         out.shape.shown(wanted, sizeof wanted));
    }
    out.weight = static_cast<i32>(weight - manifest_.weights.data);
    return true;
  }

  bool image(const Json& value, const Place& at, u32 number) {
    Operand& out = out_.operands[number];
    const Json* found[4];
    if (!check_.record(value, {"name", "view", "width", "height"}, found, at) || !name(*found[0], at, out) ||
        !check_.integer(*found[1], 0, i64(number) - 1, at.field("view"), out.view)) {
      return false;
    }
    const Operand& viewed = out_.operands[static_cast<u32>(out.view)];
    if (viewed.view != kNone || (viewed.dtype != Dtype::f16 && viewed.dtype != Dtype::f32)) {
      return check_.fail(at.field("view"), "is %d, which is %s%s (expected a buffer of f16 or f32)", out.view,
                         viewed.view != kNone ? "an image itself" : "of ",
                         viewed.view != kNone ? "" : name_of(viewed.dtype));
    }
    if (!check_.integer(*found[2], 1, 65536, at.field("width"), out.width) ||
        !check_.integer(*found[3], 1, 65536, at.field("height"), out.height)) {
      return false;
    }
    out.dtype = viewed.dtype;
    out.shape = {3, {out.height, out.width, kTexel}};
    out.bytes = out.shape.count() * bytes_of(out.dtype);
    out.weight = kNone;
    return out.bytes <= viewed.bytes || check_.fail(at, "takes %llu bytes of %s (expected at most its %llu)",
                                                    static_cast<unsigned long long>(out.bytes), shown(viewed.name).text,
                                                    static_cast<unsigned long long>(viewed.bytes));
  }

  bool name(const Json& value, const Place& at, Operand& out) {
    Text text;
    return check_.text(value, at.field("name"), text) && copy(text, out.name);
  }

  // No two operands have one name.
  bool names(const Place& at) {
    const auto& operands = out_.operands;
    List<u32> order;
    if (!order.resize(operands.count)) return Pool::no_memory(error_, operands.count * sizeof(u32));
    for (u32 i = 0; i < operands.count; ++i) order[i] = i;
    sort(order.span(), [&](u32 i, u32 j) {
      const int found = compare(operands[i].name, operands[j].name);
      return found ? found < 0 : i < j;
    });
    u32 second = 0, first = 0, group = 0;  // the first in the file that was there before, and where
    for (size_t i = 1; i < order.size(); ++i) {
      if (operands[order[i]].name != operands[order[group]].name) {
        group = static_cast<u32>(i);
      } else if (!second || order[i] < second) {
        second = order[i];
        first = order[group];
      }
    }
    if (!second) return true;
    const Place row = at.item(second);
    return check_.fail(row.field("name"), "is %s, as in operands[%u] (expected another)",
                       shown(operands[second].name).text, first);
  }

  bool indices(const Json& value, size_t least, size_t most, const Place& at, Span<u32>& out) {
    return check_.integers(value, 0, static_cast<i64>(out_.operands.count) - 1, least, most, at, pool_, out);
  }

  bool ends(const Json& value, size_t least, const Place& at, Span<u32>& out) {
    if (!indices(value, least, kMaxArguments, at, out)) return false;
    for (size_t i = 0; i < out.count; ++i) {
      const Operand& operand = out_.operands[out[i]];
      if (!operand.in_arena()) {
        const bool weight = operand.weight != kNone;
        const Text named = weight ? manifest_.weights[static_cast<u32>(operand.weight)].key : operand.name;
        return check_.fail(at.item(i), "is %u (expected an operand of the arena, not the %s %s)", out[i],
                           weight ? "weight" : "image", shown(named).text);
      }
      for (const u32 before : out.slice(0, i)) {
        if (before == out[i]) return check_.fail(at.item(i), "is %u (expected each operand once)", out[i]);
      }
    }
    return true;
  }

  bool kernels(const Json& value) {
    const Place at("kernels");
    if (!check_.array(value, 0, kMaxKernels, at) || !pool_.array(out_.kernels, value.list.count, error_)) return false;
    for (size_t i = 0; i < out_.kernels.count; ++i) {
      if (!kernel(value.list[i], at.item(i), out_.kernels[i])) return false;
    }
    return true;
  }

  bool kernel(const Json& value, const Place& at, PlanKernel& out) {
    const Json* found[5];
    const Place defines = at.field("defines");
    if (!check_.record(value, {"name", "defines", "inputs", "outputs", "scalars"}, found, at) ||
        !check_.one_of(*found[0], {manifest_.kernels.data, manifest_.kernels.count}, at.field("name"), out.file) ||
        !check_.table(*found[1], kMaxArguments, defines) ||
        !pool_.array(out.defines, found[1]->members.count, error_)) {
      return false;
    }
    for (size_t i = 0; i < out.defines.count; ++i) {
      const Member& define = found[1]->members[i];
      if (!check_.identifier(define.key, defines) ||
          !check_.integer(define.value, INT32_MIN, INT32_MAX, defines.key(define.key), out.defines[i].value) ||
          !copy(define.key, out.defines[i].name)) {
        return false;
      }
    }
    sort(out.defines, [](const Define& a, const Define& b) { return compare(a.name, b.name) < 0; });
    if (!check_.integer(*found[2], 0, kMaxArguments, at.field("inputs"), out.inputs) ||
        !check_.integer(*found[3], 1, kMaxArguments, at.field("outputs"), out.outputs)) {
      return false;
    }
    bool letters = found[4]->is(Json::Kind::text) && found[4]->text.size <= kMaxArguments;
    for (const u8 letter : found[4]->text.bytes()) letters = letters && (letter == 'i' || letter == 'f');
    if (!letters) {
      return check_.fail(at.field("scalars"), "is %s (expected one letter a scalar, i or f)", shown(*found[4]).text);
    }
    return copy(found[4]->text, out.scalars);
  }

  bool dispatches(const Json& value) {
    const Place at("dispatches");
    if (!check_.array(value, 0, kMaxDispatches, at) || !pool_.array(out_.dispatches, value.list.count, error_)) {
      return false;
    }
    for (size_t i = 0; i < out_.dispatches.count; ++i) {
      if (!dispatch(value.list[i], at.item(i), out_.dispatches[i])) return false;
    }
    return true;
  }

  bool dispatch(const Json& value, const Place& at, Dispatch& out) {
    const Json* found[10];
    if (!check_.record(value,
                       {"kernel", "operands", "scalars", "grid", "group", "node", "op", "flops", "reads", "writes"},
                       found, at) ||
        !check_.integer(*found[0], 0, static_cast<i64>(out_.kernels.count) - 1, at.field("kernel"), out.kernel)) {
      return false;
    }
    const PlanKernel& kernel = out_.kernels[out.kernel];
    const size_t count = kernel.inputs + kernel.outputs;
    Text node, op;
    return indices(*found[1], count, count, at.field("operands"), out.operands) &&
           scalars(*found[2], kernel.scalars, at.field("scalars"), out.scalars) &&
           grid(*found[3], *found[4], at, out) && check_.text(*found[5], at.field("node"), node) &&
           check_.text(*found[6], at.field("op"), op) &&
           check_.integer(*found[7], 0, kMaxCount, at.field("flops"), out.flops) &&
           check_.integer(*found[8], 0, kMaxCount, at.field("reads"), out.reads) &&
           check_.integer(*found[9], 0, kMaxCount, at.field("writes"), out.writes) && copy(node, out.node) &&
           copy(op, out.op);
  }

  bool scalars(const Json& value, Text letters, const Place& at, Span<Scalar>& out) {
    if (!check_.array(value, letters.size, letters.size, at) || !pool_.array(out, letters.size, error_)) return false;
    for (size_t k = 0; k < letters.size; ++k) {
      const Json& scalar = value.list[k];
      if (letters.data[k] == 'i') {
        if (!check_.integer(scalar, INT32_MIN, INT32_MAX, at.item(k), out[k].i)) return false;
      } else if (scalar.number() && scalar.real >= -kMaxFloat && scalar.real <= kMaxFloat) {
        out[k].f = static_cast<float>(scalar.real);
      } else {
        return check_.fail(at.item(k), "is %s (expected a finite float32)", shown(scalar).text);
      }
    }
    return true;
  }

  bool three(const Json& value, i64 most, const Place& at, u32 (&out)[3]) {
    if (!check_.array(value, 3, 3, at)) return false;
    for (size_t i = 0; i < 3; ++i) {
      if (!check_.integer(value.list[i], 1, most, at.item(i), out[i])) return false;
    }
    return true;
  }

  bool grid(const Json& grid, const Json& group, const Place& at, Dispatch& out) {
    const Place grid_at = at.field("grid"), group_at = at.field("group");
    if (!three(grid, INT32_MAX, grid_at, out.grid) || !three(group, i64(kMaxGroup), group_at, out.group)) return false;
    const u64 items = u64(out.group[0]) * out.group[1] * out.group[2];  // of a group
    if (items > kMaxGroup) {
      return check_.fail(group_at, "has %llu work-items (expected at most %llu)",
                         static_cast<unsigned long long>(items), static_cast<unsigned long long>(kMaxGroup));
    }
    for (size_t i = 0; i < 3; ++i) {
      if (out.grid[i] % out.group[i] == 0) continue;
      return check_.fail(grid_at, "is [%u, %u, %u] (expected multiples of the group [%u, %u, %u])", out.grid[0],
                         out.grid[1], out.grid[2], out.group[0], out.group[1], out.group[2]);
    }
    // A work-item without an element of its own is only there to fill a group.
    u64 elements = 0;  // at most 128 of 2^40
    for (const u32 index : out.operands) elements += out_.operands[index].bytes / bytes_of(out_.operands[index].dtype);
    const u64 most = min(kMaxItems, items * elements);
    u64 all = u64(out.grid[0]) * out.grid[1];
    const bool over = __builtin_mul_overflow(all, u64(out.grid[2]), &all);
    return (!over && all <= most) ||
           check_.fail(grid_at, "has %s%llu work-items (expected at most %llu)", over ? "more than " : "",
                       static_cast<unsigned long long>(over ? UINT64_MAX : all), static_cast<unsigned long long>(most));
  }

  // What the manifest says of a plan, so that memory is known before one is read.
  bool as_in_manifest(Text component, const Sizes& sizes) {
    const Component& known = manifest_.components[entry_.component];
    const auto differs = [&](const char* field, Text got, Text expected) {
      return fail(error_, Code::bundle, check_.where(), kDamaged, "%s is %.*s (expected %.*s as in bundle.json).",
                  field, OD_TEXT(got), OD_TEXT(expected));
    };
    char got[640], expected[640];
    if (component != known.name) return differs("component", component, known.name);
    if (!(sizes == entry_.sizes)) {
      return differs("sizes", sizes.shown(got, sizeof got), entry_.sizes.shown(expected, sizeof expected));
    }
    if (out_.dtype != known.dtype) return differs("dtype", name_of(out_.dtype), name_of(known.dtype));
    const auto number = [](char(&text)[640], u64 value) {
      snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(value));
      return Text(text);
    };
    if (out_.arena != entry_.arena) return differs("arena", number(got, out_.arena), number(expected, entry_.arena));
    List<bool> counted;
    if (!counted.resize(manifest_.weights.count)) return Pool::no_memory(error_, manifest_.weights.count);
    for (const Operand& operand : out_.operands) {
      if (operand.weight == kNone || counted[static_cast<u32>(operand.weight)]) continue;
      counted[static_cast<u32>(operand.weight)] = true;
      out_.weight_bytes += operand.bytes;
    }
    if (out_.weight_bytes != entry_.weight_bytes) {
      return fail(error_, Code::bundle, check_.where(), kDamaged,
                  "uses %llu bytes of weights (expected %llu as in bundle.json).",
                  static_cast<unsigned long long>(out_.weight_bytes),
                  static_cast<unsigned long long>(entry_.weight_bytes));
    }
    out_.component = entry_.component;
    out_.sizes = entry_.sizes;
    return true;
  }

  Checker check_;
  Pool& pool_;
  const Manifest& manifest_;
  const PlanEntry& entry_;
  Plan& out_;
  Error& error_;
};

i32 find(const Plan& plan, Span<u32> indices, Text name) {
  for (const u32 index : indices) {
    if (plan.operands[index].name == name) return static_cast<i32>(index);
  }
  return kNone;
}

}  // namespace

i32 Plan::input(Text name) const { return find(*this, inputs, name); }
i32 Plan::output(Text name) const { return find(*this, outputs, name); }

bool parse_plan(const Json& value, Text file, Pool& pool, const Manifest& manifest, const PlanEntry& entry, Plan& out,
                Error& error) {
  out = {};
  return Reader(file, pool, manifest, entry, out, error).all(value);
}

}  // namespace od
