// What a picture was drawn with, as texts of its file: the same as the Python package writes.
#pragma once

#include "base/base.h"
#include "base/json.h"
#include "picture/noise.h"

namespace od {

struct PictureFacts {
  Text prompt, negative_prompt;
  bool negative_given = false;  // and is empty, which is not the same as none for the model
  u32 steps = 0;
  Text sampler;
  double guidance_scale = 1;
  Seeds seeds;
  u32 width = 0, height = 0;
  bool has_strength = false;
  double strength = 0;
  struct Number {
    Text name;
    double value;
  };
  Span<const Number> numbers;       // others that were given
  Text model, version;              // empty: not known
  Text init_image, mask, pictures;  // names of files
  Text canny;                       // thresholds of edges
  bool fast = false;                // decoded by the fast decoder
  u32 decode_chunk = 0;             // frames that were decoded at once, at most, where it was said
  Span<const Text> adapters;        // "NAME:SCALE" of each
  Text refiner;                     // the model that drew the end of the schedule, and from where on
  double refiner_start = 0;
  Text emphasis, long_texts;  // where they are not what all ways of reading have
};

// In the words of AUTOMATIC1111's WebUI (ondevice/diffusion/parameters.py): prompt, negative prompt and a line of
// settings. `config`: the scheduler_config.json that the sampler was made with. Whether there was memory for it.
bool describe(const PictureFacts& facts, const Json& config, List<char>& out);

// All of them as JSON, by key.
bool to_json(const PictureFacts& facts, List<char>& out);

}  // namespace od
