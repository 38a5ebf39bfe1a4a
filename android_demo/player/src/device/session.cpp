#include "device/session.h"

#include <stdio.h>
#include <string.h>

#include "device/check.h"

namespace od {
namespace {

// Launches between two waits: enough to hide an enqueue, few enough that a wish to stop is not heard minutes later.
constexpr u32 kInFlight = 16;

// "f32[2, 4, 8, 8]"
struct Typed {
  char text[128];

  Typed(Dtype dtype, const Shape& shape) {
    size_t used = static_cast<size_t>(snprintf(text, sizeof text, "%s[", name_of(dtype)));
    for (u32 i = 0; i < shape.rank && used < sizeof text; ++i) {
      used += static_cast<size_t>(snprintf(text + used, sizeof text - used, "%s%u", i ? ", " : "", shape.dims[i]));
    }
    if (used < sizeof text) snprintf(text + used, sizeof text - used, "]");
  }
};

// Operands by name, in one line.
void show_ports(const Plan& plan, Span<u32> ports, char* out, size_t room) {
  size_t used = 0;
  out[0] = 0;
  for (size_t i = 0; i < ports.count && used < room; ++i) {
    used += static_cast<size_t>(
        snprintf(out + used, room - used, "%s%.*s", i ? ", " : "", OD_TEXT(plan.operands[ports[i]].name)));
  }
}

// Whether values, joined along their first dimension, are what an operand takes.
bool fits(const Operand& operand, Span<const DeviceValue* const> parts) {
  u64 rows = 0;
  for (const DeviceValue* part : parts) {
    Shape alike = operand.shape;
    if (alike.rank) alike.dims[0] = part->shape.dims[0];
    if (part->dtype != operand.dtype || part->shape != alike) return false;
    rows += alike.rank ? alike.dims[0] : 1;
  }
  return rows == (operand.shape.rank ? operand.shape.dims[0] : 1);
}

}  // namespace

bool Session::cancelled(const Plan& plan, Error& error) const {
  if (!cancel || !*cancel) return false;
  fail(error, Code::cancelled, bundle_.manifest().components[plan.component].name, "", "cancelled.");
  return true;
}

bool Session::check_inputs(const Plan& plan, Span<const Input> inputs, Span<Output> outputs, Error& error) const {
  const Text component = bundle_.manifest().components[plan.component].name;
  char known[1024], where[300];
  const auto refuse = [&](const char* kind, Text port, Span<u32> ports, const char* what) {
    show_ports(plan, ports, known, sizeof known);
    return fail(error, Code::usage, component, "", "%s %.*s %s (expected %s).", kind, OD_TEXT(port), what, known);
  };
  for (const u32 index : plan.inputs) {
    size_t times = 0;
    for (const Input& input : inputs) times += input.port == plan.operands[index].name;
    if (times != 1) {
      return refuse("input", plan.operands[index].name, plan.inputs, times ? "is given twice" : "is missing");
    }
  }
  for (const Input& input : inputs) {
    const i32 index = plan.input(input.port);
    if (index == kNone) return refuse("input", input.port, plan.inputs, "is unknown");
    const Operand& operand = plan.operands[static_cast<size_t>(index)];
    if (input.parts.count ? fits(operand, input.parts) : input.host.count == operand.bytes) continue;
    snprintf(where, sizeof where, "%.*s: input %.*s", OD_TEXT(component), OD_TEXT(input.port));
    const Typed expected(operand.dtype, operand.shape);
    if (!input.parts.count) {
      return fail(error, Code::usage, where, "", "it is %zu bytes (expected %s).", input.host.count, expected.text);
    }
    char got[600] = "";
    for (const DeviceValue* part : input.parts) {
      const size_t used = strlen(got);
      snprintf(got + used, sizeof got - used, "%s%s", used ? ", " : "", Typed(part->dtype, part->shape).text);
    }
    return fail(error, Code::usage, where, "", "%s %s (expected %s).",
                input.parts.count == 1 ? "it is" : "its parts are", got, expected.text);
  }
  for (const Output& output : outputs) {
    const i32 index = plan.output(output.port);
    if (index == kNone) return refuse("output", output.port, plan.outputs, "is unknown");
    const Operand& operand = plan.operands[static_cast<size_t>(index)];
    if (output.value || output.host.count == operand.bytes) continue;
    snprintf(where, sizeof where, "%.*s: output %.*s", OD_TEXT(component), OD_TEXT(output.port));
    return fail(error, Code::usage, where, "", "there is room for %zu bytes (it is %s).", output.host.count,
                Typed(operand.dtype, operand.shape).text);
  }
  return true;
}

bool Session::run(const Plan& plan, Span<const Input> inputs, Span<Output> outputs, Error& error) {
  if (!check_inputs(plan, inputs, outputs, error) || cancelled(plan, error) || !bind(plan, error)) return false;
  Bound& bound = *find(plan);
  if (feed(plan, bound, inputs, error) && launch(bound, error) && take(plan, bound, outputs, error)) return true;
  Error ignored;  // what is said already says more
  device_.finish(ignored);
  return false;
}

bool Session::feed(const Plan& plan, const Bound& bound, Span<const Input> inputs, Error& error) {
  for (const Input& input : inputs) {
    const Buffer& buffer = bound.buffers[static_cast<size_t>(plan.input(input.port))];
    if (!input.parts.count && !device_.write(buffer, 0, input.host, error)) return false;
    u64 offset = 0;
    for (const DeviceValue* part : input.parts) {
      if (!device_.copy(part->buffer, buffer, part->buffer.bytes, offset, error)) return false;
      offset += part->buffer.bytes;
    }
  }
  return true;
}

bool Session::launch(Bound& bound, Error& error) {
  if (check && bound.whole.empty() && !whole_results(*bound.plan, bound_pool_, bound.whole, error)) return false;
  List<cl_event> events;
  const bool done = launch_all(bound, events, error) && (!profile || add_times(bound, events, error));
  if (bound.streamed) {
    if (!done) {
      Error ignored;  // what is said already says more; but blocks are in use until then
      device_.finish(ignored);
    }
    Streamed& streamed = *bound.streamed;
    leave_blocks(bound, streamed.loaded);
    streamed.loaded = streamed.done = 0;
  }
  for (cl_event event : events) device_.release(event);
  return done;
}

// Adds an event for each dispatch to `events` where times are taken or blocks of weights come and go, else one for each
// kInFlight of them.
bool Session::launch_all(Bound& bound, List<cl_event>& events, Error& error) {
  const Plan& plan = *bound.plan;
  struct Reader {
    Session& session;
    const Bound& bound;
  } reader = {*this, bound};
  const auto read_operand = [](void* user, u32 operand, List<u8>& out, Error& why) {
    const auto& from = *static_cast<Reader*>(user);
    const Buffer& buffer = from.bound.buffers[operand];
    if (!out.resize(buffer.bytes)) return Pool::no_memory(why, buffer.bytes);
    return from.session.device_.read(buffer, 0, out.span(), why);
  };
  const bool every = profile || bound.streamed;
  const u32 stride = every ? kInFlight : 1;  // in `events`, between two that are waited for
  for (u32 number = 0; number < plan.dispatches.count; ++number) {
    const Dispatch& dispatch = plan.dispatches[number];
    const Buffer* buffers[2 * kMaxArguments];
    const bool marked = number % kInFlight == 0;
    cl_event event = nullptr;
    if (cancelled(plan, error)) return false;
    if (bound.streamed && !enter_block(bound, number, events, error)) return false;
    for (size_t i = 0; i < dispatch.operands.count; ++i) buffers[i] = &bound.buffers[dispatch.operands[i]];
    if (!device_.launch(programs_[bound.programs[dispatch.kernel]].program, {buffers, dispatch.operands.count},
                        {dispatch.scalars.data, dispatch.scalars.count}, dispatch.grid, dispatch.group,
                        {bound.name, dispatch.node, dispatch.op}, every || marked ? &event : nullptr, error)) {
      return false;
    }
    if (event && !events.push(event)) {
      device_.release(event);
      return Pool::no_memory(error, sizeof event);
    }
    if (marked && number && !device_.wait(events[events.size() - 1 - stride], error)) return false;
    if (check && !check_results(plan, number, bound.whole[number], bundle_.manifest(), read_operand, &reader, error)) {
      return false;
    }
  }
  return !bound.streamed || events.empty() || device_.wait(events.back(), error);
}

bool Session::add_times(const Bound& bound, const List<cl_event>& events, Error& error) {
  if (!device_.finish(error)) return false;
  size_t first = 0;
  while (first < launched.size() && launched[first].plan != bound.plan) ++first;
  for (u32 i = 0; i < events.size(); ++i) {
    Timespan span;
    if (!device_.span(events[i], span, error)) return false;
    if (first + i == launched.size() && !launched.push({bound.plan, i, 0, 0})) {
      return Pool::no_memory(error, sizeof(Launched));
    }
    ++launched[first + i].runs;
    launched[first + i].seconds += span.end - span.begin;
  }
  return true;
}

bool Session::take(const Plan& plan, const Bound& bound, Span<Output> outputs, Error& error) {
  for (size_t i = 0; i < outputs.count; ++i) {
    if (take_one(plan, bound, outputs[i], error)) continue;
    while (i-- > 0) {
      if (outputs[i].value) drop(*outputs[i].value);
    }
    return false;
  }
  return true;
}

bool Session::take_one(const Plan& plan, const Bound& bound, const Output& output, Error& error) {
  const auto index = static_cast<size_t>(plan.output(output.port));
  const Operand& operand = plan.operands[index];
  if (!output.value) return device_.read(bound.buffers[index], 0, output.host, error);
  char what[300];
  const Text component = bundle_.manifest().components[plan.component].name;
  snprintf(what, sizeof what, "%.*s: %.*s", OD_TEXT(component), OD_TEXT(operand.name));
  DeviceValue& value = *output.value;
  value = {{}, operand.dtype, operand.shape};
  if (!device_.allocate(operand.bytes, what, value.buffer, error)) return false;
  value_bytes_ += operand.bytes;
  if (device_.copy(bound.buffers[index], value.buffer, operand.bytes, 0, error)) return true;
  drop(value);
  return false;
}

bool Session::put(Bytes data, Dtype dtype, const Shape& shape, DeviceValue& out, Error& error) {
  out = {{}, dtype, shape};
  if (!device_.allocate(data.count, "a value", out.buffer, error)) return false;
  value_bytes_ += data.count;
  if (device_.write(out.buffer, 0, data, error)) return true;
  drop(out);
  return false;
}

bool Session::part(const DeviceValue& value, u32 first, u32 count, DeviceValue& out, Error& error) {
  out = {{}, value.dtype, value.shape};
  out.shape.dims[0] = count;
  const u64 bytes = out.shape.count() * bytes_of(out.dtype), row = bytes / count;
  if (!device_.allocate(bytes, "a value", out.buffer, error)) return false;
  value_bytes_ += bytes;
  if (device_.copy(value.buffer, out.buffer, bytes, 0, error, first * row)) return true;
  drop(out);
  return false;
}

bool Session::read(const DeviceValue& value, Span<u8> out, Error& error) {
  return device_.read(value.buffer, 0, out, error);
}

void Session::drop(DeviceValue& value) {
  value_bytes_ -= value.buffer.bytes;
  device_.release(value.buffer);
}

}  // namespace od
