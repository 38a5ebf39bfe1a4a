// Pictures with one player that stays loaded, for tests/player/test_adapters.py: `check_switch BUNDLE DEVICE PROMPT
// STEPS FOLDER USE...` draws one for each USE, "NAME:SCALE,NAME:SCALE" or "", into FOLDER/0.png and so on. It prints what the
// device holds after each.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "ondevice_player.h"

namespace {

int failed(const od_error& error) {
  fprintf(stderr, "%s\n", error.message);
  return error.code;
}

}  // namespace

int main(int count, char** arguments) {
  od_options options = {};
  options.bundle = arguments[1];
  options.descriptor = -1;
  options.device = arguments[2];
  od_player* player;
  od_error error = {};
  if (od_open(&options, &player, &error)) return failed(error);
  for (int i = 6; i < count; ++i) {
    od_adapter adapters[4];
    size_t used = 0;
    for (char* name = strtok(arguments[i], ","); name; name = strtok(nullptr, ",")) {
      char* const colon = strrchr(name, ':');
      *colon = 0;
      adapters[used++] = {name, strtod(colon + 1, nullptr)};
    }
    const od_text prompt = {"prompt", arguments[3]};
    od_request request = {};
    request.texts = &prompt;
    request.text_count = 1;
    request.steps = static_cast<uint32_t>(atoi(arguments[4]));
    request.emphasis = 1;
    request.long_texts = 2;
    request.adapters = adapters;
    request.adapter_count = used;
    od_result result;
    if (od_draw(player, &request, nullptr, &result, &error)) return failed(error);
    char path[4096];
    snprintf(path, sizeof path, "%s/%d.png", arguments[5], i - 6);
    od::Error wrong;
    if (!od::write_file(path, {result.png, result.png_bytes}, wrong)) return 1;
    printf("%llu\n", static_cast<unsigned long long>(result.device_bytes));
  }
  od_close(player);
  return 0;
}
