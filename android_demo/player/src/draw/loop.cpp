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
  List<float> clean, mask;
  if (!find_clean(clean, error) || (is_masked() && !find_mask(mask, error))) return false;
  const float* image = begins() ? clean.begin() : nullptr;
  Sampling sampling;
  if (!sampling.begin(table_, first_, {start_.begin(), count}, image, request_.denoising_start != 0, error))
    return false;
  List<float> draw;
  if (!draw.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  Kept& latents = values_.at(kLatents, kNone);
  Kept& timestep = values_.at(kTimestep, kNone);
  latents.made = timestep.made = true;
  latents.shape = latents_;
  timestep.shape.rank = 1;
  timestep.shape.dims[0] = 1;
  if (!latents.host.resize(count) || !timestep.host.resize(1)) return Pool::no_memory(error, count * sizeof(float));
  in_loop_ = true;
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
    if (!mask.empty()) sampling.put_back(first_ + i, mask.span(), clean.span(), start_.span());
    if (i == 0) {
      first_done = seconds();
      out.seconds_to_first_step = first_done - began_;
    }
    if (watch_.preview && watch_.preview_every && ((i + 1) % watch_.preview_every == 0 || i + 1 == calls_)) {
      if (!preview(i + 1, sample, error)) return false;
    }
  }
  in_loop_ = false;
  out.seconds_of_steps = seconds() - loop_began;
  const Span<const float> result = sampling.sample(first_ + calls_);
  if (!final_.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  memcpy(final_.begin(), result.data, count * sizeof(float));
  return true;
}

// The latents of the picture that a run begins from or keeps parts of, for each frame; empty where there is none.
bool Run::find_clean(List<float>& out, Error& error) {
  const i32 begin = pipeline_.latents.begin;
  if (begin == kNone || !values_.at(begin, kNone).made) return true;
  const List<float>& clean = values_.at(begin, kNone).host;
  if (!out.resize(start_.size())) return Pool::no_memory(error, start_.size() * sizeof(float));
  for (size_t i = 0; i < out.size(); ++i) out[i] = clean[i % clean.size()];
  return true;
}

// 1 where the picture is drawn anew, for each of the latents.
bool Run::find_mask(List<float>& out, Error& error) {
  const u32 scale = pipeline_.latents.scale;
  const Pixels mask = pictures_[static_cast<size_t>(source_of(pipeline_.latents.mask))];
  List<float> one;
  if (table_.noised.empty()) {
    return fail(error, Code::usage, "sampler", "convert the checkpoint again",
                "%.*s at %u steps says nothing of masks in this bundle.", OD_TEXT(table_.sampler), table_.steps);
  }
  if (!prepare(Prepare::mask, mask, {}, size_.width * scale, size_.height * scale, scale, one, error)) return false;
  if (!out.resize(start_.size())) return Pool::no_memory(error, start_.size() * sizeof(float));
  for (size_t i = 0; i < out.size(); ++i) out[i] = one[i % one.size()];
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
  List<Spoken> runs;
  if (!expand(*loop, runs, error)) return false;
  const size_t count = start_.size();
  if (!prediction_.resize(count * runs.size()) || !scratch_.resize(2 * count)) {
    return Pool::no_memory(error, count * runs.size() * sizeof(float));
  }
  // Texts of one length run together; each group's outputs lie one after another.
  List<Spoken> group;
  size_t slots = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    bool done = false;
    for (size_t k = 0; k < i; ++k) done = done || runs[k].chunks == runs[i].chunks;
    if (done) continue;
    group.clear();
    for (size_t k = i; k < runs.size(); ++k) {
      if (runs[k].chunks != runs[i].chunks) continue;
      runs[k].slot = slots + group.size();
      if (!group.push(runs[k])) return Pool::no_memory(error, sizeof(Spoken));
    }
    Size size = size_;
    size.chunks = runs[i].chunks;
    bool at_once = !way_.split;
    for (const Role& role : loop->roles) {
      const auto passes = static_cast<u32>(group.size());
      at_once = at_once && (!this->runs(role) || has_plan(bundle_, role.component, passes, size));
    }
    const size_t step = at_once ? group.size() : 1;
    for (size_t k = 0; k < group.size(); k += step) {
      const Span<float> out = prediction_.span().slice((slots + k) * count, (slots + k + step) * count);
      if (!run_passes(*loop, {group.begin() + k, step}, out, error)) return false;
    }
    slots += group.size();
  }
  combine(*loop, numbers_, runs.span(), prediction_.span(), count, scratch_.span());
  return true;
}

// Each pass in use as one per part of its text.
bool Run::expand(const Loop& loop, List<Spoken>& out, Error& error) const {
  const Span<Pass> passes = passes_in_use(loop, numbers_);
  for (u32 i = 0; i < passes.count; ++i) {
    const i32 text = passes[i].text;
    const i32 first = text == kNone ? kNone : texts_.first(text), end = text == kNone ? 0 : texts_.end(text);
    for (i32 part = first; part < end; ++part) {
      if (!out.push({i, part, texts_.weight(part), texts_.chunks(part), passes[i].zeros, 0})) {
        return Pool::no_memory(error, sizeof(Spoken));
      }
    }
  }
  return true;
}

bool Run::run_passes(const Loop& loop, Span<const Spoken> group, Span<float> out, Error& error) {
  for (size_t i = 0; i < loop.roles.count; ++i) {
    const Role& role = loop.roles[i];
    if (!runs(role)) continue;  // the last one does
    const Plan* plan;
    if (!plan_of(role, static_cast<u32>(group.count), group[0].part, plan, error)) return false;
    Feeds feeds(session_);
    if (!feed_passes(role, *plan, group, feeds, error)) return false;
    if (i + 1 == loop.roles.count) {
      Output output;
      for (const Keep& keep : role.keeps) {
        if (keep.value == loop.prediction) output.port = keep.port;
      }
      output.host = {reinterpret_cast<u8*>(out.data), out.count * sizeof(float)};
      const bool done = session_.run(*plan, feeds.inputs(), {&output, 1}, error);
      for (const Role& one : loop.roles) values_.drop_call(one);  // so that the next passes' do not lie beside them
      return done;
    }
    if (!run_and_keep(role, *plan, feeds, kNone, error)) return false;
  }
  return true;
}

bool Run::feed_passes(const Role& role, const Plan& plan, Span<const Spoken> group, Feeds& feeds, Error& error) {
  const auto passes = static_cast<u32>(group.count);
  for (const Feed& one : role.feeds) {
    List<Part> parts;
    const Operand& port = plan.operands[static_cast<size_t>(plan.input(one.port))];
    const bool value = one.kind == Feed::Kind::value;
    const auto is_zeros = [&](const Spoken& pass) {
      bool found = false;
      for (const i32 name : pass.zeros) found = found || (value && name == one.index);
      return found;
    };
    bool some_zeros = false;
    for (const Spoken& pass : group) some_zeros = some_zeros || is_zeros(pass);
    // The timestep is the same in all passes; what a role of this call made is joined already.
    const bool joined =
        value && one.index != kLatents && values_.at(one.index, kNone).made &&
        pipeline_.values[static_cast<size_t>(one.index)].rate == Rate::call;
    const bool whole = joined && (one.index == kTimestep || !some_zeros);
    for (u32 i = 0; i < (whole ? 1 : passes); ++i) {
      Part part;
      bool fed;
      if (is_zeros(group[i])) {
        fed = feeds.zeros(port, whole ? 1 : passes, part, error);
      } else if (joined && !whole) {
        const DeviceValue& made = values_.at(one.index, kNone).device;
        const u32 rows = made.shape.dims[0] / passes;
        fed = feeds.slice(made, i * rows, rows, part, error);
      } else {
        fed = feed(one, port, passes, group[i].part, feeds, part, error);
      }
      if (!fed) return false;
      if (!parts.push(part)) return Pool::no_memory(error, sizeof part);
    }
    if (!feeds.add(one.port, {parts.begin(), parts.size()}, error)) return false;
  }
  return true;
}

// What is being drawn: a small picture where the pipeline says how latents look, or the fast decoder's where that is
// asked for; else the decoder's.
bool Run::preview(u32 done, Span<const float> sample, Error& error) {
  const Span<double> factors = pipeline_.latents.preview;
  if (way_.previews || factors.empty()) {
    // A decoder whose weights would have to come and go with each preview is left alone.
    if (!way_.previews && way_.unload) return true;
    List<float> picture;
    const bool made = way_.previews ? decode(pipeline_.fast, 0, sample, picture, error)
                                    : decode(pipeline_.after, way_.rows, sample, picture, error);
    return made && show_preview(done, {picture.begin(), picture.size()}, pipeline_.latents.scale, error);
  }
  const size_t plane = size_t(size_.width) * size_.height;
  List<float> picture;
  if (!picture.resize(3 * plane)) return Pool::no_memory(error, 3 * plane * sizeof(float));
  for (size_t colour = 0; colour < 3; ++colour) {
    for (size_t i = 0; i < plane; ++i) {
      float sum = 0;
      for (size_t c = 0; c < pipeline_.latents.channels; ++c) {
        sum = sum + static_cast<float>(factors[3 * c + colour]) * sample[c * plane + i];
      }
      picture[colour * plane + i] = sum + static_cast<float>(factors[3 * pipeline_.latents.channels + colour]);
    }
  }
  return show_preview(done, {picture.begin(), picture.size()}, 1, error);
}

bool Run::show_preview(u32 done, Span<const float> sample, u32 scale, Error& error) {
  const u32 width = size_.width * scale, height = size_.height * scale;
  const size_t count = size_t(3) * width * height;  // of the first frame
  List<u8> pixels;
  if (!pixels.resize(count)) return Pool::no_memory(error, count);
  to_pixels(sample.slice(0, count), width, height, pixels.span());
  watch_.preview(watch_.user, done, {pixels.begin(), width, height});
  return true;
}

void Run::say(u32 done, const char* stage, double seconds_left) {
  if (watch_.progress) watch_.progress(watch_.user, done, calls_, seconds_left, stage);
}

}  // namespace od
