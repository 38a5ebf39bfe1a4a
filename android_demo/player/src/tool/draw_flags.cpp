#include "tool/draw_flags.h"

#include <math.h>
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
  GivenPicture given = {name, {}, false, {}};
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
  if (!add_control(arguments, error)) return false;
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

namespace {

// Pictures for nets, and what numbers of a net are called: of the word `scale` the second's is "control_scale_2".
constexpr size_t kMostNets = 4;
constexpr const char* kControls[kMostNets] = {"control", "control_2", "control_3", "control_4"};
constexpr struct {
  const char* flag;
  const char* numbers[kMostNets];
} kControlNumbers[] = {
    {"--control-scale", {"control_scale", "control_scale_2", "control_scale_3", "control_scale_4"}},
    {"--control-start", {"control_start", "control_start_2", "control_start_3", "control_start_4"}},
    {"--control-end", {"control_end", "control_end_2", "control_end_3", "control_end_4"}},
};
constexpr const char* kGuess[] = {"control_guess", "control_guess_2", "control_guess_3", "control_guess_4"};
constexpr const char* kNegative[] = {"control_negative_scale", "control_negative_scale_2", "control_negative_scale_3",
                                     "control_negative_scale_4"};

// "100,200"; the smaller is the lower, whichever comes first.
bool read_thresholds(const char* text, Thresholds& out, Error& error) {
  char *middle, *end;
  double first = strtod(text, &middle), second = -1;
  if (middle != text && *middle == ',') {
    second = strtod(middle + 1, &end);
    if (end == middle + 1 || *end) second = -1;
  }
  if (!(first >= 0 && second >= 0 && isfinite(first) && isfinite(second))) {
    return fail(error, Code::usage, "--canny", "write --canny 100,200",
                "not two thresholds (got '%.60s', expected LOW,HIGH of 0 or more).", text);
  }
  out = thresholds_of(first, second);
  return true;
}

}  // namespace

bool PictureFiles::add_control(const Arguments& arguments, Error& error) {
  List<const char*> list;
  const Span<const char* const> paths = arguments.values("--control", list);
  const char* const canny = arguments.value("--canny");
  const char* const needing[] = {"--control-scale", "--control-start", "--control-end", "--guess", "--canny"};
  for (const char* flag : needing) {
    if (!paths.empty() || !arguments.has(flag)) continue;
    return fail(error, Code::usage, flag, "add --control, or leave it out",
                "there is no picture for a ControlNet.");
  }
  if (paths.count > kMostNets) {
    return fail(error, Code::usage, "--control", "give fewer",
                "that are more pictures than a bundle can have nets (got %zu, expected %zu).", paths.count, kMostNets);
  }
  Thresholds thresholds;
  if (canny && !read_thresholds(canny, thresholds, error)) return false;
  for (size_t i = 0; i < paths.count; ++i) {
    if (!add(kControls[i], paths[i], error)) return false;
    pictures_.back().traced = canny != nullptr;
    pictures_.back().thresholds = thresholds;
  }
  return true;
}

const char* file_name(const char* path) {
  const char* const slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

bool name_pictures(const Arguments& arguments, List<char>& out) {
  List<const char*> list;
  const auto add = [&](Text text) {
    for (size_t i = 0; i < text.size; ++i) {
      if (!out.push(text.data[i])) return false;
    }
    return true;
  };
  u32 net = 0;
  for (const char* given : arguments.values("--control", list)) {
    char name[24] = "control=";
    if (net++) snprintf(name, sizeof name, "control_%u=", net);
    if (!add(out.empty() ? "" : ", ") || !add(name) || !add(file_name(given))) return false;
  }
  list.clear();
  for (const char* given : arguments.values("--picture", list)) {
    const char* const equals = strchr(given, '=');
    const Text name(given, static_cast<size_t>(equals + 1 - given));
    if (!add(out.empty() ? "" : ", ") || !add(name) || !add(file_name(equals + 1))) return false;
  }
  return true;
}

bool read_control(const Arguments& arguments, List<NamedNumber>& out, Error& error) {
  List<const char*> paths;
  const size_t count = arguments.values("--control", paths).count;
  for (const auto& one : kControlNumbers) {
    List<const char*> list;
    const Span<const char* const> values = arguments.values(one.flag, list);
    if (values.empty()) continue;
    if (values.count != count && values.count != 1) {
      return fail(error, Code::usage, one.flag, "give as many as pictures",
                  "there are %zu pictures for ControlNets (got %zu numbers, expected one, or one each).", count,
                  values.count);
    }
    for (size_t i = 0; i < count; ++i) {
      double value;
      if (!number_of(one.flag, values[values.count == 1 ? 0 : i], value, error)) return false;
      if (!out.push({one.numbers[i], value})) return Pool::no_memory(error, sizeof value);
    }
  }
  for (size_t i = 0; i < (arguments.has("--guess") ? count : 0); ++i) {
    if (!out.push({kGuess[i], 1}) || !out.push({kNegative[i], 0})) return Pool::no_memory(error, sizeof(NamedNumber));
  }
  return true;
}

bool read_adapters(const Arguments& arguments, List<GivenAdapter>& out, Error& error) {
  List<const char*> list;
  for (const char* text : arguments.values("--lora", list)) {
    const char* colon = strrchr(text, ':');
    GivenAdapter given = {colon ? Text(text, static_cast<size_t>(colon - text)) : Text(text), kUsualScale};
    if (colon && !number_of("--lora", colon + 1, given.scale, error)) return false;
    if (!out.push(given)) return Pool::no_memory(error, sizeof given);
  }
  return true;
}

bool read_preview_by(const Arguments& arguments, PreviewBy& out, Error& error) {
  const bool given = arguments.has("--preview-by");
  if (given && !arguments.has("--preview")) {
    return fail(error, Code::usage, "--preview-by", "add --preview, or leave it out",
                "there are no previews without --preview.");
  }
  bool fast = false;
  if (!choose(arguments, "--preview-by", kPreviewWays, fast, error)) return false;
  if (given) out = fast ? PreviewBy::fast : PreviewBy::sum;
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

bool read_streaming(const Arguments& arguments, Request& out, Error& error) {
  const char* size = arguments.value("--stream-weights");
  out.stream_weights = size != nullptr;
  return !size || !*size || arguments.memory("--stream-weights", out.stream_bytes, error);
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
