// od_player draw: a picture, as `ondevice generate` draws it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "tool/draw_flags.h"
#include "tool/previews.h"
#include "tool/verbs.h"

namespace od {
namespace {

struct Watcher {
  bool terminal;
  Previews previews;
};

void show(void* user, u32 done, u32 calls, double left, const char* stage) {
  auto& watcher = *static_cast<Watcher*>(user);
  watcher.previews.step(done, calls, left);
  if (!watcher.terminal) return;
  char time[32] = "";
  if (left >= 0) snprintf(time, sizeof time, ", %.0f s left", left);
  fprintf(stderr, "\r\033[K%u of %u: %s%s", done, calls, stage, time);
}

void write_preview(void* user, u32 done, Pixels pixels) { static_cast<Watcher*>(user)->previews.show(done, pixels); }

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
      .member("streamed_bytes", session.streamed_bytes())
      .member("peak_bytes", memory_peak())
      .end_object();
  puts(out.done());
}

// A file of a picture; of several frames one for each. `number`: of several pictures.
bool write_pictures(const Arguments& arguments, const Drawn& drawn, u32 number, const Session& session,
                    Previews& previews, Error& error) {
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
    previews.end(name);
  }
  return true;
}

// Pictures of seeds that follow each other.
struct Series {
  const Arguments& arguments;
  const Watch& watch;
  Watcher& watcher;
  u32 count;

  static void next_seed(Request& request) {
    ++(request.seeds.variation_strength != 0 ? request.seeds.variation_seed : request.seeds.seed);
  }

  bool open(Player& player, const char* bundle, Error& error) const {
    if (!open_player(arguments, bundle, player, error)) return false;
    player.session().check = arguments.has("--check");
    return true;
  }

  bool one(Player& player, const Request& request, u32 number, Drawn& out, Error& error) const {
    watcher.previews.begin(number);
    const bool done = player.draw(request, watch, out, error);
    if (watcher.terminal) fprintf(stderr, "\r\033[K");
    if (done) watcher.previews.finish();
    return done;
  }

  bool write(const Drawn& drawn, u32 number, Player& player, Error& error) const {
    return write_pictures(arguments, drawn, count == 1 ? 0 : number, player.session(), watcher.previews, error);
  }

  bool draw(Request request, Error& error) const {
    Player player;
    List<NamedNumber> numbers;
    if (!open(player, arguments.word(0), error)) return false;
    if (!check_nets(player.bundle().manifest().pipeline, request.numbers, numbers, error)) return false;
    request.numbers = numbers.span();
    for (u32 number = 1; number <= count; ++number, next_seed(request)) {
      Drawn drawn;
      if (!one(player, request, number, drawn, error) || !write(drawn, number, player, error)) return false;
    }
    return true;
  }

  // Whether there is a net for each picture of --control; and the numbers without those of a second scale where the
  // pipeline has none: it knows no negative text.
  bool check_nets(const Pipeline& pipeline, Span<const NamedNumber> given, List<NamedNumber>& out, Error& error) const {
    List<const char*> list;
    const size_t wanted = arguments.values("--control", list).count;
    size_t nets = 0;
    char name[24] = "control";
    while (pipeline.picture(name) != kNone) snprintf(name, sizeof name, "control_%zu", ++nets + 1);
    if (wanted > nets) {
      char have[40] = "no ControlNet";
      if (nets) snprintf(have, sizeof have, nets == 1 ? "one ControlNet" : "%zu ControlNets", nets);
      return fail(error, Code::usage, "--control", "convert the checkpoint with --controlnet PATH for each",
                  "there are more pictures than nets (got %zu, and the bundle has %s).", wanted, have);
    }
    for (const NamedNumber& one : given) {
      if (one.name.starts_with("control_negative_scale") && pipeline.number(one.name) == kNone) continue;
      if (!out.push(one)) return Pool::no_memory(error, sizeof one);
    }
    return true;
  }

  // The beginnings of all by one model, then their ends by another: the two are never in memory together.
  bool draw_in_two(Request request, double start, Error& error) const {
    List<Drawn*> begun;
    struct Owner {
      List<Drawn*>& all;
      ~Owner() {
        for (Drawn* drawn : all) destroy(drawn);
      }
    } const owner = {begun};
    List<NamedNumber> ours, theirs;
    List<char> source;
    const char* const refiner = arguments.value("--refiner");
    if (!read_refiner_of(refiner, request.numbers, theirs, source, error)) return false;
    {
      Player player;
      if (!open(player, arguments.word(0), error)) return false;
      const Pipeline& pipeline = player.bundle().manifest().pipeline;
      List<NamedNumber> known;
      if (!check_nets(pipeline, request.numbers, known, error)) return false;
      for (const NamedNumber& number : known) {
        bool also = false;
        for (const NamedNumber& other : theirs) also = also || other.name == number.name;
        if ((pipeline.number(number.name) != kNone || !also) && !ours.push(number)) {
          return Pool::no_memory(error, sizeof number);
        }
      }
      Request first = request;
      first.numbers = ours.span();
      first.denoising_end = start;
      first.fast = false;  // the other one decodes
      first.refiner = {{source.begin(), source.size()}, theirs.span()};
      for (u32 number = 1; number <= count; ++number, next_seed(first)) {
        auto* drawn = construct<Drawn>();
        if (!drawn || !begun.push(drawn)) {
          destroy(drawn);
          return Pool::no_memory(error, sizeof(Drawn));
        }
        if (!one(player, first, number, *drawn, error)) return false;
      }
      on_interrupt(nullptr);
    }
    Player player;
    if (!open(player, refiner, error)) return false;
    Request last = request;
    last.pictures = {};
    last.adapters = {};
    last.numbers = theirs.span();
    last.denoising_start = start;
    last.seeds.variation_strength = 0;
    for (u32 number = 1; number <= count; ++number) {
      const Drawn& first = *begun[number - 1];
      Drawn drawn;
      last.latents = first.latents.span();
      last.sampler = first.sampler.span().count ? Text(first.sampler.begin(), first.sampler.size()) : Text();
      last.steps = first.steps;
      last.width = first.width;
      last.height = first.height;
      if (!one(player, last, number, drawn, error)) return false;
      if (!copy(first.parameters, drawn.parameters) || !copy(first.ondevice, drawn.ondevice)) {
        return Pool::no_memory(error, first.parameters.size());
      }
      if (!write(drawn, number, player, error)) return false;
      if (request.seeds.variation_strength == 0) ++last.seeds.seed;
    }
    return true;
  }

  static bool copy(const List<char>& from, List<char>& to) {
    if (!to.resize(from.size() + 1)) return false;
    memcpy(to.begin(), from.begin(), from.size());
    to[from.size()] = 0;
    to.pop();
    return true;
  }

  // Of the numbers those that a bundle has, but for the strength; and what it was made of.
  static bool read_refiner_of(const char* path, Span<const NamedNumber> numbers, List<NamedNumber>& theirs,
                              List<char>& source, Error& error) {
    Bundle bundle;
    if (!bundle.open(path, error)) return false;
    const Manifest& manifest = bundle.manifest();
    for (const char letter : Span<const char>{manifest.source.data, manifest.source.size}) {
      if (!source.push(letter)) return Pool::no_memory(error, manifest.source.size);
    }
    for (const NamedNumber& number : numbers) {
      const i32 index = manifest.draws ? manifest.pipeline.number(number.name) : kNone;
      if (index == kNone || index == manifest.pipeline.latents.strength) continue;
      if (!theirs.push(number)) return Pool::no_memory(error, sizeof number);
    }
    return true;
  }
};

bool draw(const Arguments& arguments, Error& error) {
  Request request;
  List<GivenText> texts;
  List<NamedNumber> numbers;
  List<GivenAdapter> adapters;
  PictureFiles pictures;
  i64 steps, preview_every, count, rows, decode_chunk;
  double refiner_start;
  const char* const out = arguments.value("--out");
  if (out && !Text(out).ends_with(".png")) {
    return fail(error, Code::usage, "--out", "end it with .png", "od_player writes PNG (got %.200s).", out);
  }
  const char* const prompt = arguments.word(1);  // a film may begin with a picture alone
  bool ready = !prompt || texts.push({"prompt", prompt});
  if (const char* negative = arguments.value("--negative")) ready = ready && texts.push({"negative_prompt", negative});
  if (!ready) return Pool::no_memory(error, sizeof(GivenText));
  if (!arguments.whole("--steps", 1, 20000, 0, steps, error) || !read_seeds(arguments, request.seeds, count, error) ||
      !read_texts(arguments, request, error) || !read_refiner(arguments, refiner_start, error) ||
      !arguments.whole("--preview-every", 1, 20000, 1, preview_every, error) ||
      !arguments.whole("--tile-vae", 0, 65536, -1, rows, error) ||
      !arguments.whole("--decode-chunk", 1, 65536, 0, decode_chunk, error) ||
      !arguments.size("--size", request.width, request.height, error) ||
      !arguments.memory("--max-memory", request.memory_limit, error) ||
      !read_streaming(arguments, request, error) || !read_numbers(arguments, numbers, error) ||
      !read_control(arguments, numbers, error) || !read_adapters(arguments, adapters, error)) {
    return false;
  }
  if (!pictures.read(arguments, error)) return false;
  request.pictures = pictures.pictures();
  request.texts = {texts.begin(), texts.size()};
  request.numbers = {numbers.begin(), numbers.size()};
  request.adapters = adapters.span();
  request.fast = arguments.has("--taesd");
  request.decode_chunk = static_cast<u32>(decode_chunk);
  if (const char* canny = arguments.value("--canny")) request.canny = canny;
  request.steps = static_cast<u32>(steps);
  if (const char* sampler = arguments.value("--sampler")) request.sampler = sampler;
  request.bands = rows >= 0 || arguments.has("--low-memory");
  request.band_rows = rows > 0 ? static_cast<u32>(rows) : 0;
  request.one_pass_at_a_time = request.unload = arguments.has("--low-memory");
  if (const char* path = arguments.value("--init-image")) request.init_image = file_name(path);
  if (const char* path = arguments.value("--mask")) request.mask = file_name(path);
  List<char> picture_files;
  if (!name_pictures(arguments, picture_files)) return Pool::no_memory(error, 1);
  request.picture_files = {picture_files.begin(), picture_files.size()};
  Watcher watcher = {isatty(2) != 0, Previews(arguments.value("--preview"), static_cast<u32>(count))};
  Watch watch;
  watch.user = &watcher;
  watch.progress = show;
  const char* const folder = watcher.previews.folder();
  watch.preview = folder ? write_preview : nullptr;
  watch.preview_every = static_cast<u32>(preview_every);
  if (!read_preview_by(arguments, watch.preview_by, error)) return false;
  if (folder && !make_folders(folder)) {
    return fail(error, Code::output, folder, "choose another folder", "cannot be made.");
  }
  if (request.fast && rows >= 0) {
    return fail(error, Code::usage, "--tile-vae", "leave it out", "the fast decoder works in one piece.");
  }
  const Series series = {arguments, watch, watcher, static_cast<u32>(count)};
  const bool drawn =
      refiner_start == 0 ? series.draw(request, error) : series.draw_in_two(request, refiner_start, error);
  return drawn && watcher.previews.good(error);
}

const char* const kWords[] = {"BUNDLE", "[PROMPT]"};
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
                       {"--control", true, true},
                       {"--control-scale", true, true},
                       {"--control-start", true, true},
                       {"--control-end", true, true},
                       {"--guess", false},
                       {"--canny", true},
                       {"--lora", true, true},
                       {"--taesd", false},
                       {"--refiner", true},
                       {"--refiner-start", true},
                       {"--low-memory", false},
                       {"--max-memory", true},
                       {"--stream-weights", true, false, true},
                       {"--tile-vae", true},
                       {"--decode-chunk", true},
                       {"--preview", true},
                       {"--preview-every", true},
                       {"--preview-by", true},
                       {"--check", false},
                       {"--out", true},
                       {"--json", false}};

}  // namespace

const Verb kDraw = {
    "draw",
    "draw a picture and print its path",
    "BUNDLE [PROMPT] [--negative TEXT] [--steps N] [--sampler NAME] [--guidance SCALE] [--number NAME=VALUE]\n"
    "      [--emphasis mean|compel|none] [--long chunk|truncate] [--seed N] [--count N] [--seed-mode "
    "torch|cuda|a1111]\n"
    "      [--variation-seed N --variation-strength F] [--noise-seed-delta N] [--size WxH] [--init-image FILE.png "
    "--strength S] [--mask FILE.png]\n"
    "      [--control FILE.png [--control-scale S] [--control-start F] [--control-end F] [--guess]\n"
    "      [--canny LOW,HIGH]]\n"
    "      [--lora NAME[:SCALE]] [--picture NAME=FILE.png] [--refiner BUNDLE [--refiner-start F]]\n"
    "      [--low-memory | --max-memory SIZE] [--stream-weights [SIZE]] [--tile-vae ROWS (0: the lowest)] [--taesd]\n"
    "      [--decode-chunk N (frames of a film)]\n"
    "      [--preview DIR [--preview-every N] [--preview-by rgb|taesd]] [--check] [--out FILE.png] [--json]",
    {kWords, 2},
    {kFlags, sizeof kFlags / sizeof kFlags[0]},
    draw};

}  // namespace od
