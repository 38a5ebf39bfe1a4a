// od_player draw: a picture, as `ondevice generate` draws it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "picture/png.h"
#include "tool/verbs.h"

namespace od {
namespace {

constexpr u64 kMostPixels = u64(1) << 28;  // of a picture that is read
constexpr i64 kMostPictures = 10000;

struct Watcher {
  bool terminal;
  const char* folder;  // where previews go, or null
  Error* error;
};

void show(void* user, u32 done, u32 calls, double left, const char* stage) {
  if (!static_cast<Watcher*>(user)->terminal) return;
  char time[32] = "";
  if (left >= 0) snprintf(time, sizeof time, ", %.0f s left", left);
  fprintf(stderr, "\r\033[K%u of %u: %s%s", done, calls, stage, time);
}

void write_preview(void* user, u32 done, Pixels pixels) {
  auto& watcher = *static_cast<Watcher*>(user);
  char path[4096];
  snprintf(path, sizeof path, "%s/step-%03u.png", watcher.folder, done);
  List<u8> png;
  const size_t count = size_t(3) * pixels.width * pixels.height;
  if (encode_png({pixels.data, count}, pixels.width, pixels.height, {}, png, *watcher.error)) {
    write_file(path, {png.begin(), png.size()}, *watcher.error);
  }
  if (*watcher.error) log(Level::warning, "%s", watcher.error->message);
  *watcher.error = {};
}

// Pictures by name, and the pixels of their files.
class PictureFiles {
 public:
  ~PictureFiles() {
    for (List<u8>* one : pixels_) destroy(one);
  }

  bool add(Text name, const char* path, Error& error) {
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

  // Those of --init-image, --mask and --picture.
  bool read(const Arguments& arguments, Error& error) {
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
      if (!add({text, static_cast<size_t>(equals - text)}, equals + 1, error)) return false;
    }
    return true;
  }

  Span<const GivenPicture> pictures() const { return {pictures_.begin(), pictures_.size()}; }

 private:
  List<List<u8>*> pixels_;
  List<GivenPicture> pictures_;
};

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

// The first of image.png, image-1.png... that is free, where no name is given.
void free_name(char* out, size_t room) {
  snprintf(out, room, "image.png");
  for (u32 number = 1; kind_of(out) != FileKind::missing; ++number) snprintf(out, room, "image-%u.png", number);
}

// "a.png" as "a-1.png" of several pictures.
void numbered_name(const char* out, u32 number, char* name, size_t room) {
  const Text whole(out);
  snprintf(name, room, "%.*s-%u.png", static_cast<int>(whole.size - 4), out, number);
}

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

void print_result(const Arguments& arguments, const Drawn& drawn, const Session& session, const char* path) {
  if (!arguments.has("--json")) {
    puts(path);
    return;
  }
  JsonWriter out;
  out.begin_object()
      .member("out", path)
      .member("parameters", Text(drawn.parameters.begin(), drawn.parameters.size()))
      .member("seconds_to_first_step", drawn.seconds_to_first_step)
      .member("seconds_of_steps", drawn.seconds_of_steps)
      .member("seconds_of_decoder", drawn.seconds_of_decoder)
      .member("device_bytes", session.arena_bytes() + session.weight_bytes())
      .member("peak_bytes", memory_peak())
      .end_object();
  puts(out.done());
}

// A file of a picture; of several frames one for each. `number`: of several pictures.
bool write_pictures(const Arguments& arguments, const Drawn& drawn, u32 number, const Session& session, Error& error) {
  const char* const out = arguments.value("--out");
  for (u32 frame = 0; frame < drawn.frames; ++frame) {
    List<u8> png;
    char name[4096], of_picture[4096];
    if (!out) {
      free_name(name, sizeof name);
    } else {
      snprintf(of_picture, sizeof of_picture, "%s", out);
      if (number) numbered_name(out, number, of_picture, sizeof of_picture);
      snprintf(name, sizeof name, "%s", of_picture);
      if (drawn.frames > 1) numbered_name(of_picture, frame + 1, name, sizeof name);
    }
    if (!encode_drawn(drawn, frame, png, error) || !write_file(name, {png.begin(), png.size()}, error)) return false;
    print_result(arguments, drawn, session, name);
  }
  return true;
}

bool draw(const Arguments& arguments, Error& error) {
  Request request;
  request.emphasis = Emphasis::mean;
  request.long_texts = Long::fit;
  List<GivenText> texts;
  List<NamedNumber> numbers;
  PictureFiles pictures;
  i64 steps, preview_every, count, rows;
  const char* const out = arguments.value("--out");
  if (out && !Text(out).ends_with(".png")) {
    return fail(error, Code::usage, "--out", "end it with .png", "od_player writes PNG (got %.200s).", out);
  }
  bool ready = texts.push({"prompt", arguments.word(1)});
  if (const char* negative = arguments.value("--negative")) ready = ready && texts.push({"negative_prompt", negative});
  if (!ready) return Pool::no_memory(error, sizeof(GivenText));
  if (!arguments.whole("--steps", 1, 20000, 0, steps, error) || !read_seeds(arguments, request.seeds, count, error) ||
      !choose(arguments, "--emphasis", kEmphases, request.emphasis, error) ||
      !choose(arguments, "--long", kLengths, request.long_texts, error) ||
      !arguments.whole("--preview-every", 1, 20000, 1, preview_every, error) ||
      !arguments.whole("--tile-vae", 0, 65536, -1, rows, error) ||
      !arguments.size("--size", request.width, request.height, error) ||
      !arguments.memory("--max-memory", request.memory_limit, error) || !read_numbers(arguments, numbers, error)) {
    return false;
  }
  if (!pictures.read(arguments, error)) return false;
  request.pictures = pictures.pictures();
  request.texts = {texts.begin(), texts.size()};
  request.numbers = {numbers.begin(), numbers.size()};
  request.steps = static_cast<u32>(steps);
  if (const char* sampler = arguments.value("--sampler")) request.sampler = sampler;
  request.bands = rows >= 0 || arguments.has("--low-memory");
  request.band_rows = rows > 0 ? static_cast<u32>(rows) : 0;
  request.one_pass_at_a_time = request.unload = arguments.has("--low-memory");
  if (const char* path = arguments.value("--init-image")) {
    const char* slash = strrchr(path, '/');
    request.init_image = slash ? slash + 1 : path;
  }
  Error ignored;
  Watcher watcher = {isatty(2) != 0, arguments.value("--preview"), &ignored};
  Watch watch;
  watch.user = &watcher;
  watch.progress = show;
  watch.preview = watcher.folder ? write_preview : nullptr;
  watch.preview_every = static_cast<u32>(preview_every);
  if (watcher.folder && !make_folders(watcher.folder)) {
    return fail(error, Code::output, watcher.folder, "choose another folder", "cannot be made.");
  }
  Player player;
  if (!open_player(arguments, player, error)) return false;
  player.session().check = arguments.has("--check");
  for (u32 number = 1; number <= count; ++number) {
    Drawn drawn;
    const bool done = player.draw(request, watch, drawn, error);
    if (watcher.terminal) fprintf(stderr, "\r\033[K");
    if (!done || !write_pictures(arguments, drawn, count == 1 ? 0 : number, player.session(), error)) return false;
    ++(request.seeds.variation_strength != 0 ? request.seeds.variation_seed : request.seeds.seed);
  }
  return true;
}

const char* const kWords[] = {"BUNDLE", "PROMPT"};
const Flag kFlags[] = {OD_DEVICE_FLAGS,
                       {"--negative", true},
                       {"--steps", true},
                       {"--sampler", true},
                       {"--guidance", true},
                       {"--strength", true},
                       {"--number", true, true},
                       {"--seed", true},
                       {"--size", true},
                       {"--init-image", true},
                       {"--mask", true},
                       {"--count", true},
                       {"--seed-mode", true},
                       {"--variation-seed", true},
                       {"--variation-strength", true},
                       {"--noise-seed-delta", true},
                       {"--emphasis", true},
                       {"--long", true},
                       {"--picture", true, true},
                       {"--low-memory", false},
                       {"--max-memory", true},
                       {"--tile-vae", true},
                       {"--preview", true},
                       {"--preview-every", true},
                       {"--check", false},
                       {"--out", true},
                       {"--json", false}};

}  // namespace

const Verb kDraw = {
    "draw",
    "draw a picture and print its path",
    "BUNDLE PROMPT [--negative TEXT] [--steps N] [--sampler NAME] [--guidance SCALE] [--number NAME=VALUE]\n"
    "      [--emphasis mean|compel|none] [--long chunk|truncate] [--seed N] [--count N] [--seed-mode "
    "torch|cuda|a1111]\n"
    "      [--variation-seed N --variation-strength F] [--noise-seed-delta N] [--size WxH] [--init-image FILE.png "
    "--strength S] [--mask FILE.png]\n"
    "      [--picture NAME=FILE.png] [--low-memory | --max-memory SIZE]\n"
    "      [--tile-vae ROWS (0: the lowest)] [--preview DIR [--preview-every N]] [--check] [--out FILE.png] "
    "[--json]",
    {kWords, 2},
    {kFlags, sizeof kFlags / sizeof kFlags[0]},
    draw};

}  // namespace od
