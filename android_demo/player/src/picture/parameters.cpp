#include "picture/parameters.h"

#include <stdio.h>
#include <string.h>

#include "base/json_writer.h"
#include "base/os.h"

namespace od {
namespace {

struct Named {
  const char* name;
  const char* title;
};
constexpr Named kSamplers[] = {{"pndm", "PLMS"},         {"ddim", "DDIM"}, {"euler", "Euler"}, {"euler_a", "Euler a"},
                               {"dpmpp_2m", "DPM++ 2M"}, {"heun", "Heun"}, {"lms", "LMS"},     {"unipc", "UniPC"},
                               {"lcm", "LCM"},           {"ddpm", "DDPM"}};
constexpr Named kSpacings[] = {{"linspace", "Uniform"}, {"trailing", "Simple"}, {"leading", "DDIM"}};
// Samplers that WebUI gives a choice of noise levels, and those that read the three flags.
constexpr const char* kLevels[] = {"euler", "euler_a", "dpmpp_2m", "heun", "lms"};
constexpr const char* kRespaced[] = {"euler", "dpmpp_2m", "heun", "lms", "unipc"};

template <size_t N>
bool among(Text name, const char* const (&list)[N]) {
  for (const char* one : list) {
    if (name == Text(one)) return true;
  }
  return false;
}

template <size_t N>
const char* title_of(Text name, const Named (&list)[N]) {
  for (const Named& one : list) {
    if (name == Text(one.name)) return one.title;
  }
  return nullptr;
}

// Whether Python takes a value for true.
bool is_set(const Json* value) {
  if (!value) return false;
  switch (value->kind) {
    case Json::Kind::null:
      return false;
    case Json::Kind::boolean:
      return value->boolean;
    case Json::Kind::integer:
    case Json::Kind::real:
      return value->real != 0;
    case Json::Kind::text:
      return value->text.size != 0;
    case Json::Kind::list:
      return !value->list.empty();
    case Json::Kind::object:
      return !value->members.empty();
  }
  return false;
}

// Of one letter: its bytes if it is white space, else 0.
size_t space(Text text) {
  u32 letter;
  const size_t size = decode_letter(text, letter);
  const bool is = (letter >= 9 && letter <= 13) || (letter >= 0x1c && letter <= 0x20) || letter == 0x85 ||
                  letter == 0xa0 || letter == 0x1680 || (letter >= 0x2000 && letter <= 0x200a) || letter == 0x2028 ||
                  letter == 0x2029 || letter == 0x202f || letter == 0x205f || letter == 0x3000;
  return size && is ? size : 0;
}

class Writer {
 public:
  explicit Writer(List<char>& out) : out_(out) {}

  void add(Text text) {
    for (size_t i = 0; i < text.size; ++i) ok = ok && out_.push(text.data[i]);
  }

  // A prompt. A line that WebUI would take for the negative prompt's begins with a small letter: the tokens are the
  // same.
  void add_words(Text text) {
    const Text marker = "Negative prompt:";
    size_t small = SIZE_MAX;
    for (size_t i = 0; i < text.size; ++i) {
      if (i == 0 || text.data[i - 1] == '\n') {
        size_t at = i;
        while (const size_t size = space({text.data + at, text.size - at})) at += size;
        if (Text(text.data + at, text.size - at).starts_with(marker)) small = at;
      }
      const char letter = i == small ? 'n' : text.data[i];
      if (letter) ok = ok && out_.push(letter);
    }
  }

  void field(const char* name, Text value) {
    if (!value.size) return;
    if (fields_++) add(", ");
    add(name);
    add(": ");
    bool ends_a_field = false;
    for (size_t i = 0; i < value.size; ++i) ends_a_field = ends_a_field || strchr(",:\"\n", value.data[i]);
    if (!ends_a_field) return add(value);
    add("\"");
    for (size_t i = 0; i < value.size; ++i) {
      const char c = value.data[i];
      const char* const known = "\"\\\b\f\n\r\t";
      const char* found = c ? strchr(known, c) : nullptr;
      char escape[8] = {c, 0};
      if (found) {
        snprintf(escape, sizeof escape, "\\%c", "\"\\bfnrt"[found - known]);
      } else if (static_cast<u8>(c) < 0x20) {
        snprintf(escape, sizeof escape, "\\u%04x", static_cast<u8>(c));
      }
      add(escape);
    }
    add("\"");
  }

  void whole(const char* name, i64 value) {
    char digits[32];
    snprintf(digits, sizeof digits, "%lld", static_cast<long long>(value));
    field(name, digits);
  }

  void number(const char* name, double value) {
    char digits[64];
    write_number(digits, sizeof digits, value);
    field(name, digits);
  }

  bool ok = true;

 private:
  List<char>& out_;
  size_t fields_ = 0;
};

// WebUI's name of the noise levels that a sampler takes under this config; empty for a sampler that it does not know.
const char* schedule_type(Text sampler, const Json& config) {
  if (!title_of(sampler, kSamplers)) return "";
  if (among(sampler, kRespaced)) {
    if (is_set(config.find("use_karras_sigmas"))) return "Karras";
    if (is_set(config.find("use_exponential_sigmas"))) return "Exponential";
    if (is_set(config.find("use_beta_sigmas"))) return "Beta";
  }
  if (!among(sampler, kLevels)) return "Automatic";
  const Json* given = config.find("timestep_spacing");
  const Text spacing = given ? given->text : Text("linspace");
  // DPM-Solver++ leaves out the last of n + 1 even timesteps. WebUI's "Automatic" would be Karras for it.
  if (sampler == Text("dpmpp_2m") && spacing == Text("linspace")) return "SGM Uniform";
  const char* title = title_of(spacing, kSpacings);
  return title ? title : "";
}

bool has_brackets(Text text) {
  for (size_t i = 0; i < text.size; ++i) {
    if (text.data[i] && strchr("()[]\\", text.data[i])) return true;
  }
  return false;
}

}  // namespace

bool describe(const PictureFacts& facts, const Json& config, List<char>& out) {
  out.clear();
  Writer writer(out);
  writer.add_words(facts.prompt);
  writer.add("\n");
  if (facts.negative_prompt.size) {
    writer.add("Negative prompt: ");
    writer.add_words(facts.negative_prompt);
    writer.add("\n");
  }
  const char* sampler = title_of(facts.sampler, kSamplers);
  const Json* algorithm = config.find("algorithm_type");
  if (facts.sampler == Text("dpmpp_2m") && algorithm && algorithm->text == Text("sde-dpmsolver++")) {
    sampler = "DPM++ 2M SDE";
  }
  writer.whole("Steps", facts.steps);
  writer.field("Sampler", sampler ? Text(sampler) : facts.sampler);
  writer.field("Schedule type", schedule_type(facts.sampler, config));
  if (facts.guidance_scale < 1) {
    writer.whole("CFG scale", 1);  // below 1 there is no guidance, as at 1
  } else {
    writer.number("CFG scale", facts.guidance_scale);
  }
  writer.whole("Seed", facts.seeds.seed);
  char size[32];
  snprintf(size, sizeof size, "%ux%u", facts.width, facts.height);
  writer.field("Size", size);
  writer.field("Model", facts.model);
  if (facts.has_strength) writer.number("Denoising strength", facts.strength);
  if (facts.sampler == Text("unipc")) {
    const Json *variant = config.find("solver_type"), *order = config.find("solver_order");
    writer.field("UniPC variant", variant && variant->is(Json::Kind::text) ? variant->text : Text("bh2"));
    writer.whole("UniPC order", order && order->is(Json::Kind::integer) ? order->integer : 2);
  }
  writer.field("RNG", facts.seeds.mode == SeedMode::torch ? "CPU" : "NV");
  if (facts.seeds.variation_strength != 0) {
    writer.whole("Variation seed", facts.seeds.variation_seed);
    writer.number("Variation seed strength", facts.seeds.variation_strength);
  }
  if (facts.seeds.delta) writer.whole("ENSD", facts.seeds.delta);
  // WebUI's default is `mean`. Where brackets are letters, it must be told so.
  const bool letters = has_brackets(facts.prompt) || has_brackets(facts.negative_prompt);
  if (!facts.emphasis.size && letters) writer.field("Emphasis", "None");
  if (facts.emphasis.size && facts.emphasis != "mean") writer.field("Emphasis", facts.emphasis);
  writer.field("Init image", facts.init_image);
  writer.field("Mask", facts.mask);
  writer.field("Pictures", facts.pictures);
  writer.field("Refiner", facts.refiner);
  if (facts.refiner_start != 0) writer.number("Refiner switch at", facts.refiner_start);
  if (facts.fast) writer.field("VAE Decoder", "TAESD");  // WebUI's own words for it
  List<char> adapters;
  for (size_t k = 0; k < facts.adapters.count; ++k) {
    const Text parts[] = {k ? ", " : "", facts.adapters[k]};
    for (const Text part : parts) {
      for (size_t i = 0; i < part.size; ++i) writer.ok = writer.ok && adapters.push(part.data[i]);
    }
  }
  writer.field("Lora", {adapters.begin(), adapters.size()});
  writer.field("Version", facts.version);
  writer.ok = writer.ok && out.push(0);
  if (writer.ok) out.pop();
  return writer.ok;
}

bool to_json(const PictureFacts& facts, List<char>& out) {
  // In the order of their keys; other numbers are put between them.
  enum class Kind : u8 { text, whole, real, yes, texts };
  struct Row {
    Text key;
    Kind kind;
    Text text;
    i64 whole;
    double real;
  };
  List<Row> rows;
  bool ok = true;
  const auto add = [&](Row row) {
    size_t at = 0;
    while (at < rows.size() && compare(rows[at].key, row.key) < 0) ++at;
    ok = ok && rows.push(row);
    for (size_t i = rows.size() - 1; ok && i > at; --i) rows[i] = rows[i - 1];
    if (ok) rows[at] = row;
  };
  add({"prompt", Kind::text, facts.prompt, 0, 0});
  add({"negative_prompt", Kind::text, facts.negative_prompt, 0, 0});
  add({"steps", Kind::whole, {}, facts.steps, 0});
  add({"sampler", Kind::text, facts.sampler, 0, 0});
  add({"guidance_scale", Kind::real, {}, 0, facts.guidance_scale});
  add({"seed", Kind::whole, {}, facts.seeds.seed, 0});
  if (facts.seeds.mode != SeedMode::torch) {
    add({"seed_mode", Kind::text, kSeedModes[static_cast<u8>(facts.seeds.mode)], 0, 0});
  }
  if (facts.seeds.variation_strength != 0) {
    add({"variation_seed", Kind::whole, {}, facts.seeds.variation_seed, 0});
    add({"variation_strength", Kind::real, {}, 0, facts.seeds.variation_strength});
  }
  if (facts.seeds.delta) add({"noise_seed_delta", Kind::whole, {}, facts.seeds.delta, 0});
  if (facts.emphasis.size) add({"emphasis", Kind::text, facts.emphasis, 0, 0});
  if (facts.long_texts.size) add({"long", Kind::text, facts.long_texts, 0, 0});
  add({"width", Kind::whole, {}, facts.width, 0});
  add({"height", Kind::whole, {}, facts.height, 0});
  if (facts.has_strength) add({"strength", Kind::real, {}, 0, facts.strength});
  for (const PictureFacts::Number& one : facts.numbers) add({one.name, Kind::real, {}, 0, one.value});
  if (facts.refiner.size) add({"refiner", Kind::text, facts.refiner, 0, 0});
  if (facts.refiner_start != 0) add({"refiner_start", Kind::real, {}, 0, facts.refiner_start});
  if (facts.model.size) add({"model", Kind::text, facts.model, 0, 0});
  if (facts.version.size) add({"version", Kind::text, facts.version, 0, 0});
  if (facts.canny.size) add({"canny", Kind::text, facts.canny, 0, 0});
  if (facts.fast) add({"taesd", Kind::yes, {}, 0, 0});
  if (facts.decode_chunk) add({"decode_chunk", Kind::whole, {}, facts.decode_chunk, 0});
  if (facts.negative_given) add({"negative_given", Kind::yes, {}, 0, 0});
  if (facts.adapters.count) add({"lora", Kind::texts, {}, 0, 0});
  if (facts.init_image.size) add({"init_image", Kind::text, facts.init_image, 0, 0});
  if (facts.mask.size) add({"mask", Kind::text, facts.mask, 0, 0});
  if (facts.pictures.size) add({"pictures", Kind::text, facts.pictures, 0, 0});
  JsonWriter writer;
  writer.begin_object();
  for (const Row& row : rows) {
    writer.key(row.key);
    switch (row.kind) {
      case Kind::text:
        writer.text(row.text);
        break;
      case Kind::whole:
        writer.whole(row.whole);
        break;
      case Kind::yes:
        writer.boolean(true);
        break;
      case Kind::texts:
        writer.begin_list();
        for (const Text one : facts.adapters) writer.text(one);
        writer.end_list();
        break;
      case Kind::real:
        writer.number(row.real);
        break;
    }
  }
  writer.end_object();
  const char* text = writer.done();
  out.clear();
  for (size_t i = 0; ok && i <= writer.size(); ++i) ok = out.push(text[i]);
  if (ok) out.pop();
  return ok && writer.ok();
}

}  // namespace od
