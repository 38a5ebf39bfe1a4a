#include "device/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"

namespace od {
namespace {

// The operand that holds an operand's bytes.
u32 home(const Plan& plan, u32 index) {
  const i32 view = plan.operands[index].view;
  return view == kNone ? index : static_cast<u32>(view);
}

bool is_real(Dtype dtype) { return dtype == Dtype::f32 || dtype == Dtype::f16; }

float value_at(Bytes data, Dtype dtype, size_t index) {
  if (dtype == Dtype::f16) {
    u16 bits;
    memcpy(&bits, data.data + 2 * index, sizeof bits);
    return from_half(bits);
  }
  float value;
  memcpy(&value, data.data + 4 * index, sizeof value);
  return value;
}

// Least and largest finite value, and how many are not finite.
struct Range {
  double low = 0, high = 0;
  size_t count = 0, nan = 0, infinite = 0, first_bad = 0;
  float bad = 0;

  Range(Bytes data, Dtype dtype) : count(data.count / bytes_of(dtype)) {
    bool any = false;
    for (size_t i = 0; i < count; ++i) {
      const float value = value_at(data, dtype, i);
      if (!isfinite(value)) {
        if (!(nan + infinite)) {
          first_bad = i;
          bad = value;
        }
        ++(isnan(value) ? nan : infinite);
        continue;
      }
      low = any ? fmin(low, static_cast<double>(value)) : static_cast<double>(value);
      high = any ? fmax(high, static_cast<double>(value)) : static_cast<double>(value);
      any = true;
    }
  }

  void show(Dtype dtype, char* out, size_t room) const {
    char finite[80] = "none to none", odd[64] = "";
    if (nan + infinite < count) snprintf(finite, sizeof finite, "%.4g to %.4g", low, high);
    int used = nan ? snprintf(odd, sizeof odd, ", %zu NaN", nan) : 0;
    if (infinite) snprintf(odd + used, sizeof odd - static_cast<size_t>(used), ", %zu infinite", infinite);
    snprintf(out, room, "%s [%s%s]", dtype == Dtype::f16 ? "float16" : "float32", finite, odd);
  }
};

// "[1, 0, 5]": where the element `index` is.
void show_place(const Shape& shape, size_t index, char* out, size_t room) {
  size_t at[kMaxRank];
  for (u32 i = shape.rank; i-- > 0;) {
    at[i] = index % shape.dims[i];
    index /= shape.dims[i];
  }
  size_t used = static_cast<size_t>(snprintf(out, room, "["));
  for (u32 i = 0; i < shape.rank; ++i) {
    used += static_cast<size_t>(snprintf(out + used, room - used, "%s%zu", i ? ", " : "", at[i]));
  }
  snprintf(out + used, room - used, "]");
}

// What the inputs of a dispatch hold, each operand once; `infinite`: whether any holds an infinity.
bool show_inputs(const Plan& plan, Span<u32> inputs, ReadOperand read, void* user, char* out, size_t room,
                 bool& infinite, Error& error) {
  out[0] = 0;
  infinite = false;
  for (size_t i = 0; i < inputs.count; ++i) {
    const u32 index = home(plan, inputs[i]);
    const Operand& operand = plan.operands[index];
    bool again = false;
    for (size_t k = 0; k < i; ++k) again = again || home(plan, inputs[k]) == index;
    if (again || !is_real(operand.dtype)) continue;
    List<u8> values;
    if (!read(user, index, values, error)) return false;
    const Range range({values.begin(), values.size()}, operand.dtype);
    infinite = infinite || range.infinite;
    char shown[200];
    range.show(operand.dtype, shown, sizeof shown);
    const size_t used = strlen(out);
    snprintf(out + used, room - used, "%s%.*s %s", used ? "; " : "", OD_TEXT(operand.name), shown);
  }
  if (!out[0]) snprintf(out, room, "no numbers");
  return true;
}

}  // namespace

bool whole_results(const Plan& plan, Pool& pool, Span<u64>& out, Error& error) {
  enum : u8 { kUnused, kReadNext, kWrittenNext };
  Span<u8> next;
  if (!pool.array(out, plan.dispatches.count, error) || !pool.array(next, plan.operands.count, error)) return false;
  for (const u32 index : plan.outputs) next[index] = kReadNext;
  // A Concat is written in parts, so its result is whole after the last one. A dispatch that works in place reads what
  // it overwrites. What nobody reads is left out: a kernel's own scratch may hold anything.
  for (size_t number = plan.dispatches.count; number-- > 0;) {
    const Dispatch& dispatch = plan.dispatches[number];
    const PlanKernel& kernel = plan.kernels[dispatch.kernel];
    bool in_place = false;
    for (const Define& define : kernel.defines) in_place = in_place || (define.name == "INPLACE" && define.value);
    for (u32 i = 0; i < kernel.outputs; ++i) {
      if (next[dispatch.operands[kernel.inputs + i]] == kReadNext) out[number] |= u64(1) << i;
    }
    for (u32 i = 0; i < kernel.outputs; ++i) {
      next[dispatch.operands[kernel.inputs + i]] = in_place ? kReadNext : kWrittenNext;
    }
    for (u32 i = 0; i < kernel.inputs; ++i) next[home(plan, dispatch.operands[i])] = kReadNext;
  }
  return true;
}

bool check_results(const Plan& plan, u32 number, u64 whole, const Manifest& manifest, ReadOperand read, void* user,
                   Error& error) {
  const Dispatch& dispatch = plan.dispatches[number];
  const PlanKernel& kernel = plan.kernels[dispatch.kernel];
  for (u32 i = 0; i < kernel.outputs; ++i) {
    const u32 index = dispatch.operands[kernel.inputs + i];
    const Operand& operand = plan.operands[index];
    if (!(whole >> i & 1) || !is_real(operand.dtype)) continue;
    List<u8> values;
    if (!read(user, index, values, error)) return false;
    const Range range({values.begin(), values.size()}, operand.dtype);
    if (!(range.nan + range.infinite)) continue;
    char came[700], out[200], place[128], where[400];
    bool infinite = false;
    if (!show_inputs(plan, dispatch.operands.slice(0, kernel.inputs), read, user, came, sizeof came, infinite, error)) {
      return false;
    }
    if (!range.nan && infinite) continue;
    range.show(operand.dtype, out, sizeof out);
    show_place(operand.shape, range.first_bad, place, sizeof place);
    const Text component = manifest.components[plan.component].name, file = manifest.kernels[kernel.file];
    snprintf(where, sizeof where, "%.*s: dispatch %u, %.*s (%.*s, %.*s.cl)", OD_TEXT(component), number,
             OD_TEXT(dispatch.node), OD_TEXT(dispatch.op), OD_TEXT(file));
    return fail(error, Code::numeric, where,
                operand.dtype == Dtype::f16
                    ? "convert with --dtype fp32, where half storage overflows"
                    : "look for kernels that this device gets wrong with `ondevice doctor`",
                "%zu of %zu values are NaN or infinite, the first at %s (%s); out: %.*s %s; in: %s.",
                range.nan + range.infinite, range.count, place,
                isnan(range.bad) ? "nan"
                : range.bad > 0  ? "inf"
                                 : "-inf",
                OD_TEXT(operand.name), out, came);
  }
  return true;
}

}  // namespace od
