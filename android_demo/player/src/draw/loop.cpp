// The loop: the sampler's calls, the passes of each, and what a caller sees of them.
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "draw/guidance.h"
#include "draw/run.h"
#include "picture/prepare.h"

namespace od {

const Loop* Run::loop_at(double part) const {
  for (const Loop& loop : pipeline_.denoise) {
    if (numbers_.of(loop.from) <= part && part < numbers_.of(loop.until)) return &loop;
  }
  return nullptr;
}

bool Run::denoise(Drawn& out, Error& error) {
  const size_t count = start_.size();
  const float* image = nullptr;
  if (pipeline_.latents.begin != kNone && values_.at(pipeline_.latents.begin, kNone).made) {
    image = values_.at(pipeline_.latents.begin, kNone).host.begin();
  }
  Sampling sampling;
  if (!sampling.begin(table_, first_, {start_.begin(), count}, image, error)) return false;
  List<float> draw;
  if (!draw.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  Kept& latents = values_.at(kLatents, kNone);
  Kept& timestep = values_.at(kTimestep, kNone);
  latents.made = timestep.made = true;
  latents.shape = latents_;
  timestep.shape.rank = 1;
  timestep.shape.dims[0] = 1;
  if (!latents.host.resize(count) || !timestep.host.resize(1)) return Pool::no_memory(error, count * sizeof(float));
  const double loop_began = seconds();
  double first_done = loop_began;
  for (u32 i = 0; i < calls_; ++i) {
    const Call& call = table_.calls[first_ + i];
    char stage[64];
    snprintf(stage, sizeof stage, "step %u of %u", i + 1, calls_);
    const double now = seconds();
    // The first call loads weights and builds kernels, so it says nothing of the others.
    say(i, stage, i < 2 ? -1 : (now - first_done) / (i - 1) * (calls_ - i));
    numbers_.enter(i, calls_);
    sampling.input(first_ + i, latents.host.span());
    timestep.host[0] = static_cast<float>(call.timestep);
    if (!predict(i, error)) return false;
    if (call.draws_noise) noise_.draw(draw.span());
    sampling.step(first_ + i, {prediction_.begin(), count}, call.draws_noise ? draw.begin() : nullptr);
    const Span<const float> sample = sampling.sample(first_ + i + 1);
    char where[96];
    snprintf(where, sizeof where, "step %u of %u (timestep %g)", i + 1, calls_, call.timestep);
    if (!check_finite(sample, where, error)) return false;
    if (i == 0) {
      first_done = seconds();
      out.seconds_to_first_step = first_done - began_;
    }
    if (watch_.preview && watch_.preview_every && (i + 1) % watch_.preview_every == 0) {
      if (!preview(i + 1, sample, error)) return false;
    }
  }
  out.seconds_of_steps = seconds() - loop_began;
  const Span<const float> result = sampling.result();
  if (!final_.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  memcpy(final_.begin(), result.data, count * sizeof(float));
  return true;
}

// What the sampler takes as the model's output: all passes at once, or one after another.
bool Run::predict(u32 call, Error& error) {
  const double part = double(call) / calls_;
  const Loop* loop = loop_at(part);
  if (!loop) {
    return fail(error, Code::usage, "pipeline", "choose other parts, from 0 to 1",
                "no part of the pipeline runs at %g of the schedule.", part);
  }
  const Span<Pass> passes = passes_in_use(*loop, numbers_);
  const size_t count = start_.size();
  if (!prediction_.resize(count * passes.count) || !scratch_.resize(count)) {
    return Pool::no_memory(error, count * passes.count * sizeof(float));
  }
  const bool at_once = !way_.split && runs_at_once(bundle_, *loop, static_cast<u32>(passes.count), size_);
  const size_t step = at_once ? passes.count : 1;
  for (size_t i = 0; i < passes.count; i += step) {
    const Span<float> out = prediction_.span().slice(i * count, (i + step) * count);
    if (!run_passes(*loop, {passes.data + i, step}, out, error)) return false;
  }
  combine(*loop, numbers_, prediction_.span(), count, scratch_.span());
  return true;
}

bool Run::run_passes(const Loop& loop, Span<const Pass> group, Span<float> out, Error& error) {
  for (size_t i = 0; i < loop.roles.count; ++i) {
    const Role& role = loop.roles[i];
    const Plan* plan;
    if (!plan_of(role, static_cast<u32>(group.count), plan, error)) return false;
    Feeds feeds(session_);
    if (!feed_passes(role, *plan, group, feeds, error)) return false;
    if (i + 1 == loop.roles.count) {
      Output output;
      for (const Keep& keep : role.keeps) {
        if (keep.value == loop.prediction) output.port = keep.port;
      }
      output.host = {reinterpret_cast<u8*>(out.data), out.count * sizeof(float)};
      return session_.run(*plan, feeds.inputs(), {&output, 1}, error);
    }
    if (!run_and_keep(role, *plan, feeds, kNone, error)) return false;
  }
  return true;
}

bool Run::feed_passes(const Role& role, const Plan& plan, Span<const Pass> group, Feeds& feeds, Error& error) {
  const auto passes = static_cast<u32>(group.count);
  for (const Feed& one : role.feeds) {
    List<Part> parts;
    const Operand& port = plan.operands[static_cast<size_t>(plan.input(one.port))];
    const bool value = one.kind == Feed::Kind::value;
    const auto is_zeros = [&](const Pass& pass) {
      bool found = false;
      for (const i32 name : pass.zeros) found = found || (value && name == one.index);
      return found;
    };
    bool some_zeros = false;
    for (const Pass& pass : group) some_zeros = some_zeros || is_zeros(pass);
    // The timestep is the same in all passes; what a role of this call made is joined already.
    const bool joined =
        value && one.index != kLatents && pipeline_.values[static_cast<size_t>(one.index)].rate == Rate::call;
    const bool whole = joined && (one.index == kTimestep || !some_zeros);
    for (u32 i = 0; i < (whole ? 1 : passes); ++i) {
      Part part;
      const bool fed = is_zeros(group[i]) ? feeds.zeros(port, whole ? 1 : passes, part, error)
                       : joined && !whole ? feeds.slice(values_.at(one.index, kNone).device, i, passes, part, error)
                                          : feed(one, port, passes, group[i].text, feeds, part, error);
      if (!fed) return false;
      if (!parts.push(part)) return Pool::no_memory(error, sizeof part);
    }
    if (!feeds.add(one.port, {parts.begin(), parts.size()}, error)) return false;
  }
  return true;
}

// What is being drawn: a small picture where the pipeline says how latents look, else the decoder's.
bool Run::preview(u32 done, Span<const float> sample, Error& error) {
  const Span<double> factors = pipeline_.latents.preview;
  if (factors.empty()) {
    // A decoder whose weights would have to come and go with each preview is left alone.
    if (way_.unload) return true;
    List<float> picture;
    if (!decode(sample, picture, error)) return false;
    return show_preview(done, {picture.begin(), picture.size()}, pipeline_.latents.scale, error);
  }
  const size_t plane = size_t(size_.width) * size_.height;
  List<float> picture;
  if (!picture.resize(3 * plane)) return Pool::no_memory(error, 3 * plane * sizeof(float));
  for (size_t colour = 0; colour < 3; ++colour) {
    for (size_t i = 0; i < plane; ++i) {
      double sum = factors[3 * pipeline_.latents.channels + colour];
      for (size_t c = 0; c < pipeline_.latents.channels; ++c)
        sum += factors[3 * c + colour] * double(sample[c * plane + i]);
      picture[colour * plane + i] = static_cast<float>(sum);
    }
  }
  return show_preview(done, {picture.begin(), picture.size()}, 1, error);
}

bool Run::show_preview(u32 done, Span<const float> sample, u32 scale, Error& error) {
  const u32 width = size_.width * scale, height = size_.height * scale;
  List<u8> pixels;
  if (!pixels.resize(sample.count)) return Pool::no_memory(error, sample.count);
  to_pixels(sample, width, height, pixels.span());
  watch_.preview(watch_.user, done, {pixels.begin(), width, height});
  return true;
}

void Run::say(u32 done, const char* stage, double seconds_left) {
  if (watch_.progress) watch_.progress(watch_.user, done, calls_, seconds_left, stage);
}

}  // namespace od
