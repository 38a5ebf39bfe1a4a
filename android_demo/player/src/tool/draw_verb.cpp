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

bool draw(const Arguments& arguments, Error& error) {
  Request request;
  List<GivenText> texts;
  List<NamedNumber> numbers;
  PictureFiles pictures;
  i64 steps, preview_every, seed, rows;
  const char* const out = arguments.value("--out");
  if (out && !Text(out).ends_with(".png")) {
    return fail(error, Code::usage, "--out", "end it with .png", "od_player writes PNG (got %.200s).", out);
  }
  bool ready = texts.push({"prompt", arguments.word(1)});
  if (const char* negative = arguments.value("--negative")) ready = ready && texts.push({"negative_prompt", negative});
  if (!ready) return Pool::no_memory(error, sizeof(GivenText));
  if (!arguments.whole("--steps", 1, 20000, 0, steps, error) ||
      !arguments.whole("--seed", INT64_MIN, INT64_MAX, 0, seed, error) ||
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
  request.seed = seed;
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
  Drawn drawn;
  const bool done = player.draw(request, watch, drawn, error);
  if (watcher.terminal) fprintf(stderr, "\r\033[K");
  if (!done) return false;
  List<u8> png;
  char name[4096];
  if (out) {
    snprintf(name, sizeof name, "%s", out);
  } else {
    free_name(name, sizeof name);
  }
  if (!encode_drawn(drawn, 0, png, error) || !write_file(name, {png.begin(), png.size()}, error)) return false;
  print_result(arguments, drawn, player.session(), name);
  return true;
}

const char* const kWords[] = {"BUNDLE", "PROMPT"};
const Flag kFlags[] = {
    OD_DEVICE_FLAGS,           {"--negative", true},   {"--steps", true},        {"--sampler", true},
    {"--guidance", true},      {"--strength", true},   {"--number", true, true}, {"--seed", true},
    {"--size", true},          {"--init-image", true}, {"--mask", true},         {"--picture", true, true},
    {"--low-memory", false},   {"--max-memory", true}, {"--tile-vae", true},     {"--preview", true},
    {"--preview-every", true}, {"--check", false},     {"--out", true},          {"--json", false}};

}  // namespace

const Verb kDraw = {
    "draw",
    "draw a picture and print its path",
    "BUNDLE PROMPT [--negative TEXT] [--steps N] [--sampler NAME] [--guidance SCALE] [--number NAME=VALUE]\n"
    "      [--seed N] [--size WxH] [--init-image FILE.png --strength S] [--mask FILE.png]\n"
    "      [--picture NAME=FILE.png] [--low-memory | --max-memory SIZE]\n"
    "      [--tile-vae ROWS (0: the lowest)] [--preview DIR [--preview-every N]] [--check] [--out FILE.png] "
    "[--json]",
    {kWords, 2},
    {kFlags, sizeof kFlags / sizeof kFlags[0]},
    draw};

}  // namespace od
