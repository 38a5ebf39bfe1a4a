#include "tool/draw_flags.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "picture/png.h"

namespace od {
namespace {

constexpr u64 kMostPixels = u64(1) << 28;  // of a picture that is read
constexpr i64 kMostPictures = 10000;
constexpr double kRefinerStart = 0.8;  // of the schedule, as the model's makers draw with it

// The number of a word among some.
template <class T, size_t N>
bool choose(const Arguments& arguments, const char* flag, const char* const (&words)[N], T& out, Error& error) {
  const char* given = arguments.value(flag);
  if (!given) return true;
  char known[100] = "";
  for (size_t i = 0; i < N; ++i) {
    if (strcmp(given, words[i]) == 0) return out = static_cast<T>(i), true;
    const size_t used = strlen(known);
    snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", words[i]);
  }
  return fail(error, Code::usage, flag, "use one of these", "is \"%.60s\" (expected %s).", given, known);
}

}  // namespace

PictureFiles::~PictureFiles() {
  for (List<u8>* one : pixels_) destroy(one);
}

bool PictureFiles::add(Text name, const char* path, Error& error) {
  Mapping file;
  if (kind_of(path) != FileKind::file) {
    return fail(error, Code::usage, path, "give a PNG file", "there is no such file.");
  }
  auto* pixels = construct<List<u8>>();
  if (!pixels || !pixels_.push(pixels)) {
    destroy(pixels);
    return Pool::no_memory(error, sizeof(List<u8>));
  }
  GivenPicture given = {name, {}};
  if (!file.open(path, error)) return false;
  if (!decode_png(file.bytes(), path, kMostPixels, *pixels, given.pixels.width, given.pixels.height, error)) {
    return false;
  }
  given.pixels.data = pixels->begin();
  return pictures_.push(given) || Pool::no_memory(error, sizeof given);
}

bool PictureFiles::read(const Arguments& arguments, Error& error) {
  const char* const named[][2] = {{"--init-image", "image"}, {"--mask", "mask"}};
  for (const auto& one : named) {
    const char* path = arguments.value(one[0]);
    if (path && !add(one[1], path, error)) return false;
  }
  List<const char*> list;
  for (const char* text : arguments.values("--picture", list)) {
    const char* equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1]) {
      return fail(error, Code::usage, "--picture", "use such as control=pose.png",
                  "is \"%.60s\" (expected NAME=FILE.png).", text);
    }
    const Text name(text, static_cast<size_t>(equals - text));
    if (name == "image" || name == "mask") {
      return fail(error, Code::usage, "--picture", name == "mask" ? "use --mask" : "use --init-image",
                  "'%.*s' is not a name for one more picture.", OD_TEXT(name));
    }
    if (!add(name, equals + 1, error)) return false;
  }
  return true;
}

bool read_numbers(const Arguments& arguments, List<NamedNumber>& out, Error& error) {
  const char* const named[][2] = {{"--guidance", "guidance_scale"}, {"--strength", "strength"}};
  for (const auto& one : named) {
    double value;
    bool given;
    if (!arguments.number(one[0], value, given, error)) return false;
    if (given && !out.push({one[1], value})) return Pool::no_memory(error, sizeof value);
  }
  List<const char*> list;
  for (const char* text : arguments.values("--number", list)) {
    const char* equals = strchr(text, '=');
    char* end = nullptr;
    const double value = equals ? strtod(equals + 1, &end) : 0;
    if (!equals || end == equals + 1 || *end) {
      return fail(error, Code::usage, "--number", "use such as crop_top=0", "is \"%.60s\" (expected NAME=VALUE).",
                  text);
    }
    if (!out.push({{text, static_cast<size_t>(equals - text)}, value})) return Pool::no_memory(error, sizeof value);
  }
  return true;
}

bool read_seeds(const Arguments& arguments, Seeds& out, i64& count, Error& error) {
  bool given = false;
  if (!choose(arguments, "--seed-mode", kSeedModes, out.mode, error) ||
      !arguments.whole("--seed", INT64_MIN, INT64_MAX, 0, out.seed, error) ||
      !arguments.whole("--variation-seed", INT64_MIN, INT64_MAX, 0, out.variation_seed, error) ||
      !arguments.number("--variation-strength", out.variation_strength, given, error) ||
      !arguments.whole("--noise-seed-delta", INT64_MIN / 2, INT64_MAX / 2, 0, out.delta, error) ||
      !arguments.whole("--count", 1, kMostPictures, 1, count, error)) {
    return false;
  }
  if (!given) out.variation_strength = 0;
  if (arguments.has("--variation-seed") != (out.variation_strength != 0)) {
    return fail(error, Code::usage, "variation_seed", "give a seed and a strength above 0, or neither",
                "these two go together (got variation_seed %s, variation_strength %g).",
                arguments.has("--variation-seed") ? arguments.value("--variation-seed") : "None",
                out.variation_strength);
  }
  i64& last = arguments.has("--variation-seed") ? out.variation_seed : out.seed;
  return last <= INT64_MAX - count ||
         fail(error, Code::usage, "--count", "draw the rest with another seed", "the last picture's seed is none.");
}

bool read_texts(const Arguments& arguments, Request& out, Error& error) {
  out.emphasis = Emphasis::mean;
  out.long_texts = Long::fit;
  return choose(arguments, "--emphasis", kEmphases, out.emphasis, error) &&
         choose(arguments, "--long", kLengths, out.long_texts, error);
}

bool read_refiner(const Arguments& arguments, double& start, Error& error) {
  bool given = false;
  if (!arguments.number("--refiner-start", start, given, error)) return false;
  if (!arguments.has("--refiner")) {
    start = 0;
    return !given ||
           fail(error, Code::usage, "--refiner-start", "add --refiner, or leave it out", "there is no refiner.");
  }
  if (!given) start = kRefinerStart;
  return (start > 0 && start < 1) || fail(error, Code::usage, "--refiner-start", "use 0.8",
                                          "not a part of the schedule (got %g, expected above 0 and below 1).", start);
}

}  // namespace od
