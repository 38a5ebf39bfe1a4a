#include "bundle/made.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

namespace od {
namespace {

constexpr size_t kMaxLeaves = 4096, kMaxDepth = 12;
constexpr double kFloatMax = 3.4028234663852886e38;
constexpr const char* kOps[] = {"",        "transpose", "reshape", "scale", "concat",      "winograd",   "pad",
                                "panels",  "pairs",     "int8",    "int4",  "int8_scales", "int4_scales"};  // by MadeOp

constexpr size_t kNames = sizeof kOps / sizeof kOps[0] - 1;

// "[[2, 3], [4]]" of the first three.
struct Shapes {
  char text[400];

  explicit Shapes(Span<Made> of) {
    char one[128];
    size_t used = static_cast<size_t>(snprintf(text, sizeof text, "["));
    for (size_t i = 0; i < min<size_t>(of.count, 3) && used < sizeof text - sizeof one; ++i) {
      used += static_cast<size_t>(
          snprintf(text + used, sizeof text - used, "%s%s", i ? ", " : "", of[i].shape.shown(one, sizeof one)));
    }
    snprintf(text + used, sizeof text - used, "]");
  }
};

class MadeReader {
 public:
  MadeReader(const Checker& check, Pool& pool) : check_(check), pool_(pool) {}

  bool read(const Json& value, const Place& at, size_t depth, Made& out) {
    if (!check_.object(value, at)) return false;
    if (depth > kMaxDepth) return check_.fail(at, "is nested too deeply (expected at most %zu steps)", kMaxDepth);
    out = Made();
    const Json* rows[2];
    if (value.find("weight")) {
      out.op = MadeOp::leaf;
      if (++leaves_ > kMaxLeaves) return check_.fail(at, "has too many weights (expected at most %zu)", kMaxLeaves);
      return check_.record(value, {"weight", "shape"}, rows, at) &&
             check_.text(*rows[0], at.field("weight"), out.weight) &&
             check_.shape(*rows[1], Dtype::f32, at.field("shape"), out.shape);
    }
    Text names[kNames];
    for (size_t i = 0; i < kNames; ++i) names[i] = kOps[i + 1];
    size_t op = 0;
    const Place of = at.field("of");
    if (!check_.record(value, {"op", "of"}, rows, at) ||
        !check_.one_of(*rows[0], {names, kNames}, at.field("op"), op) || !check_.array(*rows[1], 1, kMaxLeaves, of)) {
      return false;
    }
    out.op = static_cast<MadeOp>(op + 1);
    if (!settings(value, at, out) || !pool_.array(out.of, rows[1]->list.count, check_.error())) return false;
    for (size_t i = 0; i < out.of.count; ++i) {
      if (!read(rows[1]->list[i], of.item(i), depth + 1, out.of[i])) return false;
    }
    if (out.op != MadeOp::concat && out.of.count != 1) {
      return check_.fail(at, "cannot be had: %s is of one (got %zu)", kOps[op + 1], out.of.count);
    }
    return shape_of(out) ? bounded(at, out) : check_.fail(at, "cannot be had: %s", why_);
  }

 private:
  bool settings(const Json& value, const Place& at, Made& out) {
    const Json* found;
    switch (out.op) {
      case MadeOp::transpose: {
        Span<u32> perm;
        if (!check_.field(value, "perm", found, at) ||
            !check_.integers(*found, 0, i64(kMaxRank) - 1, 0, kMaxRank, at.field("perm"), pool_, perm)) {
          return false;
        }
        out.shape.rank = static_cast<u32>(perm.count);
        for (size_t i = 0; i < perm.count; ++i) out.perm[i] = perm[i];
        return true;
      }
      case MadeOp::reshape: {
        Span<u32> shape;
        if (!check_.field(value, "shape", found, at) ||
            !check_.integers(*found, 1, INT32_MAX, 0, kMaxRank, at.field("shape"), pool_, shape)) {
          return false;
        }
        out.shape.rank = static_cast<u32>(shape.count);
        for (size_t i = 0; i < shape.count; ++i) out.shape.dims[i] = shape[i];
        return true;
      }
      case MadeOp::scale:
        if (!check_.field(value, "by", found, at)) return false;
        out.by = found->real;
        return (found->number() && fabs(out.by) <= kFloatMax) ||
               check_.fail(at.field("by"), "is %s (expected a number within float32)", shown(*found).text);
      case MadeOp::concat:
        return check_.field(value, "axis", found, at) &&
               check_.integer(*found, 0, i64(kMaxRank) - 1, at.field("axis"), out.axis);
      case MadeOp::pad:
        return check_.field(value, "columns", found, at) &&
               check_.integer(*found, 1, INT32_MAX, at.field("columns"), out.columns);
      case MadeOp::panels: {
        if (!check_.field(value, "width", found, at) ||
            !check_.integer(*found, 1, 65536, at.field("width"), out.width) ||
            !check_.field(value, "halves", found, at) ||
            !check_.integer(*found, 1, 2, at.field("halves"), out.halves)) {
          return false;
        }
        const Json* fill = value.find("fill");
        return !fill || check_.integer(*fill, 0, 15, at.field("fill"), out.fill);
      }
      default:
        return true;
    }
  }

  bool misfit(const char* what, ...) __attribute__((format(printf, 2, 3))) {
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(why_, sizeof why_, what, arguments);
    va_end(arguments);
    return false;
  }

  bool shape_of(Made& out) {
    const Shape& of = out.of[0].shape;
    const u32 last = of.rank - 1;
    char first[128], second[128];
    of.shown(first, sizeof first);
    switch (out.op) {
      case MadeOp::transpose: {
        u32 used = 0;
        Shape perm = out.shape;
        for (u32 i = 0; i < perm.rank; ++i) {
          used |= 1u << out.perm[i];
          perm.dims[i] = out.perm[i];
          out.shape.dims[i] = of.dims[out.perm[i]];
        }
        return (perm.rank == of.rank && used == (1u << of.rank) - 1) ||
               misfit("%s is no order of the axes of %s", perm.shown(second, sizeof second), first);
      }
      case MadeOp::reshape:
        return equal_counts(out.shape, of) ||
               misfit("%s cannot become %s", first, out.shape.shown(second, sizeof second));
      case MadeOp::concat:
        return joined(out);
      case MadeOp::winograd:
        out.shape = of;
        if (of.rank != 4 || of.dims[0] != 3 || of.dims[1] != 3) {
          return misfit("%s are not the taps of 3x3 kernels", first);
        }
        out.shape.rank = 3;
        out.shape.dims[0] = 36;
        out.shape.dims[1] = of.dims[2];
        out.shape.dims[2] = of.dims[3];
        return true;
      case MadeOp::pad:
        if (!of.rank || of.dims[last] > out.columns) return misfit("%s has more columns than %u", first, out.columns);
        out.shape = of;
        out.shape.dims[last] = out.columns;
        return true;
      case MadeOp::panels: {
        if (of.rank < 2 || out.width % out.halves || of.dims[last] % out.halves || of.rank == kMaxRank) {
          return misfit("%s in panels of %u", first, out.width);
        }
        const u32 own = out.width / out.halves, columns = of.dims[last] / out.halves;
        out.shape = of;
        out.shape.rank = of.rank + 1;
        out.shape.dims[last - 1] = (columns - 1) / own + 1;
        out.shape.dims[last] = of.dims[last - 1];
        out.shape.dims[last + 1] = out.width;
        return true;
      }
      case MadeOp::pairs:
        if (!of.rank || of.dims[last] % 2) return misfit("%s has no pairs", first);
        out.shape = of;
        out.shape.dims[last] /= 2;
        return true;
      case MadeOp::int8:
      case MadeOp::int4:
      case MadeOp::int8_scales:
      case MadeOp::int4_scales:
        if (of.rank != 2) return misfit("%s is no matrix", first);
        out.shape = of;
        if (out.op == MadeOp::int8_scales) out.shape.dims[0] = 1;
        if (out.op == MadeOp::int4_scales) out.shape.dims[0] = (of.dims[0] - 1) / kGroup + 1;
        return true;
      case MadeOp::scale:
      case MadeOp::leaf:
        out.shape = of;
        return true;
    }
    return false;
  }

  bool joined(Made& out) {
    const u32 axis = out.axis;
    Shape& shape = out.shape;
    shape = out.of[0].shape;
    bool ranks = axis < shape.rank, rest = true;
    u64 sum = 0;
    for (const Made& part : out.of) ranks = ranks && part.shape.rank == shape.rank;
    if (!ranks) return misfit("axis %u of %s", axis, Shapes(out.of).text);
    for (const Made& part : out.of) {
      sum += part.shape.dims[axis];
      shape.dims[axis] = part.shape.dims[axis];
      rest = rest && part.shape == shape;
    }
    if (!rest) return misfit("%s do not fit each other along axis %u", Shapes(out.of).text, axis);
    if (sum > INT32_MAX) return misfit("it is too large");
    shape.dims[axis] = static_cast<u32>(sum);
    return true;
  }

  // The sides that are asked for may have any product.
  static bool equal_counts(const Shape& asked, const Shape& of) {
    u64 count = 1;
    for (u32 i = 0; i < asked.rank && count <= kMaxBytes; ++i) count *= asked.dims[i];
    return count == of.count();
  }

  // So that no product of its sides overflows.
  bool bounded(const Place& at, const Made& out) const {
    u64 count = 1;
    for (u32 i = 0; i < out.shape.rank && count <= kMaxBytes; ++i) count *= out.shape.dims[i];
    return count <= kMaxBytes / sizeof(float) || check_.fail(at, "is too large");
  }

  const Checker& check_;
  Pool& pool_;
  size_t leaves_ = 0;
  char why_[1000] = "";
};

// Ops from the last one on to `until`, all of which `count` says of whether they are of a kind.
template <class Is>
size_t count(const Made& made, const Made* until, const Is& is) {
  if (&made == until || made.op == MadeOp::leaf) return 0;
  size_t found = is(made);
  for (const Made& part : made.of) found += count(part, until, is);
  return found;
}

bool is_few(const Made& made) { return made.numbers() || made.scales(); }

bool check_stored(const Checker& check, const Made& made, const WeightEntry& weight, const Place& at) {
  char own[128], wanted[128];
  if (made.shape != weight.shape) {
    return check.fail(at, "is of %s (expected %s, as it is stored)", made.shape.shown(own, sizeof own),
                      weight.shape.shown(wanted, sizeof wanted));
  }
  const Made* step = number_step(made);
  const char* makes = "f16 or f32";
  bool same = weight.dtype == Dtype::f16 || weight.dtype == Dtype::f32;
  if (step) {
    const Dtype dtype = step->op == MadeOp::int8          ? Dtype::i8
                        : step->op == MadeOp::int4        ? Dtype::u4x2
                        : step->op == MadeOp::int8_scales ? Dtype::f32
                                                          : Dtype::f16;
    makes = name_of(dtype);
    same = weight.dtype == dtype;
  }
  if (!same) return check.fail(at, "makes %s (expected %s, as it is stored)", makes, name_of(weight.dtype));
  const auto paired = [](const Made& one) { return one.op == MadeOp::pairs; };
  const size_t pairs = count(made, step, paired);
  if (pairs != (weight.dtype == Dtype::u4x2)) {
    return check.fail(at, "puts two numbers in a byte (expected of 4 bits, once)");
  }
  const Made& within = step ? step->of[0] : made;
  if (count(within, nullptr, is_few) || count(within, nullptr, paired)) {
    return check.fail(at, "has numbers in few bits within (expected one step, last but for panels and pairs)");
  }
  return true;
}

}  // namespace

const Made* number_step(const Made& made) {
  for (const Made* one = &made;; one = &one->of[0]) {
    if (one->numbers() || one->scales()) return one;
    if (one->op != MadeOp::pad && one->op != MadeOp::panels && one->op != MadeOp::pairs) return nullptr;
  }
}

bool parse_made(const Checker& check, const Json& value, const Place& at, const WeightEntry& weight, Pool& pool,
                const Made*& out) {
  auto* made = pool.one<Made>();
  if (!made) return Pool::no_memory(check.error(), sizeof(Made));
  if (!MadeReader(check, pool).read(value, at, 1, *made)) return false;
  if (!check_stored(check, *made, weight, at)) return false;
  out = made;
  return true;
}

}  // namespace od
