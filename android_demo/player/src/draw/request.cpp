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

// Whether a picture was given, or those that it is made of.
bool Run::has_picture(i32 index) const {
  const Given& given = pipeline_.pictures[static_cast<size_t>(index)];
  if (given.of[0] == kNone) return pictures_[static_cast<size_t>(index)].data;
  return has_picture(given.of[0]) && (given.of[1] == kNone || has_picture(given.of[1]));
}

// Whether nothing but the beginning of a run needs a picture.
bool Run::is_begun_from(i32 picture) const {
  bool begins = false, other = false;
  for (const Given& given : pipeline_.pictures) other = other || given.of[0] == picture || given.of[1] == picture;
  const auto look = [&](const Role& role) {
    bool reads = false, of_begin = false;
    for (const Feed& feed : role.feeds) reads = reads || (feed.kind == Feed::Kind::picture && feed.index == picture);
    for (const Step& step : pipeline_.before) {
      if (step.kind != Step::Kind::sample || step.keep != pipeline_.latents.begin) continue;
      for (const Keep& keep : role.keeps) of_begin = of_begin || keep.value == step.moments;
    }
    begins = begins || (reads && of_begin);
    other = other || (reads && !of_begin);
  };
  for (const Step& step : pipeline_.before) {
    if (step.kind == Step::Kind::run) look(step.role);
  }
  for (const Loop& loop : pipeline_.denoise) {
    for (const Role& role : loop.roles) look(role);
  }
  for (const Role& role : pipeline_.after) look(role);
  return begins && !other;
}

// The picture that another is made of; of a masked one, that with the pixels.
i32 Run::source_of(i32 index) const {
  const i32 of = pipeline_.pictures[static_cast<size_t>(index)].of[0];
  return of == kNone ? index : of;
}

// Which values will be made with the pictures and numbers that were given.
bool Run::find_made(Error& error) {
  if (!made_.resize(pipeline_.values.count)) return Pool::no_memory(error, pipeline_.values.count);
  made_[kLatents] = made_[kTimestep] = true;
  for (const Step& step : pipeline_.before) {
    if (!does(step)) continue;
    if (step.kind == Step::Kind::sample) made_[static_cast<size_t>(step.keep)] = true;
    if (step.kind == Step::Kind::run) will_make(step.role);
  }
  for (const Loop& loop : pipeline_.denoise) {
    for (const Role& role : loop.roles) {
      if (runs(role)) will_make(role);
    }
  }
  return true;
}

void Run::will_make(const Role& role) {
  for (const Keep& keep : role.keeps) made_[static_cast<size_t>(keep.value)] = true;
}

// Whether a step before the loop is done.
bool Run::does(const Step& step) const {
  if (step.below != kNone && !(numbers_[step.below] < step.limit)) return false;
  if (step.kind == Step::Kind::sample) return made_[static_cast<size_t>(step.moments)];
  return step.kind == Step::Kind::noise || runs(step.role);
}

// Whether what a role needs is there: where a picture was not given, what reads it does not run.
bool Run::runs(const Role& role) const {
  for (const Feed& feed : role.feeds) {
    if (feed.kind == Feed::Kind::picture && !has_picture(feed.index)) return false;
    if (feed.kind == Feed::Kind::value && !feed.absent_zeros && !made_[static_cast<size_t>(feed.index)]) return false;
  }
  return true;
}

// Whether a run begins from a picture, and whether a part of it alone is drawn anew.
bool Run::begins() const {
  const Latents& latents = pipeline_.latents;
  if (latents.begin == kNone || !made_[static_cast<size_t>(latents.begin)]) return false;
  return !(is_masked() && numbers_[latents.strength] >= 1);  // the mask alone keeps what is kept of it
}

bool Run::is_masked() const { return pipeline_.latents.mask != kNone && has_picture(pipeline_.latents.mask); }

// Pixels, each a multiple of the latents' scale: as asked, else the picture's own where the bundle has it, else the
// usual.
bool Run::choose_size(Error& error) {
  const u32 scale = pipeline_.latents.scale;
  if (!usual_size(bundle_, size_, error)) return false;
  List<Size> have;
  if (!drawable_sizes(bundle_, have)) return Pool::no_memory(error, sizeof(Size));
  for (size_t i = 0; i < pictures_.size(); ++i) {  // the first that was given counts
    const Pixels& one = pictures_[i];
    if (!one.data) continue;
    const Size own = {one.width / scale, one.height / scale, 1, 0};
    bool fits = encodes_pictures(bundle_, own);
    for (const Size& size : have) {
      const bool alike = size.width == own.width && size.height == own.height;
      fits = fits || (alike && pipeline_.pictures[i].prepare == Prepare::unit);
    }
    if (own.width && own.height && fits) size_ = own;
    break;
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
  char list[400] = "";
  for (const Size& one : have) {
    if (one.width == size_.width && one.height == size_.height) {
      latents_.rank = 4;
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

// As many as the number says, for which there must be plans.
bool Run::choose_frames(Error& error) {
  latents_.dims[0] = numbers_.frames();
  if (pipeline_.latents.frames == kNone) return check_chunks(error);
  size_.frames = numbers_.frames();
  size_.at_once = request_.decode_chunk;
  const Loop& loop = pipeline_.denoise[0];
  const u32 denoiser = loop.roles[loop.roles.count - 1].component;
  char have[200] = "";
  u32 listed = 0;
  for (const PlanEntry& entry : bundle_.manifest().plans) {
    if (entry.component != denoiser || !bundle_.served(entry)) continue;
    const u32 frames = entry.sizes.get("frames", 1);
    if (frames == size_.frames) return check_chunks(error);
    if (frames == listed) continue;  // for several passes
    listed = frames;
    const size_t used = strlen(have);
    if (used < sizeof have / 2) snprintf(have + used, sizeof have - used, "%s%u", used ? ", " : "", frames);
  }
  return fail(error, Code::usage, pipeline_.numbers[static_cast<size_t>(pipeline_.latents.frames)].name,
              "use another number", "the bundle has no plans of so many (got %u, it has %s).", size_.frames, have);
}

// Whether there are plans for all frames, of so many that are decoded at once.
bool Run::check_chunks(Error& error) const {
  if (!request_.decode_chunk) return true;
  bool any = false;
  for (const Role& role : request_.fast ? pipeline_.fast : pipeline_.after) {
    if (!role.chunks) continue;
    any = true;
    u32 left = size_.frames, count = 1;
    for (; left && count; left -= count) count = chunk_of(bundle_, role.component, size_, left);
    if (!left) continue;
    char have[200] = "";
    u32 most = 0;
    for (const PlanEntry& entry : bundle_.manifest().plans) {
      if (entry.component != role.component || !bundle_.served(entry) || entry.sizes.has("stage")) continue;
      const u32 frames = entry.sizes.get("frames", 1);
      const size_t used = strlen(have);
      if (used < sizeof have / 2) snprintf(have + used, sizeof have - used, "%s%u", used ? " or " : "", frames);
      most = max(most, frames);
    }
    char fix[80];
    snprintf(fix, sizeof fix, "use %u, or convert with --decode-chunk", most);
    return fail(error, Code::usage, "decode_chunk", fix,
                "the bundle does not decode %u frames so (got %u at once, it has %s).", size_.frames,
                request_.decode_chunk, have);
  }
  return any || fail(error, Code::usage, "decode_chunk", "leave it out", "this model decodes no frames in chunks.");
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
    const Latents& latents = pipeline_.latents;
    if (image && !first_call(table_, numbers_[latents.strength], latents.rounds_up, first_, error)) return false;
    u32 end = 0;
    if (!cut_schedule(table_, request_.denoising_start, request_.denoising_end, first_, end, error)) return false;
    calls_ = end - first_;
    return true;
  }
}

// Each text that a pass of the loop uses, in the order of passes.
bool Run::texts_in_use(List<i32>& out, Error& error) const {
  for (const Loop& loop : pipeline_.denoise) {
    for (const Pass& pass : passes_in_use(loop, numbers_)) {
      bool known = pass.text == kNone;
      for (const i32 one : out) known = known || one == pass.text;
      if (!known && !out.push(pass.text)) return Pool::no_memory(error, sizeof(i32));
    }
  }
  return true;
}

// Parts and chunks of the texts in use.
bool Run::read_texts(Error& error) {
  if (!texts_.open(words_.span(), given_.span(), request_.emphasis, error)) return false;
  const u32 most = most_chunks(bundle_, size_);
  List<i32> texts;
  if (!texts_in_use(texts, error)) return false;
  for (const i32 text : texts) {
    if (!texts_.read(text, request_.long_texts, most, error)) return false;
  }
  for (const Loop& loop : pipeline_.denoise) {
    if (!loop.guided || loop.passes.count == 1) continue;
    // A number that has a window is 0 in calls outside of it.
    const bool in_calls = pipeline_.numbers[loop.guided_number].window_from != kNone;
    if (!in_calls && passes_in_use(loop, numbers_).count > 1) continue;
    const i32 text = loop.passes[loop.guided_alone].text;
    if (text == kNone || texts_.end(text) - texts_.first(text) == 1) continue;
    return fail(error, Code::usage, pipeline_.texts[static_cast<size_t>(text)].name,
                "use a guidance above 1, or write `and`", "AND joins texts by guidance, and there is none here.");
  }
  return true;
}

// Whether a text was given, is empty, and is another one for some role than none, which zeros stand for.
bool Run::is_empty_for_some(i32 text) const {
  if (!given_[static_cast<size_t>(text)] || words_[static_cast<size_t>(text)].size) return false;
  for (const Step& step : pipeline_.before) {
    if (step.kind != Step::Kind::run) continue;
    for (const Feed& feed : step.role.feeds) {
      if (feed.kind == Feed::Kind::tokens && feed.absent_zeros) return true;
    }
  }
  return false;
}

// The texts of the picture's file, as the Python package writes them.
bool Run::describe_picture(Drawn& out, Error& error) {
  const auto text = [&](const char* name) {
    const i32 index = pipeline_.text(name);
    return index == kNone ? Text() : words_[static_cast<size_t>(index)];
  };
  PictureFacts facts;
  facts.prompt = text("prompt");
  if (is_guided(pipeline_, numbers_)) facts.negative_prompt = text("negative_prompt");
  facts.steps = table_.steps;
  facts.sampler = table_.sampler;
  const i32 guidance = pipeline_.number("guidance_scale");
  if (guidance != kNone) facts.guidance_scale = numbers_[guidance];
  facts.seeds = request_.seeds;
  List<i32> texts;
  if (!texts_in_use(texts, error)) return false;
  for (const i32 one : texts) {
    if (request_.emphasis != Emphasis::none && texts_.has_signs(one)) {
      facts.emphasis = kEmphases[static_cast<u8>(request_.emphasis)];
    }
    for (i32 part = texts_.first(one); part < texts_.end(one); ++part) {
      if (texts_.chunks(part) > 1) facts.long_texts = "chunk";
    }
  }
  const i32 negative = pipeline_.text("negative_prompt");
  for (const i32 one : texts) {
    facts.negative_given = facts.negative_given || (one == negative && is_empty_for_some(one));
  }
  facts.width = out.width;
  facts.height = out.height;
  const i32 strength = pipeline_.latents.strength;
  const i32 image = pipeline_.picture("image");
  facts.has_strength = strength != kNone && image != kNone && has_picture(image);
  if (facts.has_strength) facts.strength = numbers_[strength];
  List<PictureFacts::Number> numbers;
  for (const NamedNumber& one : request_.numbers) {
    const i32 number = pipeline_.number(one.name);
    if (number == guidance || number == strength) continue;
    if (!numbers.push({one.name, one.value})) return Pool::no_memory(error, sizeof one);
  }
  for (const NamedNumber& one : request_.refiner.numbers) {
    bool known = one.name == "guidance_scale";
    for (const PictureFacts::Number& other : numbers) known = known || other.name == one.name;
    if (!known && !numbers.push({one.name, one.value})) return Pool::no_memory(error, sizeof one);
  }
  facts.refiner = request_.refiner.name;
  facts.refiner_start = request_.denoising_end;
  facts.numbers = numbers.span();
  facts.model = bundle_.manifest().source;
  char version[64];
  snprintf(version, sizeof version, "ondevice %s", kVersion);
  facts.version = version;
  facts.init_image = request_.init_image;
  facts.mask = request_.mask;
  facts.pictures = request_.picture_files;
  facts.canny = request_.canny;
  facts.fast = request_.fast;
  facts.decode_chunk = request_.decode_chunk;
  facts.adapters = adapters_.span();
  Bytes data;
  Json config;
  const Text path = "scheduler/scheduler_config.json";
  if (!bundle_.read(path, kMaxText, data, error) || !parse_json(data, path, pool_, config, error)) return false;
  return (describe(facts, config, out.parameters) && to_json(facts, out.ondevice)) ||
         Pool::no_memory(error, facts.prompt.size);
}

}  // namespace od
