// A decoder in bands: whether its stages fit each other (docs/bundle.md, "A decoder in bands").
#include <stdarg.h>
#include <stdio.h>

#include "bundle/checker.h"
#include "bundle/ports.h"

namespace od {
namespace {

constexpr u32 kLeastRows = 3;  // of a band that is not the whole picture: an edge row is dropped at both ends

// A picture that a stage makes, as a whole.
struct Whole {
  Text name;
  u64 rows;
  u32 width, channels;
  Dtype dtype;
};

class Stages {
 public:
  Stages(Span<const Plan* const> plans, const Manifest& manifest, Error& error)
      : plans_(plans), manifest_(manifest), error_(error) {}

  bool check() {
    const Plan& first = *plans_[0];
    const u64 scale = manifest_.pipeline.latents.scale;
    const u64 height = scale * first.sizes.get("height"), width = scale * first.sizes.get("width");
    for (const Plan* plan : plans_) {
      u64 rows = output(*plan).shape.dims[1];
      if (plan != &first && (!check_inputs(*plan) || !check_bands(*plan, rows))) return false;
      const Operand& out = output(*plan);
      if (find(out.name)) return refuse(*plan, "%.*s was made by an earlier stage", OD_TEXT(cut(out.name)));
      // Here, and not at the end: rows of the next stage are a multiple of these.
      if (rows > height || out.shape.dims[2] > width) {
        return refuse(*plan, "it makes a picture of %ux%llu (expected at most %llux%llu)", out.shape.dims[2],
                      static_cast<unsigned long long>(rows), static_cast<unsigned long long>(width),
                      static_cast<unsigned long long>(height));
      }
      if (!wholes_.push({out.name, rows, out.shape.dims[2], out.shape.dims[3], out.dtype})) {
        return Pool::no_memory(error_, sizeof(Whole));
      }
    }
    const Plan& last = *plans_[plans_.count - 1];
    const Whole& made = wholes_.back();
    char expected[200] = "";
    for (const Role& role : manifest_.pipeline.after) {
      if (role.component != first.component) continue;
      for (const Keep& keep : role.keeps) {
        if (keep.port == made.name && made.rows == height && made.width == width && made.channels == 3) return true;
        const size_t used = Text(expected).size;
        snprintf(expected + used, sizeof expected - used, "%s%.*s", used ? ", " : "", OD_TEXT(cut(keep.port)));
      }
      break;
    }
    return refuse(last, "the last stage makes %.*s [1, %llu, %u, %u] (expected %s [1, %llu, %llu, 3])",
                  OD_TEXT(cut(made.name)), static_cast<unsigned long long>(made.rows), made.width, made.channels,
                  expected, static_cast<unsigned long long>(height), static_cast<unsigned long long>(width));
  }

 private:
  static const Operand& output(const Plan& plan) { return plan.operands[plan.outputs[0]]; }
  static Text cut(Text name) { return {name.data, min<size_t>(name.size, 60)}; }

  bool refuse(const Plan& plan, const char* what, ...) const __attribute__((format(printf, 3, 4))) {
    char sizes[256], where[400], text[400];
    snprintf(where, sizeof where, "%.*s %s", OD_TEXT(manifest_.components[plan.component].name),
             plan.sizes.shown(sizes, sizeof sizes));
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(text, sizeof text, what, arguments);
    va_end(arguments);
    return fail(error_, Code::bundle, where, "convert the checkpoint again", "%s.", text);
  }

  const Whole* find(Text name) const {
    for (const Whole& whole : wholes_) {
      if (whole.name == name) return &whole;
    }
    return nullptr;
  }

  // Groups in which the first stage that asks for the statistics of a picture does.
  u32 groups_of(Text picture) const {
    for (const Plan* plan : plans_) {
      for (const u32 index : plan->inputs) {
        Text of;
        bool mean = false;
        const Operand& operand = plan->operands[index];
        if (is_statistics(operand.name, of, mean) && mean && of == picture) return operand.shape.dims[0];
      }
    }
    return 0;
  }

  bool check_inputs(const Plan& plan) const {
    size_t pictures = 0;
    for (const u32 index : plan.inputs) {
      const Operand& operand = plan.operands[index];
      Text of;
      bool mean = false;
      if (is_statistics(operand.name, of, mean)) continue;
      ++pictures;
      const Whole* whole = find(operand.name);
      if (!whole || whole->width != operand.shape.dims[2] || whole->channels != operand.shape.dims[3]) {
        return refuse(plan, "%.*s is not what an earlier stage made", OD_TEXT(cut(operand.name)));
      }
      if (whole->dtype != operand.dtype) {
        return refuse(plan, "%.*s is %s, and was made as %s", OD_TEXT(cut(operand.name)), name_of(operand.dtype),
                      name_of(whole->dtype));
      }
    }
    if (!pictures) return refuse(plan, "it reads no picture of an earlier stage");
    for (const u32 index : plan.inputs) {
      const Operand& operand = plan.operands[index];
      Text of;
      bool mean = false;
      if (!is_statistics(operand.name, of, mean) || !mean) continue;
      const Whole* whole = find(of);
      const u32 groups = operand.shape.dims[0];
      if (!whole || whole->channels % groups || groups != groups_of(of)) {
        return refuse(plan, "the statistics of %.*s are not of a picture's groups of channels", OD_TEXT(cut(of)));
      }
    }
    return true;
  }

  // Whether the stage's pictures can be cut into its bands; `rows` of one band's result become those of the whole.
  bool check_bands(const Plan& plan, u64& rows) const {
    u64 height = 0, high = 0;  // of the smallest picture, and of its bands
    const auto each = [&](auto visit) {
      bool good = true;
      for (const u32 index : plan.inputs) {
        Text of;
        bool mean = false;
        const Operand& operand = plan.operands[index];
        if (!is_statistics(operand.name, of, mean)) good = visit(find(operand.name)->rows, operand) && good;
      }
      return good;
    };
    each([&](u64 whole, const Operand& operand) {
      if (!high || whole < height) {
        height = whole;
        high = operand.shape.dims[1];
      }
      return true;
    });
    const bool alike =
        each([&](u64 whole, const Operand& operand) { return whole * high == height * operand.shape.dims[1]; });
    if (high > height || high < min<u64>(height, kLeastRows) || rows % high || !alike) {
      return refuse(plan, "its bands do not fit pictures of %llu rows", static_cast<unsigned long long>(height));
    }
    rows = height * rows / high;
    return true;
  }

  Span<const Plan* const> plans_;
  const Manifest& manifest_;
  Error& error_;
  List<Whole> wholes_;
};

}  // namespace

bool is_statistics(Text name, Text& picture, bool& mean) {
  mean = name.ends_with(":mean");
  if (!mean && !name.ends_with(":variance")) return false;
  picture = {name.data, name.size - Text(mean ? ":mean" : ":variance").size};
  return true;
}

bool check_stages(Span<const Plan* const> plans, const Manifest& manifest, Error& error) {
  return Stages(plans, manifest, error).check();
}

}  // namespace od
