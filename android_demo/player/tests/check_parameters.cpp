// Texts of pictures' files, for tests/player/test_parameters.py: a JSON object of facts and a scheduler's config for
// each line of stdin; the two texts as a JSON list for each.
#include <stdio.h>
#include <string.h>

#include "base/json_writer.h"
#include "picture/parameters.h"

namespace {

od::Text text_of(const od::Json& facts, const char* key) {
  const od::Json* value = facts.find(key);
  return value ? value->text : od::Text();
}

double number_of(const od::Json& facts, const char* key) {
  const od::Json* value = facts.find(key);
  return value ? value->real : 0;
}

}  // namespace

int main() {
  static char line[1 << 20];
  while (fgets(line, sizeof line, stdin)) {
    od::Pool pool;
    od::Json json;
    od::Error error;
    if (!od::parse_json(od::Text(line, strcspn(line, "\n")).bytes(), "line", pool, json, error)) return 1;
    const od::Json &given = json.list[0], &config = json.list[1], &others = json.list[2];
    od::PictureFacts facts;
    facts.prompt = text_of(given, "prompt");
    facts.negative_prompt = text_of(given, "negative_prompt");
    facts.steps = static_cast<od::u32>(number_of(given, "steps"));
    facts.sampler = text_of(given, "sampler");
    facts.guidance_scale = number_of(given, "guidance_scale");
    facts.seeds.seed = given.find("seed")->integer;
    for (int i = 0; i < 3; ++i) {
      if (text_of(given, "seed_mode") == od::kSeedModes[i]) facts.seeds.mode = static_cast<od::SeedMode>(i);
    }
    if (const od::Json* other = given.find("variation_seed")) facts.seeds.variation_seed = other->integer;
    if (const od::Json* delta = given.find("noise_seed_delta")) facts.seeds.delta = delta->integer;
    facts.seeds.variation_strength = number_of(given, "variation_strength");
    facts.emphasis = text_of(given, "emphasis");
    facts.long_texts = text_of(given, "long");
    facts.width = static_cast<od::u32>(number_of(given, "width"));
    facts.height = static_cast<od::u32>(number_of(given, "height"));
    facts.has_strength = given.find("strength") != nullptr;
    facts.strength = number_of(given, "strength");
    facts.model = text_of(given, "model");
    facts.version = text_of(given, "version");
    facts.init_image = text_of(given, "init_image");
    facts.mask = text_of(given, "mask");
    facts.pictures = text_of(given, "pictures");
    facts.canny = text_of(given, "canny");
    facts.fast = given.find("taesd") != nullptr;
    facts.negative_given = given.find("negative_given") != nullptr;
    od::List<od::Text> adapters;
    if (const od::Json* lora = given.find("lora")) {
      for (const od::Json& one : lora->list) adapters.push(one.text);
    }
    facts.adapters = adapters.span();
    facts.refiner = text_of(given, "refiner");
    facts.refiner_start = number_of(given, "refiner_start");
    od::List<od::PictureFacts::Number> numbers;
    for (const od::Member& one : others.members) numbers.push({one.key, one.value.real});
    facts.numbers = numbers.span();
    od::List<char> words, all;
    if (!od::describe(facts, config, words) || !od::to_json(facts, all)) return 1;
    od::JsonWriter out;
    out.begin_list().text({words.begin(), words.size()}).text({all.begin(), all.size()}).end_list();
    puts(out.done());
  }
  return 0;
}
