// What is asked of a picture: texts, pictures, its size, its sampler; and what its file says of it.
#include <stdio.h>
#include <string.h>

#include "draw/guidance.h"
#include "draw/run.h"
#include "picture/parameters.h"

namespace od {
namespace {

constexpr Text kSecond = "ddim";  // what begins from a picture where the usual sampler cannot (docs/samplers.md)

}  // namespace

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
    if (index == kNone || pipeline_.pictures[static_cast<size_t>(index)].prepare == Prepare::masked) {
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
    if (!has_picture(static_cast<i32>(i)) && !pipeline_.pictures[i].optional) {
      return fail(error, Code::usage, pipeline_.pictures[i].name, "give one",
                  "this model draws nothing without a picture.");
    }
  }
  if (!request_.latents.empty() && !request_.pictures.empty()) {
    return fail(error, Code::usage, "latents", "leave one out", "both latents and a picture are given.");
  }
  return true;
}

// Whether a picture was given; of one that is made of two, both.
bool Run::has_picture(i32 index) const {
  const Given& given = pipeline_.pictures[static_cast<size_t>(index)];
  if (given.prepare == Prepare::masked) return has_picture(given.of[0]) && has_picture(given.of[1]);
  return pictures_[static_cast<size_t>(index)].data;
}

// Whether the value that a run may begin from will be made: what it is made of is there.
bool Run::begins() const {
  const i32 begin = pipeline_.latents.begin;
  List<bool> made;
  if (begin == kNone || !made.resize(pipeline_.values.count)) return false;
  for (const Step& step : pipeline_.before) {
    if (step.kind == Step::Kind::sample) made[static_cast<size_t>(step.keep)] = made[static_cast<size_t>(step.moments)];
    if (step.kind != Step::Kind::run) continue;
    bool runs = true;
    for (const Feed& feed : step.role.feeds) {
      const bool missing = feed.kind == Feed::Kind::picture ? !has_picture(feed.index)
                           : feed.kind == Feed::Kind::value && !feed.absent_zeros && feed.index > kTimestep
                               ? !made[static_cast<size_t>(feed.index)]
                               : false;
      runs = runs && !missing;
    }
    for (const Keep& keep : step.role.keeps) made[static_cast<size_t>(keep.value)] = runs;
  }
  return made[static_cast<size_t>(begin)];
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
  const bool image = begins();
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
  facts.has_strength = begins();
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

}  // namespace od
