// The C interface (ondevice_player.h) over the player.
#include <stdio.h>
#include <string.h>

#include "ondevice_player.h"
#include "picture/png.h"
#include "player.h"

struct od_player {
  od::Player player;
  od::Drawn drawn;
  od::List<od::u8> png;
  od::JsonWriter described;
  od::JsonWriter* benched = nullptr;
  uint64_t memory_limit = 0;

  ~od_player() { od::destroy(benched); }
};

namespace {

using od::Code;
using od::Error;

int32_t told(const Error& from, od_error* to) {
  if (to) {
    to->code = static_cast<int32_t>(from.code);
    snprintf(to->message, sizeof to->message, "%s", from.message);
  }
  return static_cast<int32_t>(from.code);
}

int32_t no_memory(od_error* to) {
  Error error;
  od::Pool::no_memory(error, sizeof(od_player));
  return told(error, to);
}

struct LogTarget {
  void (*log)(void*, int32_t, const char*) = nullptr;
  void* user = nullptr;
} log_target;

void pass_on(void*, od::Level level, const char* line) {
  log_target.log(log_target.user, static_cast<int32_t>(level), line);
}

struct Watched {
  const od_watch* watch;
};

void progress(void* user, od::u32 done, od::u32 calls, double left, const char* stage) {
  const od_watch* watch = static_cast<Watched*>(user)->watch;
  if (watch->progress) watch->progress(watch->user, done, calls, left, stage);
}

void preview(void* user, od::u32 done, od::Pixels pixels) {
  const od_watch* watch = static_cast<Watched*>(user)->watch;
  watch->preview(watch->user, done, pixels.data, pixels.width, pixels.height);
}

// One of an enumeration of three; the first for a number that is none of them.
template <class T>
T one_of(int32_t number) {
  return static_cast<T>(number < 0 || number > 2 ? 0 : number);
}

// A request in the player's words; the lists live as long as this.
struct Asked {
  od::List<od::GivenText> texts;
  od::List<od::GivenPicture> pictures;
  od::List<od::NamedNumber> numbers;
  od::List<od::GivenAdapter> adapters;
  od::Request request;

  bool read(const od_request& from) {
    for (size_t i = 0; i < from.text_count; ++i) {
      if (from.texts[i].value && !texts.push({from.texts[i].name, from.texts[i].value})) return false;
    }
    for (size_t i = 0; i < from.number_count; ++i) {
      if (!numbers.push({from.numbers[i].name, from.numbers[i].value})) return false;
    }
    for (size_t i = 0; i < from.picture_count; ++i) {
      const od_picture_in& one = from.pictures[i];
      const bool traced = one.canny_low > 0 || one.canny_high > 0;
      const od::Thresholds thresholds = od::thresholds_of(one.canny_low, one.canny_high);
      if (!pictures.push({one.name, {one.rgb, one.width, one.height}, traced, thresholds})) return false;
    }
    for (size_t i = 0; i < from.adapter_count; ++i) {
      if (!adapters.push({from.adapters[i].name, from.adapters[i].scale})) return false;
    }
    request.adapters = adapters.span();
    request.fast = from.fast != 0;
    request.texts = {texts.begin(), texts.size()};
    request.pictures = {pictures.begin(), pictures.size()};
    request.numbers = {numbers.begin(), numbers.size()};
    request.steps = from.steps;
    if (from.sampler) request.sampler = from.sampler;
    request.seeds = {from.seed, one_of<od::SeedMode>(from.seed_mode), from.variation_seed, from.variation_strength,
                     from.noise_seed_delta};
    request.emphasis = one_of<od::Emphasis>(from.emphasis);
    request.long_texts = one_of<od::Long>(from.long_texts);
    request.width = from.width;
    request.height = from.height;
    request.one_pass_at_a_time = request.unload = request.bands = from.low_memory != 0;
    return true;
  }
};

}  // namespace

const char* od_version(void) { return od::kVersion; }

void od_set_log(void (*log)(void* user, int32_t level, const char* line), void* user) {
  log_target = {log, user};
  od::set_log(log ? pass_on : nullptr, nullptr);
}

int32_t od_open(const od_options* options, od_player** player, od_error* error) {
  *player = nullptr;
  auto* made = od::construct<od_player>();
  if (!made) return no_memory(error);
  od::PlayerOptions own;
  own.bundle = options->bundle;
  own.descriptor = options->descriptor;
  if (options->name) own.name = options->name;
  own.device = options->device;
  own.cache = options->cache;
  own.plans = options->plans;
  made->memory_limit = options->memory_limit;
  Error failure;
  if (!made->player.open(own, failure)) {
    od::destroy(made);
    return told(failure, error);
  }
  *player = made;
  return 0;
}

void od_close(od_player* player) { od::destroy(player); }

const char* od_describe(od_player* player) {
  if (!player->described.size()) od::describe(player->player, player->described);
  return player->described.done();
}

int32_t od_draw(od_player* player, const od_request* request, const od_watch* watch, od_result* result,
                od_error* error) {
  Asked asked;
  if (!asked.read(*request)) return no_memory(error);
  asked.request.memory_limit = player->memory_limit;
  Watched watched = {watch};
  od::Watch own;
  if (watch) {
    own.user = &watched;
    own.progress = progress;
    own.preview = watch->preview ? preview : nullptr;
    own.preview_every = request->preview_every;
    own.preview_by = one_of<od::PreviewBy>(request->preview_by);
  }
  Error failure;
  od::Drawn& drawn = player->drawn;
  if (!player->player.draw(asked.request, own, drawn, failure)) return told(failure, error);
  if (!od::encode_drawn(drawn, 0, player->png, failure)) return told(failure, error);
  if (result) {
    const od::Session& session = player->player.session();
    *result = {drawn.pixels.begin(),
               drawn.width,
               drawn.height,
               player->png.begin(),
               player->png.size(),
               drawn.parameters.begin(),
               drawn.seconds_to_first_step,
               drawn.seconds_of_steps,
               drawn.seconds_of_decoder,
               session.arena_bytes() + session.weight_bytes()};
  }
  return 0;
}

void od_cancel(od_player* player) { player->player.cancel(); }

void od_unload(od_player* player) { player->player.unload(); }

int32_t od_bench(od_player* player, uint32_t repeats, const char** json, od_error* error) {
  od::destroy(player->benched);
  player->benched = od::construct<od::JsonWriter>();
  if (!player->benched) return no_memory(error);
  od::BenchOptions options;
  options.repeats = repeats;
  Error failure;
  if (!od::bench(player->player, options, *player->benched, failure)) return told(failure, error);
  *json = player->benched->done();
  return 0;
}
