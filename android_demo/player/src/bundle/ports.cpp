#include "bundle/ports.h"

#include <stdio.h>

#include "bundle/checker.h"

namespace od {
namespace {

constexpr u32 kClipVision = 224;  // pixels per side of what `clip_vision` prepares

// A tensor that is expected. Dimensions are products, so that they may be larger than any tensor's.
struct Type {
  Dtype dtype;
  u32 rank;
  u64 dims[kMaxRank];
};

// "f32[1, 4, 8, 8]"
struct TypeText {
  char text[128];
};

TypeText shown(const Type& type) {
  TypeText out;
  size_t used = static_cast<size_t>(snprintf(out.text, sizeof out.text, "%s[", name_of(type.dtype)));
  for (u32 i = 0; i < type.rank && used < sizeof out.text; ++i) {
    used += static_cast<size_t>(snprintf(out.text + used, sizeof out.text - used, "%s%llu", i ? ", " : "",
                                         static_cast<unsigned long long>(type.dims[i])));
  }
  if (used < sizeof out.text) snprintf(out.text + used, sizeof out.text - used, "]");
  return out;
}

Type type_of(const Operand& operand) {
  Type out = {operand.dtype, operand.shape.rank, {}};
  for (u32 i = 0; i < out.rank; ++i) out.dims[i] = operand.shape.dims[i];
  return out;
}

// The names of `rows`' first few, into `out`.
template <class T, class Shows>
void list_names(Span<T> rows, size_t most, char* out, size_t room, Shows shows) {
  out[0] = 0;
  for (size_t i = 0, used = 0; i < min(rows.count, most) && used < room; ++i) {
    used += static_cast<size_t>(snprintf(out + used, room - used, "%s%s", i ? ", " : "", shows(rows[i]).text));
  }
}

class Ports {
 public:
  Ports(const Plan& plan, Text file, const Manifest& manifest, Seen& seen, Error& error)
      : plan_(plan),
        manifest_(manifest),
        spec_(manifest.pipeline),
        seen_(seen),
        check_(file, error),
        height_(plan.sizes.get("height")),
        width_(plan.sizes.get("width")) {}

  bool check_run(const Role& role) {
    if (!same_names("inputs", plan_.inputs, role.feeds) || !same_names("outputs", plan_.outputs, role.keeps)) {
      return false;
    }
    const u32 tokens = plan_.sizes.get("tokens");
    if (tokens && !check_tokens(tokens)) return false;
    for (const Feed& feed : role.feeds) {
      const Operand& operand = plan_.operands[plan_.input(feed.port)];
      Type expected;
      const u32 length = tokens && feed.kind == Feed::Kind::value ? length_of(feed.index) : 0;
      if (length) {
        if (!check_joined(operand, feed.index, length, tokens)) return false;
        continue;
      }
      const bool per_pass = feed.kind != Feed::Kind::value || feed.index != kTimestep;
      if (fed(feed, expected) ? !same("inputs", operand, expected, per_pass) : !learn("inputs", operand, feed.index)) {
        return false;
      }
    }
    for (const Keep& keep : role.keeps) {
      const Operand& operand = plan_.operands[plan_.output(keep.port)];
      Type expected;
      if (made(keep.value, expected) ? !same("outputs", operand, expected, true)
                                     : !learn("outputs", operand, keep.value)) {
        return false;
      }
    }
    return true;
  }

  // One stage by itself: the first reads latents; others read pictures, and means and variances in pairs. Each makes
  // one picture.
  bool check_stage(const Role& role) {
    const Place sizes("sizes");
    if (const u32 batch = plan_.sizes.get("batch"); batch != 1) {
      return check_.fail(sizes.key("batch"), "is %u (expected 1 for a decoder in bands)", batch);
    }
    if (plan_.sizes.get("stage") == 1) {
      if (!same_names("inputs", plan_.inputs, role.feeds)) return false;
      const Type latents = {Dtype::f32, 4, {1, spec_.latents.channels, height_, width_}};
      for (const Feed& feed : role.feeds) {
        if (!same("inputs", plan_.operands[plan_.input(feed.port)], latents, false)) return false;
      }
    } else {
      for (const u32 index : plan_.inputs) {
        if (!check_later_input(plan_.operands[index])) return false;
      }
    }
    if (plan_.outputs.count != 1) {
      return check_.fail("outputs", "is a list of %zu (expected one picture of a decoder in bands)",
                         plan_.outputs.count);
    }
    const Operand& out = plan_.operands[plan_.outputs[0]];
    if (!picture("outputs", out)) return false;
    for (const Keep& keep : role.keeps) {
      if (keep.port != out.name) continue;
      const Type result = {Dtype::f32, 4, {1, out.shape.dims[1], u64(spec_.latents.scale) * width_, 3}};
      return same("outputs", out, result, false);
    }
    return true;
  }

 private:
  template <class Visit>
  void each_role(Visit visit) const {
    for (const Step& step : spec_.before) {
      if (step.kind == Step::Kind::run) visit(step.role);
    }
    for (const Loop& loop : spec_.denoise) {
      for (const Role& role : loop.roles) visit(role);
    }
    for (const Role& role : spec_.after) visit(role);
    for (const Role& role : spec_.fast) visit(role);
  }

  // Of a value that is made of a text's tokens: how many an encoder takes at once; 0 of any other.
  u32 length_of(i32 value) const {
    u32 length = 0;
    each_role([&](const Role& role) {
      for (const Feed& feed : role.feeds) {
        for (const Keep& keep : role.keeps) {
          if (feed.kind == Feed::Kind::tokens && keep.value == value) length = manifest_.tokenizers[feed.index].length;
        }
      }
    });
    return length;
  }

  bool check_tokens(u32 tokens) const {
    u32 longest = 0;
    bool whole = true;
    for (i32 value = 0; value < static_cast<i32>(spec_.values.count); ++value) {
      const u32 length = length_of(value);
      longest = max(longest, length);
      whole = whole && (!length || tokens % length == 0);
    }
    const Place sizes("sizes");
    return whole || check_.fail(sizes.key("tokens"), "is %u (expected a multiple of %u)", tokens, longest);
  }

  // Of a plan for texts of several chunks: what is [1, length, width] of one chunk has all `tokens` of the plan; what
  // has another shape is that of the first chunk.
  bool check_joined(const Operand& operand, i32 value, u32 length, u32 tokens) {
    const auto is_states = [](const Shape& shape, u32 rows) {
      return shape.rank == 3 && shape.dims[0] == 1 && shape.dims[1] == rows;
    };
    Type expected;
    if (!seen_type(value, true, expected)) {
      if (!learn("inputs", operand, value)) return false;
      Seen::Row& row = seen_.rows.back();
      if (is_states(row.shape, tokens)) row.shape.dims[1] = length;
      row.sizes = {};
      for (u32 i = 0; i < plan_.sizes.count; ++i) {
        if (plan_.sizes.names[i] != "tokens") row.sizes.set(plan_.sizes.names[i], plan_.sizes.values[i]);
      }
      seen_type(value, true, expected);
    }
    if (expected.rank == 3 && expected.dims[0] == 1 && expected.dims[1] == length) expected.dims[1] = tokens;
    return same("inputs", operand, expected, true);
  }

  bool check_later_input(const Operand& operand) const {
    Text of;
    bool mean = false;
    if (!is_statistics(operand.name, of, mean)) return picture("inputs", operand);
    const Operand* other = nullptr;
    for (const u32 index : plan_.inputs) {
      Text other_of;
      bool other_mean = false;
      const Operand& one = plan_.operands[index];
      if (is_statistics(one.name, other_of, other_mean) && other_of == of && other_mean != mean) other = &one;
    }
    if (other && operand.dtype == Dtype::f32 && operand.shape.rank == 1 && other->shape == operand.shape) return true;
    return check_.fail("inputs", "has %s (expected f32 [groups], of a mean and a variance alike)",
                       od::shown(operand.name).text);
  }

  bool picture(const char* field, const Operand& operand) const {
    const bool stored = operand.dtype == Dtype::f16 || operand.dtype == Dtype::f32;
    if (stored && operand.shape.rank == 4 && operand.shape.dims[0] == 1) return true;
    return check_.fail(field, "has %s as %s (expected a picture f16 or f32 [1, rows, width, channels])",
                       od::shown(operand.name).text, shown(type_of(operand)).text);
  }

  template <class T>
  bool same_names(const char* field, Span<u32> operands, Span<T> wanted) const {
    bool same = operands.count == wanted.count;
    for (size_t i = 0; same && i < wanted.count; ++i) {
      bool found = false;
      for (const u32 index : operands) found = found || plan_.operands[index].name == wanted[i].port;
      same = found;
    }
    if (same) return true;
    char given[4 * sizeof(Shown)], expected[512];
    list_names(operands, 4, given, sizeof given, [&](u32 index) { return od::shown(plan_.operands[index].name); });
    list_names(wanted, 64, expected, sizeof expected, [](const T& row) {
      TypeText port;
      snprintf(port.text, sizeof port.text, "%.*s", OD_TEXT(row.port));
      return port;
    });
    return check_.fail(field, "has %s (expected %s)", given, expected);
  }

  // Whether an operand is what is expected of one pass, for all passes where there is one `per_pass`.
  bool same(const char* field, const Operand& operand, Type expected, bool per_pass) const {
    if (per_pass) expected.dims[0] *= plan_.sizes.get("batch", 1);
    bool equal = operand.dtype == expected.dtype && operand.shape.rank == expected.rank;
    for (u32 i = 0; equal && i < expected.rank; ++i) equal = operand.shape.dims[i] == expected.dims[i];
    return equal || check_.fail(field, "has %s as %s (expected %s)", od::shown(operand.name).text,
                                shown(type_of(operand)).text, shown(expected).text);
  }

  // What only plans say of a value: this one is the first to say it at these sizes.
  bool learn(const char* field, const Operand& operand, i32 value) {
    const u32 batch = plan_.sizes.get("batch", 1);
    if (!operand.shape.rank || operand.shape.dims[0] % batch) {
      return check_.fail(field, "has %s as %s (expected %u equal parts, one per pass)", od::shown(operand.name).text,
                         shown(type_of(operand)).text, batch);
    }
    Seen::Row row = {value, plan_.sizes, operand.dtype, operand.shape};
    row.shape.dims[0] /= batch;
    return seen_.rows.push(row) || Pool::no_memory(check_.error(), sizeof row);
  }

  // What a feed gives in one pass; false where only another plan says it.
  bool fed(const Feed& feed, Type& out) const {
    const u64 scale = spec_.latents.scale;
    switch (feed.kind) {
      case Feed::Kind::tokens:
        out = {Dtype::i32, 2, {1, manifest_.tokenizers[feed.index].length}};
        return true;
      case Feed::Kind::numbers:
        out = {Dtype::f32, 2, {1, feed.numbers.count}};
        return true;
      case Feed::Kind::picture: {
        const Prepare prepare = spec_.pictures[feed.index].prepare;
        out = {Dtype::f32, 4, {1, 3, scale * height_, scale * width_}};
        if (prepare == Prepare::clip_vision) out = {Dtype::f32, 4, {1, 3, kClipVision, kClipVision}};
        if (prepare == Prepare::mask) out = {Dtype::f32, 4, {1, 1, height_, width_}};
        return true;
      }
      case Feed::Kind::value:
        break;
    }
    if (feed.index != kTimestep) return made(feed.index, out);
    out = {Dtype::f32, 1, {1}};
    return true;
  }

  // The type of a value in one pass, where the pipeline or a plan that was read says it.
  bool made(i32 value, Type& out) const {
    const u64 frames = plan_.sizes.get("frames", 1), scale = spec_.latents.scale, channels = spec_.latents.channels;
    bool latents = value == kLatents;
    for (const Loop& loop : spec_.denoise) latents = latents || value == loop.prediction;
    if (latents) {
      out = {Dtype::f32, 4, {frames, channels, height_, width_}};
      return true;
    }
    if (value == spec_.gives) {
      out = {Dtype::f32, 4, {frames, 3, scale * height_, scale * width_}};
      return true;
    }
    for (const Step& step : spec_.before) {
      if (step.kind != Step::Kind::sample || (value != step.moments && value != step.keep)) continue;
      out = {Dtype::f32, 4, {1, value == step.moments ? 2 * channels : channels, height_, width_}};
      return true;
    }
    return seen_type(value, false, out);
  }

  // What a plan that was read says of a value, at sizes that both have; of any number of tokens where `any_tokens`.
  bool seen_type(i32 value, bool any_tokens, Type& out) const {
    for (const Seen::Row& row : seen_.rows) {
      bool alike = row.value == value;
      for (u32 i = 0; alike && i < row.sizes.count; ++i) {
        const Text name = row.sizes.names[i];
        alike = name == "batch" || (any_tokens && name == "tokens") ||
                plan_.sizes.get(name, row.sizes.values[i]) == row.sizes.values[i];
      }
      if (!alike) continue;
      out = {row.dtype, row.shape.rank, {}};
      for (u32 i = 0; i < out.rank; ++i) out.dims[i] = row.shape.dims[i];
      return true;
    }
    return false;
  }

  const Plan& plan_;
  const Manifest& manifest_;
  const Pipeline& spec_;
  Seen& seen_;
  const Checker check_;
  const u64 height_, width_;
};

bool known(const Sizes& sizes, Span<const Text> names) {
  for (u32 i = 0; i < sizes.count; ++i) {
    bool found = false;
    for (const Text name : names) found = found || sizes.names[i] == name;
    if (!found) return false;
  }
  return true;
}

}  // namespace

bool check_ports(const Plan& plan, Text file, const Manifest& manifest, Seen& seen, Error& error) {
  if (!manifest.draws) return true;
  const Pipeline& spec = manifest.pipeline;
  const Text of_stage[] = {"batch", "height", "width", "stage", "rows"};
  const Text of_run[] = {"batch", "height", "width", "frames",
                         "tokens"};  // that a pipeline asks for; a plan has some of them
  Ports ports(plan, file, manifest, seen, error);
  if (plan.sizes.count == 5 && known(plan.sizes, {of_stage, 5})) {
    for (const Role& role : spec.after) {
      if (role.component == plan.component) return ports.check_stage(role);
    }
    return true;
  }
  if (!known(plan.sizes, {of_run, 5})) return true;
  const auto check = [&](const Role& role) { return role.component != plan.component || ports.check_run(role); };
  for (const Step& step : spec.before) {
    if (step.kind == Step::Kind::run && !check(step.role)) return false;
  }
  for (const Loop& loop : spec.denoise) {
    for (const Role& role : loop.roles) {
      if (!check(role)) return false;
    }
  }
  for (const Role& role : spec.after) {
    if (!check(role)) return false;
  }
  for (const Role& role : spec.fast) {
    if (!check(role)) return false;
  }
  return true;
}

}  // namespace od
