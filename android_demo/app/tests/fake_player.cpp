// A player that draws nothing, behind the C interface, for tests of what is above it: what it does is asked for by the
// prompt, and time passes only as the test lets it.
//
//   "slow"       waits for od_cancel in step 3
//   "late slow"  the same, and forgets what was cancelled before it began
//   "patient"    half a second for each step
//   "fail N why" fails with code N
//   any other    previews and progress, then a file that says what was asked for
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ondevice_player.h"

struct od_player {
  volatile bool cancelled;
  int unloads;
  uint8_t rgb[3 * 64 * 32];
  char parameters[4096], text[4096];
};

namespace {

int32_t failed(od_error* error, int32_t code, const char* message) {
  error->code = code;
  snprintf(error->message, sizeof error->message, "%s", message);
  return code;
}

bool pause(const od_player* player, const char* prompt) {
  usleep(strstr(prompt, "patient") ? 500000 : 2000);
  return player->cancelled;
}

}  // namespace

const char* od_version(void) { return "fake"; }
void od_set_log(void (*)(void*, int32_t, const char*), void*) {}

int32_t od_open(const od_options* options, od_player** player, od_error* error) {
  char head[64] = "";
  FILE* file = options->bundle ? fopen(options->bundle, "re") : fdopen(dup(options->descriptor), "r");
  if (!file) return failed(error, 9, "bundle: cannot be opened. Fix: copy the bundle again.");
  const size_t size = fread(head, 1, sizeof head - 1, file);
  fclose(file);
  if (!size || strncmp(head, "bundle", 6) != 0) {
    char message[512];
    snprintf(message, sizeof message, "%s: is no bundle. Fix: copy the bundle again.",
             options->bundle ? options->bundle : options->name);
    return failed(error, 9, message);
  }
  *player = static_cast<od_player*>(calloc(1, sizeof(od_player)));
  return *player ? 0 : 1;
}

void od_close(od_player* player) { free(player); }

const char* od_describe(od_player* player) {
  snprintf(player->text, sizeof player->text,
           "{\"name\": \"fake\", \"source\": \"fake\", \"sizes\": [{\"width\": 64, \"height\": 32, "
           "\"memory\": {\"arena\": 1000000, \"weights\": 2000000, \"device\": 3000000, \"pictures\": 4}}, {\"width\": "
           "32, \"height\": 32}], "
           "\"texts\": [{\"name\": \"prompt\"}, {\"name\": \"negative_prompt\"}], \"pictures\": [{\"name\": \"control\"}], "
           "\"fast_decoder\": true, "
           "\"adapters\": [{\"name\": \"ink\", \"scale\": 0.75}, {\"name\": \"clay\", \"scale\": 1}], \"sampler\": {\"steps\": 4}, "
           "\"device\": {\"name\": \"none\", \"memory\": 5000000000}}");
  return player->text;
}

int32_t od_draw(od_player* player, const od_request* request, const od_watch* watch, od_result* result,
                od_error* error) {
  const char* prompt = request->texts[0].value;
  if (strcmp(prompt, "late slow") == 0) usleep(200000);
  player->cancelled = false;
  if (strncmp(prompt, "fail ", 5) == 0) {
    char* why = nullptr;
    const auto code = static_cast<int32_t>(strtol(prompt + 5, &why, 10));
    return failed(error, code, why + 1);
  }
  for (uint32_t step = 0; step <= request->steps; ++step) {
    char stage[64];
    snprintf(stage, sizeof stage, step < request->steps ? "step %u of %u" : "vae_decoder", step + 1, request->steps);
    const double left = step ? 0.5 * (request->steps - step) : -1;
    if (watch) watch->progress(watch->user, step, request->steps, left, stage);
    memset(player->rgb, static_cast<int>(step), sizeof player->rgb);
    if (watch && request->preview_every && step % request->preview_every == 0) {
      watch->preview(watch->user, step, player->rgb, 8, 4);
    }
    while (pause(player, prompt) || (step == 3 && strstr(prompt, "slow"))) {
      if (player->cancelled) return failed(error, 130, "drawing: was cancelled.");
    }
  }
  int size = snprintf(player->parameters, sizeof player->parameters, "%s", prompt);
  for (size_t i = 1; i < request->text_count; ++i) {
    size += snprintf(player->parameters + size, sizeof player->parameters - static_cast<size_t>(size), "\n%s: %s",
                     request->texts[i].name, request->texts[i].value);
  }
  for (size_t i = 0; i < request->number_count; ++i) {
    size += snprintf(player->parameters + size, sizeof player->parameters - static_cast<size_t>(size), "\n%s: %g",
                     request->numbers[i].name, request->numbers[i].value);
  }
  snprintf(player->parameters + size, sizeof player->parameters - static_cast<size_t>(size),
           "\nsteps %u, seed %lld, %ux%u, low_memory %d, pictures %zu, ways %d%d%d, unloads %d", request->steps,
           static_cast<long long>(request->seed), request->width, request->height, request->low_memory,
           request->picture_count, request->seed_mode, request->emphasis, request->long_texts, player->unloads);
  const auto add = [&](const char* line) {
    const size_t used = strlen(player->parameters);
    snprintf(player->parameters + used, sizeof player->parameters - used, "\n%s", line);
  };
  char line[200];
  for (size_t i = 0; i < request->picture_count; ++i) {
    const od_picture_in& one = request->pictures[i];
    if (one.canny_high <= 0) continue;
    snprintf(line, sizeof line, "%s %ux%u %g,%g", one.name, one.width, one.height, one.canny_low, one.canny_high);
    add(line);
  }
  for (size_t i = 0; i < request->adapter_count; ++i) {
    snprintf(line, sizeof line, "adapter %s %g", request->adapters[i].name, request->adapters[i].scale);
    add(line);
  }
  if (request->fast) {
    snprintf(line, sizeof line, "fast %d, previews %d", request->fast, request->preview_by);
    add(line);
  }
  *result = {};
  result->rgb = player->rgb;
  result->width = 64;
  result->height = 32;
  result->png = reinterpret_cast<const uint8_t*>(player->parameters);
  result->png_bytes = strlen(player->parameters);
  result->parameters = player->parameters;
  result->seconds_to_first_step = 0.25;
  result->seconds_of_steps = 2;
  result->seconds_of_decoder = 0.5;
  result->device_bytes = 3000000;
  return 0;
}

void od_cancel(od_player* player) { player->cancelled = true; }

void od_unload(od_player* player) { player->unloads += 1; }

int32_t od_bench(od_player* player, uint32_t repeats, const char** json, od_error*) {
  snprintf(player->text, sizeof player->text,
           "{\"device\": \"none\", \"median_seconds\": 1.5, \"peak_bytes\": 7000000, \"runs\": [%u], \"ops\": []}",
           repeats);
  *json = player->text;
  return 0;
}
