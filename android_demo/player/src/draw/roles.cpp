// Roles outside of the loop, and what any role's ports are fed with.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "draw/run.h"
#include "picture/clip_picture.h"
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

// The plan that a role runs by, for so many passes of texts that are as long as a part.
bool Run::plan_of(const Role& role, u32 batch, i32 part, const Plan*& out, Error& error) {
  Size size = size_;
  size.chunks = texts_.chunks(part);
  return bundle_.plan(role.component, plan_sizes(bundle_, role.component, batch, size), out, error);
}

bool Run::run_role(const Role& role, Error& error) {
  const Text name = bundle_.manifest().components[role.component].name;
  char stage[80];
  snprintf(stage, sizeof stage, "%.*s", OD_TEXT(name));
  say(0, stage);
  if (role.every != Rate::text) return run_once(role, kNone, error);
  List<i32> texts;
  if (!texts_in_use(texts, error)) return false;
  for (const i32 text : texts) {
    for (i32 part = texts_.first(text); part < texts_.end(text); ++part) {
      bool zeros = false;  // stand for what the role would make of a text that was not given
      for (const Feed& feed : role.feeds) {
        zeros = zeros || (feed.kind == Feed::Kind::tokens && feed.absent_zeros && !texts_.given(part));
      }
      if (!(zeros ? keep_zeros(role, part, error) : run_once(role, part, error))) return false;
    }
  }
  return true;
}

bool Run::keep_zeros(const Role& role, i32 part, Error& error) {
  const Plan* plan;
  if (!plan_of(role, 1, part, plan, error)) return false;
  for (const Keep& keep : role.keeps) {
    const Operand& operand = plan->operands[static_cast<size_t>(plan->output(keep.port))];
    Feeds feeds(session_);
    Part zeros;
    DeviceValue made;
    if (!feeds.zeros(operand, 1, zeros, error)) return false;
    if (!session_.put(zeros.host, operand.dtype, operand.shape, made, error)) return false;
    values_.keep(keep.value, part, made);
  }
  return true;
}

// What the ports of a role outside of the loop are fed with.
bool Run::feed_role(const Role& role, const Plan& plan, i32 part, Feeds& feeds, Error& error) {
  for (const Feed& one : role.feeds) {
    Part whole;
    const Operand& port = plan.operands[static_cast<size_t>(plan.input(one.port))];
    if (!feed(one, port, 1, part, feeds, whole, error) || !feeds.add(one.port, {&whole, 1}, error)) return false;
  }
  return true;
}

// Run a plan; what it makes stays on the device, as the role's values.
bool Run::run_and_keep(const Role& role, const Plan& plan, const Feeds& feeds, i32 part, Error& error) {
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
  for (size_t i = 0; i < role.keeps.count; ++i) values_.keep(role.keeps[i].value, part, made[i]);
  return true;
}

bool Run::run_once(const Role& role, i32 part, Error& error) {
  const Plan* plan;
  if (!plan_of(role, 1, part, plan, error) || !run_text(role, *plan, part, error)) return false;
  for (size_t i = 0; i < role.keeps.count; ++i) {
    List<float> host;
    if (!values_.host(values_.at(role.keeps[i].value, part), host, error)) return false;
    char where[200];
    snprintf(where, sizeof where, "%.*s's %.*s", OD_TEXT(bundle_.manifest().components[role.component].name),
             OD_TEXT(role.keeps[i].port));
    if (!check_finite({host.begin(), host.size()}, where, error)) return false;
  }
  return true;
}

// One pass's part of a port, of `passes` that the plan takes.
bool Run::feed(const Feed& feed, const Operand& port, u32 passes, i32 part, Feeds& feeds, Part& out, Error& error) {
  switch (feed.kind) {
    case Feed::Kind::value: {
      const Kept& kept = values_.at(feed.index, part);
      if (!kept.made && feed.absent_zeros) return feed_zeros(port, passes, feeds, out, error);
      if (!kept.made) {
        return fail(error, Code::bundle, "pipeline", "convert the checkpoint again", "%.*s was not made.",
                    OD_TEXT(pipeline_.values[static_cast<size_t>(feed.index)].name));
      }
      out.shape = kept.shape;
      const bool cut = is_cut(feed.index);
      if (kept.on_device) {
        if (cut) return feeds.slice(kept.device, chunk_.first, chunk_.count, out, error);
        out.device = &kept.device;
        return true;
      }
      out.host = bytes_of_floats(kept.host);
      if (cut) {
        const size_t row = out.host.count / kept.shape.dims[0];
        out.host = out.host.slice(chunk_.first * row, (chunk_.first + chunk_.count) * row);
        out.shape.dims[0] = chunk_.count;
      }
      return true;
    }
    case Feed::Kind::tokens: {
      const Tokenizer& tokenizer = *tokenizers_[static_cast<size_t>(feed.index)];
      List<i32> ids;
      const Span<const Token> tokens = texts_.tokens(part, feed.index, reading_.chunk);
      if (!pad(tokens, tokenizer, reading_.without, ids)) return Pool::no_memory(error, sizeof(i32));
      out.dtype = Dtype::i32;
      out.shape = vector(tokenizer.length());
      return feeds.hold({reinterpret_cast<const u8*>(ids.begin()), ids.size() * sizeof(i32)}, out.host, error);
    }
    case Feed::Kind::numbers: {
      List<float> list;
      for (const Feed::PerText& one : feed.numbers) {
        const Amount& amount = one.amounts[one.same ? 0 : static_cast<size_t>(texts_.text_of(part))];
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

// Zeros in the place of what was not made; in the loop they are the same in each call, and stay on the device.
bool Run::feed_zeros(const Operand& port, u32 passes, Feeds& feeds, Part& out, Error& error) {
  if (!in_loop_) return feeds.zeros(port, passes, out, error);
  out.shape = port.shape;
  out.shape.dims[0] /= passes;
  return values_.zeros(port.dtype, out.shape, out.device, error);
}

bool Run::prepare_picture(i32 index, List<float>& out, Error& error) {
  const Given& given = pipeline_.pictures[static_cast<size_t>(index)];
  const u32 scale = pipeline_.latents.scale, width = size_.width * scale, height = size_.height * scale;
  const auto picture = [&](i32 one) { return one == kNone ? Pixels() : pictures_[static_cast<size_t>(one)]; };
  const i32 source = given.of[0] == kNone ? index : given.of[0];
  Pixels pixels = picture(source);
  List<u8> edges;
  for (const GivenPicture& one : request_.pictures) {
    if (!one.traced || pipeline_.picture(one.name) != source) continue;
    if (!trace(pixels, one.thresholds, width, height, edges, error)) return false;
    pixels = {edges.begin(), width, height};
  }
  return prepare(given.prepare, pixels, picture(given.of[1]), width, height, scale, out, error);
}

bool Run::feed_picture(const Feed& feed, Feeds& feeds, Part& out, Error& error) {
  const Given& given = pipeline_.pictures[static_cast<size_t>(feed.index)];
  const u32 scale = pipeline_.latents.scale, width = size_.width * scale, height = size_.height * scale;
  const bool mask = given.prepare == Prepare::mask, clip = given.prepare == Prepare::clip_vision;
  out.shape.rank = 4;
  out.shape.dims[0] = 1;
  out.shape.dims[1] = mask ? 1 : 3;
  out.shape.dims[2] = clip ? kClipSide : mask ? size_.height : height;
  out.shape.dims[3] = clip ? kClipSide : mask ? size_.width : width;
  if (!prepared_.resize(pipeline_.pictures.count)) return Pool::no_memory(error, pipeline_.pictures.count);
  Span<float>& known = prepared_[static_cast<size_t>(feed.index)];
  const bool stays = in_loop_ && !feed.noisy;  // the same in each call
  List<float> prepared;
  if (!(stays && known.count) && !prepare_picture(feed.index, prepared, error)) return false;
  if (stays) {
    if (known.empty()) {
      if (!pool_.array(known, prepared.size(), error)) return false;
      memcpy(known.data, prepared.begin(), prepared.size() * sizeof(float));
    }
    out.host = {reinterpret_cast<const u8*>(known.data), known.count * sizeof(float)};
    return true;
  }
  if (feed.noisy) {
    List<float> drawn;
    if (!drawn.resize(prepared.size())) return Pool::no_memory(error, prepared.size() * sizeof(float));
    noise_.draw(drawn.span());
    const auto amount = static_cast<float>(numbers_.of(feed.noise));
    for (size_t i = 0; i < prepared.size(); ++i) prepared[i] = prepared[i] + amount * drawn[i];
  }
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
