// Roles outside of the loop, and what any role's ports are fed with.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "draw/run.h"
#include "picture/prepare.h"

namespace od {
namespace {

Bytes bytes_of_floats(const List<float>& values) {
  return {reinterpret_cast<const u8*>(values.begin()), values.size() * sizeof(float)};
}

Shape vector(u32 count) {
  Shape shape;
  shape.rank = 2;
  shape.dims[0] = 1;
  shape.dims[1] = count;
  return shape;
}

}  // namespace

bool Run::plan_of(const Role& role, u32 batch, const Plan*& out, Error& error) {
  return bundle_.plan(role.component, plan_sizes(bundle_, role.component, batch, size_), out, error);
}

// Whether what a role needs is there: where a picture was not given, what reads it does not run.
bool Run::runs(const Role& role) const {
  for (const Feed& feed : role.feeds) {
    if (feed.kind == Feed::Kind::picture && !has_picture(feed.index)) return false;
    const bool made_by_role = feed.kind == Feed::Kind::value && feed.index != kLatents && feed.index != kTimestep;
    if (made_by_role && !feed.absent_zeros && !values_.was_made(feed.index)) return false;
  }
  return true;
}

bool Run::run_role(const Role& role, Span<const i32> texts, Error& error) {
  const Text name = bundle_.manifest().components[role.component].name;
  char stage[80];
  snprintf(stage, sizeof stage, "%.*s", OD_TEXT(name));
  say(0, stage);
  if (role.every != Rate::text) return run_once(role, kNone, error);
  for (const i32 text : texts) {
    bool zeros = false;  // stand for what the role would make of a text that was not given
    for (const Feed& feed : role.feeds) {
      zeros = zeros || (feed.kind == Feed::Kind::tokens && feed.absent_zeros && !given_[static_cast<size_t>(text)]);
    }
    if (!(zeros ? keep_zeros(role, text, error) : run_once(role, text, error))) return false;
  }
  return true;
}

bool Run::keep_zeros(const Role& role, i32 text, Error& error) {
  const Plan* plan;
  if (!plan_of(role, 1, plan, error)) return false;
  for (const Keep& keep : role.keeps) {
    const Operand& operand = plan->operands[static_cast<size_t>(plan->output(keep.port))];
    Feeds feeds(session_);
    Part zeros;
    DeviceValue made;
    if (!feeds.zeros(operand, 1, zeros, error)) return false;
    if (!session_.put(zeros.host, operand.dtype, operand.shape, made, error)) return false;
    values_.keep(keep.value, text, made);
  }
  return true;
}

// What the ports of a role outside of the loop are fed with.
bool Run::feed_role(const Role& role, const Plan& plan, i32 text, Feeds& feeds, Error& error) {
  for (const Feed& one : role.feeds) {
    Part part;
    const Operand& port = plan.operands[static_cast<size_t>(plan.input(one.port))];
    if (!feed(one, port, 1, text, feeds, part, error) || !feeds.add(one.port, {&part, 1}, error)) return false;
  }
  return true;
}

// Run a plan; what it makes stays on the device, as the role's values.
bool Run::run_and_keep(const Role& role, const Plan& plan, const Feeds& feeds, i32 text, Error& error) {
  List<DeviceValue> made;
  List<Output> outputs;
  if (!made.resize(role.keeps.count) || !outputs.resize(role.keeps.count)) {
    return Pool::no_memory(error, role.keeps.count * sizeof(Output));
  }
  for (size_t i = 0; i < role.keeps.count; ++i) {
    outputs[i].port = role.keeps[i].port;
    outputs[i].value = &made[i];
  }
  if (!session_.run(plan, feeds.inputs(), outputs.span(), error)) return false;
  for (size_t i = 0; i < role.keeps.count; ++i) values_.keep(role.keeps[i].value, text, made[i]);
  return true;
}

bool Run::run_once(const Role& role, i32 text, Error& error) {
  const Plan* plan;
  if (!plan_of(role, 1, plan, error)) return false;
  Feeds feeds(session_);
  if (!feed_role(role, *plan, text, feeds, error) || !run_and_keep(role, *plan, feeds, text, error)) return false;
  for (size_t i = 0; i < role.keeps.count; ++i) {
    List<float> host;
    if (!values_.host(values_.at(role.keeps[i].value, text), host, error)) return false;
    char where[200];
    snprintf(where, sizeof where, "%.*s's %.*s", OD_TEXT(bundle_.manifest().components[role.component].name),
             OD_TEXT(role.keeps[i].port));
    if (!check_finite({host.begin(), host.size()}, where, error)) return false;
  }
  return true;
}

// One pass's part of a port, of `passes` that the plan takes.
bool Run::feed(const Feed& feed, const Operand& port, u32 passes, i32 text, Feeds& feeds, Part& out, Error& error) {
  switch (feed.kind) {
    case Feed::Kind::value: {
      const Kept& kept = values_.at(feed.index, text);
      if (!kept.made && feed.absent_zeros) return feeds.zeros(port, passes, out, error);
      if (!kept.made) {
        return fail(error, Code::bundle, "pipeline", "convert the checkpoint again", "%.*s was not made.",
                    OD_TEXT(pipeline_.values[static_cast<size_t>(feed.index)].name));
      }
      out.shape = kept.shape;
      if (kept.on_device) {
        out.device = &kept.device;
      } else {
        out.host = bytes_of_floats(kept.host);
      }
      return true;
    }
    case Feed::Kind::tokens: {
      const Tokenizer& tokenizer = *tokenizers_[static_cast<size_t>(feed.index)];
      List<i32> ids;
      size_t cut = 0;
      if (!tokenizer.encode(texts_[static_cast<size_t>(text)], ids, &cut, error)) return false;
      if (cut) {
        log(Level::warning, "%zu tokens of the text %.*s are over the %u that the model reads", cut,
            OD_TEXT(pipeline_.texts[static_cast<size_t>(text)].name), tokenizer.length());
      }
      out.dtype = Dtype::i32;
      out.shape = vector(tokenizer.length());
      return feeds.hold({reinterpret_cast<const u8*>(ids.begin()), ids.size() * sizeof(i32)}, out.host, error);
    }
    case Feed::Kind::numbers: {
      List<float> list;
      for (const Feed::PerText& one : feed.numbers) {
        const Amount& amount = one.amounts[one.same ? 0 : static_cast<size_t>(text)];
        if (!list.push(static_cast<float>(numbers_.of(amount)))) return Pool::no_memory(error, sizeof(float));
      }
      out.shape = vector(static_cast<u32>(list.size()));
      return feeds.hold(bytes_of_floats(list), out.host, error);
    }
    case Feed::Kind::picture:
      return feed_picture(feed, feeds, out, error);
  }
  return false;
}

bool Run::feed_picture(const Feed& feed, Feeds& feeds, Part& out, Error& error) {
  const Given& given = pipeline_.pictures[static_cast<size_t>(feed.index)];
  const u32 scale = pipeline_.latents.scale, width = size_.width * scale, height = size_.height * scale;
  const auto picture = [&](i32 index) { return index == kNone ? Pixels() : pictures_[static_cast<size_t>(index)]; };
  const bool two = given.prepare == Prepare::masked;
  List<float> prepared;
  if (!prepare(given.prepare, picture(two ? given.of[0] : feed.index), picture(two ? given.of[1] : kNone), width,
               height, scale, prepared, error)) {
    return false;
  }
  if (feed.noisy) {
    List<float> drawn;
    if (!drawn.resize(prepared.size())) return Pool::no_memory(error, prepared.size() * sizeof(float));
    noise_.draw(drawn.span());
    const auto amount = static_cast<float>(numbers_.of(feed.noise));
    for (size_t i = 0; i < prepared.size(); ++i) prepared[i] = prepared[i] + amount * drawn[i];
  }
  const bool mask = given.prepare == Prepare::mask;
  out.shape.rank = 4;
  out.shape.dims[0] = 1;
  out.shape.dims[1] = mask ? 1 : 3;
  out.shape.dims[2] = mask ? size_.height : height;
  out.shape.dims[3] = mask ? size_.width : width;
  return feeds.hold(bytes_of_floats(prepared), out.host, error);
}

bool Run::check_finite(Span<const float> values, Text where, Error& error) {
  size_t bad = 0;
  for (const float value : values) bad += !isfinite(value);
  if (!bad) return true;
  return fail(error, Code::numeric, where, "find the op with --check, or convert with --dtype fp32",
              "%zu of %zu values are NaN or infinite.", bad, values.count);
}

}  // namespace od
