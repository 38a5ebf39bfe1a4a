// One picture, from what was asked for to the file's texts; and what comes before the loop.
#include "draw/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "draw/bands.h"
#include "draw/guidance.h"

namespace od {
namespace {

constexpr double kMostScale = 1e4;  // of an adapter

u32 most_passes(const Pipeline& pipeline, const Numbers& numbers) {
  size_t most = 1;
  for (const Loop& loop : pipeline.denoise) most = max(most, passes_in_use(loop, numbers).count);
  return static_cast<u32>(most);
}

}  // namespace

bool Run::draw(Drawn& out, Error& error) {
  began_ = seconds();
  if (!check_request(error) || !choose_size(error) || !put_adapters(error)) return false;
  const u32 scale = pipeline_.latents.scale;
  out.width = size_.width * scale;
  out.height = size_.height * scale;
  if (!numbers_.resolve(pipeline_, request_.numbers, out.width, out.height, is_masked(), error)) return false;
  if (!choose_frames(error) || !find_made(error) || !check_mask(error)) return false;
  if (!choose_table(error) || !read_texts(error) || !values_.open(texts_.count(), error)) return false;
  way_.split = request_.one_pass_at_a_time;
  way_.unload = request_.unload;
  way_.fast = request_.fast;
  way_.changed = session_.changed();
  way_.stream = {request_.stream_weights, request_.stream_bytes, session_.maps_weights()};
  if (!choose_previews(error)) return false;
  if (request_.bands && !way_.fast) {
    List<u32> rows;
    if (!band_heights(bundle_, size_.height, size_.width, rows)) return Pool::no_memory(error, sizeof(u32));
    way_.rows = request_.band_rows ? request_.band_rows : rows.empty() ? 0 : rows.back();
  }
  Demand need;
  List<bool> shown;  // pictures that were given
  for (const Pixels& one : pictures_) {
    if (!shown.push(one.data != nullptr)) return Pool::no_memory(error, pictures_.size());
  }
  const u32 passes = most_passes(pipeline_, numbers_);
  const u64 limit = request_.memory_limit ? request_.memory_limit : UINT64_MAX;
  Size most = size_;
  for (size_t i = 0; i < texts_.count(); ++i) most.chunks = max(most.chunks, texts_.chunks(static_cast<i32>(i)));
  if (way_.stream.on && !streamed(bundle_, most, passes, shown.span(), way_, error)) return false;
  if (!fit(bundle_, most, limit, session_.maps_weights(), passes, shown.span(), way_, need, error)) return false;
  way_ = need.way;
  session_.stream(way_.stream);
  char words[128];
  log(Level::info, "memory: arena %.1f MB, weights %.1f MB, pictures %.1f MB; %s", 1e-6 * double(need.arena),
      1e-6 * double(need.weights), 1e-6 * double(need.host), way_.shown(words, sizeof words));
  if (!before(error)) return false;
  release(0);
  if (!denoise(out, error)) return false;
  numbers_.leave();
  release(1);
  if (!out.sampler.resize(table_.sampler.size)) return Pool::no_memory(error, table_.sampler.size);
  memcpy(out.sampler.begin(), table_.sampler.data, table_.sampler.size);
  out.steps = table_.steps;
  out.pixels.clear();
  if (!out.latents.resize(final_.size())) return Pool::no_memory(error, final_.size() * sizeof(float));
  memcpy(out.latents.begin(), final_.begin(), final_.size() * sizeof(float));
  if (request_.denoising_end == 0 && !after(out, error)) return false;
  release(2);
  return describe_picture(out, error);
}

// Adapters in the weights, as many as are asked for. What they change is made when a plan needs it.
bool Run::put_adapters(Error& error) {
  const Span<AdapterEntry> known = bundle_.manifest().adapters;
  List<ActiveAdapter> wanted;
  for (const GivenAdapter& one : request_.adapters) {
    size_t index = 0;
    while (index < known.count && known[index].name != one.name) ++index;
    if (index == known.count) {
      char have[400] = "";
      for (const AdapterEntry& entry : known) {
        const size_t used = strlen(have);
        snprintf(have + used, sizeof have - used, "%s%.*s", used ? ", " : "", OD_TEXT(entry.name));
      }
      return fail(error, Code::usage, {one.name.data, min<size_t>(one.name.size, 200)},
                  have[0] ? "name one of these" : "convert with --carry-lora",
                  "there is no adapter of that name in %.*s (it carries %s).", OD_TEXT(bundle_.name()),
                  have[0] ? have : "none");
    }
    const double scale = one.scale == kUsualScale ? known[index].scale : one.scale;
    if (!(fabs(scale) <= kMostScale)) {
      return fail(error, Code::usage, one.name, "use 1", "%g is no scale (expected a number such as 0.8).", scale);
    }
    for (const GivenAdapter* other = request_.adapters.begin(); other != &one; ++other) {
      if (other->name == one.name) return fail(error, Code::usage, one.name, "name each once", "it is there twice.");
    }
    char said[160];
    snprintf(said, sizeof said, "%.*s:%g", OD_TEXT(one.name), scale);
    const Text text = pool_.copy(said);
    if (!text.size || !adapters_.push(text)) return Pool::no_memory(error, sizeof said);
    // Of nothing there is nothing to add: not even another rounding.
    if (scale != 0 && !wanted.push({static_cast<u32>(index), scale})) {
      return Pool::no_memory(error, sizeof(ActiveAdapter));
    }
  }
  session_.changing_user = this;
  session_.changing = [](void* user, u32 done, u32 weights) {
    char stage[64];
    snprintf(stage, sizeof stage, "adapters: %u of %u weights", done, weights);
    static_cast<Run*>(user)->say(0, stage);
  };
  return session_.adapt(wanted.span(), error);
}

// Whether previews are the fast decoder's.
bool Run::choose_previews(Error& error) {
  const PreviewBy by = watch_.preview_by;
  const bool sum = !pipeline_.latents.preview.empty(), fast = !pipeline_.fast.empty();
  if (!watch_.preview || !watch_.preview_every) return true;
  if (by == PreviewBy::sum && !sum) {
    return fail(error, Code::usage, "--preview-by", fast ? "use taesd" : "convert with --taesd",
                "no sum of this model's channels is known to be a picture.");
  }
  if (by == PreviewBy::fast && !fast) {
    return fail(error, Code::usage, "--preview-by", "convert the checkpoint again with --taesd",
                "the bundle has no fast decoder.");
  }
  way_.previews = fast && (by == PreviewBy::fast || !sum);
  return true;
}

bool Run::before(Error& error) {
  bool noise = false;
  for (const Step& step : pipeline_.before) {
    if (!does(step)) continue;
    noise = noise || step.kind == Step::Kind::noise;
    const bool done = step.kind == Step::Kind::noise    ? start_noise(error)
                      : step.kind == Step::Kind::sample ? sample(step, error)
                                                        : run_role(step.role, error);
    if (!done) return false;
  }
  if (!noise && request_.latents.empty()) {
    return fail(error, Code::usage, "latents", "give those of the model before it",
                "this model goes on from latents, and none were given.");
  }
  noise_.enter_loop();
  return noise || start_noise(error);
}

bool Run::start_noise(Error& error) {
  const size_t count = static_cast<size_t>(latents_.count());
  if (!start_.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  if (request_.latents.empty()) {
    return noise_.initial(start_.span(), size_.height, size_.width, error);
  }
  if (request_.latents.count != count) {
    return fail(error, Code::usage, "latents", "give latents of the picture's size divided by the scale",
                "wrong array (got %zu numbers, expected %zu).", request_.latents.count, count);
  }
  memcpy(start_.begin(), request_.latents.data, count * sizeof(float));
  return check_finite(request_.latents, "latents", error);
}

// Latents of an encoder's output, a mean and the logarithm of a variance one after the other.
bool Run::sample(const Step& step, Error& error) {
  List<float> moments, drawn;
  if (!values_.host(values_.at(step.moments, kNone), moments, error)) return false;
  const size_t count = moments.size() / 2;
  Kept& kept = values_.at(step.keep, kNone);
  if (!kept.host.resize(count) || !drawn.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  const bool draws = step.draw && noise_.draws_encodings();
  if (draws) noise_.draw(drawn.span());
  const auto scaling = static_cast<float>(pipeline_.latents.scaling),
             shift = static_cast<float>(pipeline_.latents.shift);
  for (size_t i = 0; i < count; ++i) {
    float value = moments[i];
    if (draws) {
      const float bound = min(max(moments[count + i], -30.0f), 20.0f);
      value = value + static_cast<float>(exp(0.5 * static_cast<double>(bound))) * drawn[i];
    }
    kept.host[i] = step.scaled ? scaling * (value - shift) : value;
  }
  kept.made = true;
  kept.shape = latents_;
  kept.shape.dims[0] = 1;
  return true;
}

// Give weights back that no later part needs: of what is before the loop (0), in it (1) and after it (2).
void Run::release(u32 part) {
  if (!way_.unload) return;
  const auto used_from = [&](u32 component, u32 from) {
    for (const Step& step : pipeline_.before) {
      if (!from && step.kind == Step::Kind::run && step.role.component == component) return true;
    }
    for (const Loop& loop : pipeline_.denoise) {
      for (const Role& role : loop.roles) {
        if (from <= 1 && role.component == component) return true;
      }
    }
    for (const Role& role : last_roles()) {
      if (from <= 2 && role.component == component) return true;
    }
    for (const Role& role : pipeline_.fast) {
      if (from <= 1 && way_.previews && role.component == component) return true;
    }
    return false;
  };
  for (u32 component = 0; component < bundle_.manifest().components.count; ++component) {
    if (used_from(component, 0) && !used_from(component, part + 1)) session_.release(component);
  }
}

}  // namespace od
