// Noise, samplers and prepared pictures, for tests/player/test_numbers.py. Floats and pixels are bytes on stdout.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/os.h"
#include "picture/edges.h"
#include "picture/noise.h"
#include "picture/prepare.h"
#include "picture/sampler.h"

namespace {

od::List<od::u8> input;

bool read_input() {
  for (int c; (c = getchar()) != EOF;) {
    if (!input.push(static_cast<od::u8>(c))) return false;
  }
  return true;
}

od::Bytes bytes() { return {input.begin(), input.size()}; }

template <class T>
void write(const T* data, size_t count) {
  fwrite(data, sizeof(T), count, stdout);
}

int failed(const od::Error& error) {
  fprintf(stderr, "%s\n", error.message);
  return static_cast<int>(error.code);
}

od::Seeds seeds_of(const char* mode, const char* seed) {
  od::Seeds seeds;
  seeds.seed = static_cast<od::i64>(strtoull(seed, nullptr, 10));
  for (int i = 0; i < 3; ++i) {
    if (strcmp(mode, od::kSeedModes[i]) == 0) seeds.mode = static_cast<od::SeedMode>(i);
  }
  return seeds;
}

// noise MODE SEED COUNT...: the numbers of successive draws.
int noise(int count, char** arguments) {
  od::Noise stream(seeds_of(arguments[0], arguments[1]));
  for (int i = 2; i < count; ++i) {
    od::List<float> values;
    values.resize(strtoull(arguments[i], nullptr, 10));
    stream.draw(values.span());
    write(values.begin(), values.size());
  }
  return 0;
}

// picture MODE SEED VARIATION STRENGTH DELTA PLANES HEIGHT WIDTH DRAWS: the initial noise, and so many draws of the
// loop.
int noise_of_picture(char** arguments) {
  od::Seeds seeds = seeds_of(arguments[0], arguments[1]);
  seeds.variation_seed = static_cast<od::i64>(strtoull(arguments[2], nullptr, 10));
  seeds.variation_strength = od::read_number(arguments[3]);
  seeds.delta = strtoll(arguments[4], nullptr, 10);
  od::u32 sizes[4];
  for (int i = 0; i < 4; ++i) sizes[i] = static_cast<od::u32>(strtoul(arguments[5 + i], nullptr, 10));
  od::Error error;
  od::Noise stream(seeds);
  od::List<float> values;
  values.resize(size_t(sizes[0]) * sizes[1] * sizes[2]);
  if (!stream.initial(values.span(), sizes[1], sizes[2], error)) return failed(error);
  write(values.begin(), values.size());
  stream.enter_loop();
  for (od::u32 i = 0; i < sizes[3]; ++i) {
    stream.draw(values.span());
    write(values.begin(), values.size());
  }
  return 0;
}

bool floats(const od::Json& list, od::List<float>& out) {
  out.clear();
  for (const od::Json& value : list.list) {
    if (!out.push(static_cast<float>(value.real))) return false;
  }
  return true;
}

// replay: what a table on stdin, as in tests/golden/samplers, gives from noise, then from each call where it may begin.
int replay() {
  od::Pool pool;
  od::Error error;
  od::Json file;
  od::SamplerTable table;
  if (!od::parse_json(bytes(), "golden", pool, file, error)) return failed(error);
  if (!od::parse_sampler(*file.find("table"), "golden", pool, table, error)) return failed(error);
  od::List<float> start, image, draw, in, out;
  floats(*file.find("noise"), start);
  floats(*file.find("image"), image);
  in.resize(start.size());
  out.resize(start.size());
  const od::Json& draws = *file.find("draws");
  const auto run = [&](od::u32 first, const float* picture) {
    od::Sampling sampling;
    size_t drawn = 0;
    if (!sampling.begin(table, first, {start.begin(), start.size()}, picture, false, error)) return false;
    for (od::u32 i = first; i < table.calls.count; ++i) {
      sampling.input(i, in.span());
      for (size_t k = 0; k < in.size(); ++k) out[k] = 0.5f * in[k];
      if (table.calls[i].draws_noise) floats(draws.list[drawn++], draw);
      sampling.step(i, {out.begin(), out.size()}, draw.begin());
    }
    write(sampling.result().data, sampling.result().count);
    return true;
  };
  if (!run(0, nullptr)) return failed(error);
  for (od::u32 i = 0; i < table.begins.count; ++i) {
    if (!run(i, image.begin())) return failed(error);
  }
  return 0;
}

// tables: for each line of stdin, a table, "read" or what is wrong with it.
int tables() {
  for (size_t begin = 0; begin < input.size();) {
    const auto* data = input.begin() + begin;
    const auto* end = static_cast<const od::u8*>(memchr(data, '\n', input.size() - begin));
    const od::Bytes line{data, static_cast<size_t>(end - data)};
    begin += line.count + 1;
    od::Pool pool;
    od::Error error;
    od::Json value;
    od::SamplerTable table;
    const bool read = od::parse_json(line, "table", pool, value, error) &&
                      od::parse_sampler(value, "samplers/x.json", pool, table, error);
    puts(read ? "read" : error.message);
  }
  return 0;
}

// first down|up STRENGTH...: the call at which a run of a table on stdin begins, or why it cannot.
int first(int count, char** arguments) {
  od::Pool pool;
  od::Error error;
  od::Json value;
  od::SamplerTable table;
  if (!od::parse_json(bytes(), "table", pool, value, error)) return failed(error);
  if (!od::parse_sampler(value, "table", pool, table, error)) return failed(error);
  const bool up = count && strcmp(arguments[0], "up") == 0;
  for (int i = 1; i < count; ++i) {
    od::u32 call;
    if (od::first_call(table, od::read_number(arguments[i]), up, call, error)) {
      printf("%u\n", call);
    } else {
      puts(error.message);
    }
  }
  return 0;
}

// resize|fit|mask|masked|edges|unit|trace WIDTH HEIGHT TO_WIDTH TO_HEIGHT: uint8 [height, width, 3] of stdin; of masked the mask
// of the same size after it. A latent is 8 pixels wide. `trace` has two thresholds after these.
int picture(const char* what, char** arguments) {
  od::u32 sizes[4];
  for (int i = 0; i < 4; ++i) sizes[i] = static_cast<od::u32>(strtoul(arguments[i], nullptr, 10));
  const od::Pixels from{input.begin(), sizes[0], sizes[1]};
  od::Error error;
  if (strcmp(what, "resize") == 0) {
    od::List<od::u8> out;
    if (!od::resize(from, sizes[2], sizes[3], out, error)) return failed(error);
    write(out.begin(), out.size());
    return 0;
  }
  if (strcmp(what, "trace") == 0) {
    od::List<od::u8> out;
    const od::Thresholds thresholds = od::thresholds_of(od::read_number(arguments[4]), od::read_number(arguments[5]));
    if (!od::trace(from, thresholds, sizes[2], sizes[3], out, error)) return failed(error);
    write(out.begin(), out.size());
    return 0;
  }
  od::List<float> out;
  od::Prepare how = od::Prepare::fit;
  const char* const words[] = {"fit", "mask", "masked", "clip_vision", "edges", "unit"};
  for (int i = 0; i < 6; ++i) {
    if (strcmp(what, words[i]) == 0) how = static_cast<od::Prepare>(i);
  }
  const size_t count = size_t(3) * sizes[0] * sizes[1];
  od::Pixels mask;
  if (input.size() >= 2 * count) mask = {input.begin() + count, sizes[0], sizes[1]};
  if (!od::prepare(how, from, mask, sizes[2], sizes[3], 8, out, error)) return failed(error);
  write(out.begin(), out.size());
  return 0;
}

// pixels WIDTH HEIGHT: float32 [1, 3, height, width] of stdin.
int pixels(char** arguments) {
  const auto width = static_cast<od::u32>(strtoul(arguments[0], nullptr, 10));
  const auto height = static_cast<od::u32>(strtoul(arguments[1], nullptr, 10));
  od::List<float> sample;
  od::List<od::u8> out;
  sample.resize(size_t(3) * width * height);
  out.resize(sample.size());
  memcpy(sample.begin(), input.begin(), input.size());
  od::to_pixels({sample.begin(), sample.size()}, width, height, out.span());
  write(out.begin(), out.size());
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return 2;
  const char* what = arguments[1];
  if (strcmp(what, "noise") == 0) return noise(count - 2, arguments + 2);
  if (strcmp(what, "picture") == 0) return noise_of_picture(arguments + 2);
  if (!read_input()) return 1;
  if (strcmp(what, "replay") == 0) return replay();
  if (strcmp(what, "tables") == 0) return tables();
  if (strcmp(what, "first") == 0) return first(count - 2, arguments + 2);
  if (strcmp(what, "pixels") == 0) return pixels(arguments + 2);
  return picture(what, arguments + 2);
}
