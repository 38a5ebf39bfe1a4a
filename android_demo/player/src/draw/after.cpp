// What comes after the loop: the final sample is decoded, in one piece, in bands or in chunks of frames.
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "draw/bands.h"
#include "draw/run.h"
#include "picture/prepare.h"

namespace od {

bool Run::after(Drawn& out, Error& error) {
  const size_t count = final_.size();
  const double decoder_began = seconds();
  const Span<Role> roles = last_roles();
  const Role& decoder = roles[roles.count - 1];
  char stage[80];
  snprintf(stage, sizeof stage, "%.*s", OD_TEXT(bundle_.manifest().components[decoder.component].name));
  say(calls_, stage);
  List<float> sample;
  if (!decode(roles, way_.rows, {final_.begin(), count}, sample, error)) return false;
  if (!check_finite({sample.begin(), sample.size()}, "the decoder's output", error)) return false;
  if (!out.pixels.resize(sample.size())) return Pool::no_memory(error, sample.size());
  out.frames = numbers_.frames();
  const size_t frame = sample.size() / out.frames;
  for (size_t i = 0; i < sample.size(); i += frame) {
    to_pixels(sample.span().slice(i, i + frame), out.width, out.height, out.pixels.span().slice(i, i + frame));
  }
  if (!keep_outside(out, error)) return false;
  out.seconds_of_decoder = seconds() - decoder_began;
  return true;
}

// Pixels outside of a mask are the picture's own.
bool Run::keep_outside(Drawn& out, Error& error) {
  const Outside& outside = pipeline_.outside;
  if (outside.picture == kNone || !has_picture(outside.picture) || !has_picture(outside.mask)) return true;
  List<u8> mask, fitted;
  if (!fit_mask(pictures_[static_cast<size_t>(source_of(outside.mask))], out.width, out.height, mask, error) ||
      !resize(pictures_[static_cast<size_t>(source_of(outside.picture))], out.width, out.height, fitted, error)) {
    return false;
  }
  for (size_t i = 0; i < fitted.size(); ++i) {
    if (!mask[i / 3]) out.pixels[i] = fitted[i];
  }
  return true;
}

// What `roles` give of latents as the loop has them: float32 [frames, 3, height, width]. In bands of `rows` rows.
bool Run::decode(Span<Role> roles, u32 rows, Span<const float> sample, List<float>& out, Error& error) {
  Kept& latents = values_.at(kLatents, kNone);
  const auto scaling = static_cast<float>(pipeline_.latents.scaling);
  const auto shift = static_cast<float>(pipeline_.latents.shift);
  for (size_t i = 0; i < sample.count; ++i) latents.host[i] = sample[i] / scaling + shift;
  for (size_t i = 0; i + 1 < roles.count; ++i) {
    const Role& role = roles[i];
    if (!runs(role)) continue;
    if (!(role.chunks ? run_in_chunks(role, nullptr, error) : run_role(role, error))) return false;
    will_make(role);
  }
  const Role& decoder = roles[roles.count - 1];
  const size_t scale = pipeline_.latents.scale, frames = numbers_.frames();
  const size_t frame = 3 * size_.width * scale * size_.height * scale;
  if (!out.resize(frames * frame)) return Pool::no_memory(error, frames * frame * sizeof(float));
  if (rows) {
    List<const Plan*> stages;
    List<float> one;
    if (!find_stages(bundle_, size_.height, size_.width, rows, stages, error)) return false;
    for (size_t i = 0; i < frames; ++i) {
      const size_t count = sample.count / frames;
      const Span<const float> given = {latents.host.begin() + i * count, count};
      if (!decode_in_bands(session_, {stages.begin(), stages.size()}, given, one, error)) return false;
      memcpy(out.begin() + i * frame, one.begin(), frame * sizeof(float));
    }
    return true;
  }
  if (decoder.chunks) return run_in_chunks(decoder, &out, error);
  const Plan* plan;
  if (!plan_of(decoder, 1, kNone, plan, error)) return false;
  return run_decoder(decoder, *plan, out.span(), error);
}

// The last role, into what it gives.
bool Run::run_decoder(const Role& role, const Plan& plan, Span<float> out, Error& error) {
  Feeds feeds(session_);
  if (!feed_role(role, plan, kNone, feeds, error)) return false;
  Output output;
  for (const Keep& keep : role.keeps) {
    if (keep.value == pipeline_.gives) output.port = keep.port;
  }
  output.host = {reinterpret_cast<u8*>(out.data), out.count * sizeof(float)};
  return session_.run(plan, feeds.inputs(), {&output, 1}, error);
}

// A role for as many frames at a time as its plans take. What it makes goes to `out`, or is joined and kept.
bool Run::run_in_chunks(const Role& role, List<float>* out, Error& error) {
  const u32 frames = numbers_.frames();
  List<float> joined[kMaxFeeds];
  Dtype types[kMaxFeeds] = {};
  Shape shapes[kMaxFeeds];
  bool good = true;
  for (u32 first = 0; good && first < frames;) {
    const u32 count = chunk_of(bundle_, role.component, size_, frames - first);
    if (!count) {
      good = fail(error, Code::usage, "frames", "ask for another number of frames",
                  "%.*s has no plan for %u frames that are left.",
                  OD_TEXT(bundle_.manifest().components[role.component].name), frames - first);
      break;
    }
    Size size = size_;
    size.frames = count;
    chunk_ = {first, count};
    const Plan* plan;
    good = bundle_.plan(role.component, plan_sizes(bundle_, role.component, 1, size), plan, error);
    if (good && out) {
      const size_t frame = out->size() / frames;
      good = run_decoder(role, *plan, out->span().slice(first * frame, (first + count) * frame), error);
    } else if (good) {
      good = run_text(role, *plan, kNone, error);
      for (size_t i = 0; good && i < role.keeps.count; ++i) {
        const Kept& made = values_.at(role.keeps[i].value, kNone);
        List<float> part;
        types[i] = made.device.dtype;
        shapes[i] = made.shape;
        good = values_.host(made, part, error);
        for (const float value : part) good = good && (joined[i].push(value) || Pool::no_memory(error, sizeof value));
      }
    }
    first += count;
  }
  chunk_ = {};
  for (size_t i = 0; good && !out && i < role.keeps.count; ++i) {
    size_t rest = 1;
    for (u32 d = 1; d < shapes[i].rank; ++d) rest *= shapes[i].dims[d];
    shapes[i].dims[0] = static_cast<u32>(joined[i].size() / rest);
    DeviceValue made;
    good = check_finite({joined[i].begin(), joined[i].size()}, role.keeps[i].port, error) &&
           put_floats(joined[i].span(), types[i], shapes[i], made, error);
    if (good) values_.keep(role.keeps[i].value, kNone, made);
  }
  return good;
}

// Whether a value is cut into chunks of frames: latents, and what roles per chunk kept.
bool Run::is_cut(i32 value) const {
  if (!chunk_.count) return false;
  const auto is_kept = [&](Span<Role> roles) {
    for (const Role& role : roles) {
      for (const Keep& keep : role.keeps) {
        if (role.chunks && keep.value == value) return true;
      }
    }
    return false;
  };
  return value == kLatents || is_kept(pipeline_.after) || is_kept(pipeline_.fast);
}

}  // namespace od
