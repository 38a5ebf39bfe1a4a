// One picture: what is asked for, what comes before the loop, and what comes after it.
#include "draw/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "draw/bands.h"
#include "draw/guidance.h"
#include "picture/parameters.h"

namespace od {
namespace {

constexpr Text kSecond = "ddim";  // what begins from a picture where the usual sampler cannot (docs/samplers.md)

u32 most_passes(const Pipeline& pipeline, const Numbers& numbers) {
  size_t most = 1;
  for (const Loop& loop : pipeline.denoise) most = max(most, passes_in_use(loop, numbers).count);
  return static_cast<u32>(most);
}

}  // namespace

Run::~Run() {
  for (Zeros* one : zeros_) session_.drop(one->made);
}

bool Run::draw(Drawn& out, Error& error) {
  began_ = seconds();
  if (!check_request(error) || !choose_size(error)) return false;
  const u32 scale = pipeline_.latents.scale;
  out.width = size_.width * scale;
  out.height = size_.height * scale;
  if (!numbers_.resolve(pipeline_, request_.numbers, out.width, out.height, error)) return false;
  if (!choose_table(error) || !values_.open(error)) return false;
  const bool image = pipeline_.pictures.count && pictures_[0].data;
  way_.split = request_.one_pass_at_a_time;
  way_.unload = request_.unload;
  if (request_.bands) {
    List<u32> rows;
    if (!band_heights(bundle_, size_.height, size_.width, rows)) return Pool::no_memory(error, sizeof(u32));
    way_.rows = request_.band_rows ? request_.band_rows : rows.empty() ? 0 : rows.back();
  }
  Demand need;
  const u32 passes = most_passes(pipeline_, numbers_);
  const u64 limit = request_.memory_limit ? request_.memory_limit : UINT64_MAX;
  if (!fit(bundle_, size_, limit, session_.maps_weights(), passes, image, way_, need, error)) return false;
  way_ = need.way;
  char shown[128];
  log(Level::info, "memory: arena %.1f MB, weights %.1f MB, pictures %.1f MB; %s", 1e-6 * double(need.arena),
      1e-6 * double(need.weights), 1e-6 * double(need.host), way_.shown(shown, sizeof shown));
  if (!before(error)) return false;
  release(0);
  if (!denoise(out, error)) return false;
  release(1);
  if (!after(out, error)) return false;
  release(2);
  return describe_picture(out, error);
}

// The texts of the picture's file, as the Python package writes them.
bool Run::describe_picture(Drawn& out, Error& error) {
  const auto text = [&](const char* name) {
    const i32 index = pipeline_.text(name);
    return index == kNone ? Text() : texts_[static_cast<size_t>(index)];
  };
  PictureFacts facts;
  facts.prompt = text("prompt");
  if (is_guided(pipeline_, numbers_)) facts.negative_prompt = text("negative_prompt");
  facts.steps = table_.steps;
  facts.sampler = table_.sampler;
  const i32 guidance = pipeline_.number("guidance_scale");
  if (guidance != kNone) facts.guidance_scale = numbers_[guidance];
  facts.seed = request_.seed;
  facts.width = out.width;
  facts.height = out.height;
  const i32 strength = pipeline_.latents.strength;
  facts.has_strength = strength != kNone && !request_.pictures.empty();
  if (facts.has_strength) facts.strength = numbers_[strength];
  List<PictureFacts::Number> numbers;
  for (const NamedNumber& one : request_.numbers) {
    const i32 number = pipeline_.number(one.name);
    if (number == guidance || number == strength) continue;
    if (!numbers.push({one.name, one.value})) return Pool::no_memory(error, sizeof one);
  }
  facts.numbers = numbers.span();
  facts.model = bundle_.manifest().source;
  char version[64];
  snprintf(version, sizeof version, "ondevice %s", kVersion);
  facts.version = version;
  facts.init_image = request_.init_image;
  Bytes data;
  Json config;
  const Text path = "scheduler/scheduler_config.json";
  if (!bundle_.read(path, kMaxText, data, error) || !parse_json(data, path, pool_, config, error)) return false;
  return (describe(facts, config, out.parameters) && to_json(facts, out.ondevice)) ||
         Pool::no_memory(error, facts.prompt.size);
}

// Refuse a text, a picture or a number that the pipeline does not know, and what is missing.
bool Run::check_request(Error& error) {
  const size_t texts = pipeline_.texts.count, pictures = pipeline_.pictures.count;
  if (!texts_.resize(texts) || !given_.resize(texts) || !pictures_.resize(pictures)) {
    return Pool::no_memory(error, texts * sizeof(Text));
  }
  for (const GivenText& one : request_.texts) {
    const i32 index = pipeline_.text(one.name);
    if (index == kNone) return fail(error, Code::usage, one.name, "leave it out", "this model takes no such text.");
    texts_[static_cast<size_t>(index)] = one.text;
    given_[static_cast<size_t>(index)] = true;
  }
  for (const GivenPicture& one : request_.pictures) {
    const i32 index = pipeline_.picture(one.name);
    if (index == kNone) {
      return fail(error, Code::usage, one.name, "leave it out", "this model begins from no picture of that name.");
    }
    pictures_[static_cast<size_t>(index)] = one.pixels;
  }
  for (size_t i = 0; i < texts; ++i) {
    if (!given_[i] && !pipeline_.texts[i].optional) {
      return fail(error, Code::usage, pipeline_.texts[i].name, "give one; it may be empty",
                  "this model draws nothing without this text.");
    }
  }
  for (size_t i = 0; i < pictures; ++i) {
    if (!pictures_[i].data && !pipeline_.pictures[i].optional) {
      return fail(error, Code::usage, pipeline_.pictures[i].name, "give one",
                  "this model draws nothing without a picture.");
    }
  }
  if (!request_.latents.empty() && !request_.pictures.empty()) {
    return fail(error, Code::usage, "latents", "leave one out", "both latents and a picture are given.");
  }
  return true;
}

// Pixels, each a multiple of the latents' scale: as asked, else the picture's own where the bundle has it, else the
// usual.
bool Run::choose_size(Error& error) {
  const u32 scale = pipeline_.latents.scale;
  if (!usual_size(bundle_, size_, error)) return false;
  for (const GivenPicture& one : request_.pictures) {
    const Size own = {one.pixels.width / scale, one.pixels.height / scale};
    if (own.width && own.height && encodes_pictures(bundle_, own)) size_ = own;
  }
  const u32 asked[] = {request_.width, request_.height};
  for (int side = 0; side < 2; ++side) {
    if (!asked[side]) continue;
    if (asked[side] % scale) {
      const u32 low = max(asked[side] / scale, 1u) * scale;
      char fix[64];
      snprintf(fix, sizeof fix, "use %u or %u", low, low + scale);
      return fail(error, Code::usage, side ? "height" : "width", fix,
                  "not a size the model can draw (got %u, expected a multiple of %u).", asked[side], scale);
    }
    (side ? size_.height : size_.width) = asked[side] / scale;
  }
  List<Size> have;
  if (!drawable_sizes(bundle_, have)) return Pool::no_memory(error, sizeof(Size));
  char list[400] = "";
  for (const Size& one : have) {
    if (one.width == size_.width && one.height == size_.height) {
      latents_.rank = 4;
      latents_.dims[0] = 1;
      latents_.dims[1] = pipeline_.latents.channels;
      latents_.dims[2] = size_.height;
      latents_.dims[3] = size_.width;
      return true;
    }
    const size_t used = strlen(list);
    snprintf(list + used, sizeof list - used, "%s%ux%u", used ? ", " : "", one.width * scale, one.height * scale);
  }
  char fix[128];
  snprintf(fix, sizeof fix, "convert the checkpoint again with `--size %ux%u`", size_.width * scale,
           size_.height * scale);
  return fail(error, Code::usage, "size", fix, "the bundle does not have %ux%u (it has %s).", size_.width * scale,
              size_.height * scale, list);
}

bool Run::choose_table(Error& error) {
  const Manifest& manifest = bundle_.manifest();
  Text sampler = request_.sampler.size ? request_.sampler : pipeline_.sampler;
  const u32 steps = request_.steps ? request_.steps : pipeline_.steps;
  const bool image = pipeline_.latents.strength != kNone && !request_.pictures.empty();
  for (int attempt = 0;; ++attempt) {
    char name[128], path[160], have[400] = "";
    snprintf(name, sizeof name, "%.*s_%u", OD_TEXT(sampler), steps);
    snprintf(path, sizeof path, "samplers/%s.json", name);
    bool found = false;
    for (const Text one : manifest.samplers) {
      found = found || one == Text(name);
      if (!one.starts_with(sampler) || one.size < sampler.size + 2 || one.data[sampler.size] != '_') continue;
      const Text of_steps = one.slice(sampler.size + 1, one.size);
      if (of_steps.data[0] < '0' || of_steps.data[0] > '9') continue;  // "euler_a_20" is none of "euler"
      const size_t used = strlen(have);
      snprintf(have + used, sizeof have - used, "%s%.*s", used ? ", " : "", OD_TEXT(of_steps));
    }
    if (!found) {
      return fail(error, Code::usage, "sampler", have[0] ? "use one of these" : "use another sampler",
                  "the bundle has no table of %.*s at %u steps (it has %s).", OD_TEXT(sampler), steps,
                  have[0] ? have : "none of it");
    }
    Bytes data;
    Json json;
    if (!bundle_.read(path, kMaxText, data, error) || !parse_json(data, path, pool_, json, error) ||
        !parse_sampler(json, path, pool_, table_, error)) {
      return false;
    }
    first_ = 0;
    if (image && table_.begins.empty() && !request_.sampler.size && !attempt) {
      log(Level::info, "%.*s cannot begin from a picture in this player; %.*s is used", OD_TEXT(sampler),
          OD_TEXT(kSecond));
      sampler = kSecond;
      continue;
    }
    if (image && !first_call(table_, numbers_[pipeline_.latents.strength], first_, error)) return false;
    calls_ = static_cast<u32>(table_.calls.count) - first_;
    return true;
  }
}

// Each text that a pass of the loop uses, in the order of passes.
bool Run::texts_in_use(List<i32>& out, Error& error) {
  for (const Loop& loop : pipeline_.denoise) {
    for (const Pass& pass : passes_in_use(loop, numbers_)) {
      bool known = pass.text == kNone;
      for (const i32 one : out) known = known || one == pass.text;
      if (!known && !out.push(pass.text)) return Pool::no_memory(error, sizeof(i32));
    }
  }
  return true;
}

bool Run::before(Error& error) {
  List<i32> texts;
  if (!texts_in_use(texts, error)) return false;
  bool noise = false;
  for (const Step& step : pipeline_.before) {
    switch (step.kind) {
      case Step::Kind::noise:
        noise = true;
        if (!start_noise(error)) return false;
        break;
      case Step::Kind::sample:
        if (values_.at(step.moments, kNone).made && !sample(step, error)) return false;
        break;
      case Step::Kind::run:
        if (runs(step.role) && !run_role(step.role, {texts.begin(), texts.size()}, error)) return false;
        break;
    }
  }
  if (!noise && request_.latents.empty()) {
    return fail(error, Code::usage, "latents", "give those of the model before it",
                "this model goes on from latents, and none were given.");
  }
  return noise || start_noise(error);
}

bool Run::start_noise(Error& error) {
  const size_t count = static_cast<size_t>(latents_.count());
  if (!start_.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  if (request_.latents.empty()) {
    noise_.draw(start_.span());
    return true;
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
  if (step.draw) noise_.draw(drawn.span());
  const auto scaling = static_cast<float>(pipeline_.latents.scaling),
             shift = static_cast<float>(pipeline_.latents.shift);
  for (size_t i = 0; i < count; ++i) {
    float value = moments[i];
    if (step.draw) {
      const float bound = min(max(moments[count + i], -30.0f), 20.0f);
      value = value + static_cast<float>(exp(0.5 * static_cast<double>(bound))) * drawn[i];
    }
    kept.host[i] = step.scaled ? scaling * (value - shift) : value;
  }
  kept.made = true;
  kept.shape = latents_;
  return true;
}

bool Run::after(Drawn& out, Error& error) {
  const size_t count = final_.size();
  if (!out.latents.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  memcpy(out.latents.begin(), final_.begin(), count * sizeof(float));
  const double decoder_began = seconds();
  const Role& decoder = pipeline_.after[pipeline_.after.count - 1];
  char stage[80];
  snprintf(stage, sizeof stage, "%.*s", OD_TEXT(bundle_.manifest().components[decoder.component].name));
  say(calls_, stage);
  List<float> sample;
  if (!decode({final_.begin(), count}, sample, error)) return false;
  if (!check_finite({sample.begin(), sample.size()}, "the decoder's output", error)) return false;
  if (!out.pixels.resize(sample.size())) return Pool::no_memory(error, sample.size());
  to_pixels({sample.begin(), sample.size()}, out.width, out.height, out.pixels.span());
  out.seconds_of_decoder = seconds() - decoder_began;
  return true;
}

// What the pipeline gives of latents as the loop has them: float32 [1, 3, height, width].
bool Run::decode(Span<const float> sample, List<float>& out, Error& error) {
  Kept& latents = values_.at(kLatents, kNone);
  const auto scaling = static_cast<float>(pipeline_.latents.scaling);
  const auto shift = static_cast<float>(pipeline_.latents.shift);
  for (size_t i = 0; i < sample.count; ++i) latents.host[i] = sample[i] / scaling + shift;
  for (size_t i = 0; i + 1 < pipeline_.after.count; ++i) {
    if (runs(pipeline_.after[i]) && !run_role(pipeline_.after[i], {}, error)) return false;
  }
  const Role& decoder = pipeline_.after[pipeline_.after.count - 1];
  if (way_.rows) {
    List<const Plan*> stages;
    if (!find_stages(bundle_, size_.height, size_.width, way_.rows, stages, error)) return false;
    const Span<const float> given = {latents.host.begin(), sample.count};
    return decode_in_bands(session_, {stages.begin(), stages.size()}, given, out, error);
  }
  const Plan* plan;
  if (!plan_of(decoder, 1, plan, error)) return false;
  Feeds feeds(session_);
  if (!feed_role(decoder, kNone, feeds, error)) return false;
  const size_t scale = pipeline_.latents.scale, count = 3 * size_.width * scale * size_.height * scale;
  if (!out.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  Output output;
  for (const Keep& keep : decoder.keeps) {
    if (keep.value == pipeline_.gives) output.port = keep.port;
  }
  output.host = {reinterpret_cast<u8*>(out.begin()), count * sizeof(float)};
  return session_.run(*plan, feeds.inputs(), {&output, 1}, error);
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
    for (const Role& role : pipeline_.after) {
      if (from <= 2 && role.component == component) return true;
    }
    return false;
  };
  for (u32 component = 0; component < bundle_.manifest().components.count; ++component) {
    if (used_from(component, 0) && !used_from(component, part + 1)) session_.release(component);
  }
}

}  // namespace od
