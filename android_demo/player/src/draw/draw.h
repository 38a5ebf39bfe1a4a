// Replay of a bundle's pipeline: texts, pictures and numbers -> a picture (docs/pipeline.md). It knows no family of
// models.
#pragma once

#include "base/base.h"
#include "bundle/bundle.h"
#include "device/session.h"
#include "draw/numbers.h"
#include "draw/texts.h"
#include "picture/edges.h"
#include "picture/noise.h"
#include "picture/prepare.h"
#include "picture/sampler.h"
#include "text/tokenizer.h"

namespace od {

struct GivenText {
  Text name, text;
};

struct GivenPicture {
  Text name;
  Pixels pixels;
  bool traced = false;  // its edges, at the size that is drawn, are the picture
  Thresholds thresholds;
};

// An adapter that the bundle carries, and how much of it: kUsualScale is its own.
constexpr double kUsualScale = 1e300;
struct GivenAdapter {
  Text name;
  double scale;
};

// One picture. What is left out is the bundle's own.
struct Request {
  Span<const GivenText> texts;  // "prompt", "negative_prompt"
  Span<const GivenPicture> pictures;
  Span<const NamedNumber> numbers;  // "guidance_scale", "strength", and others that the pipeline has
  Span<const GivenAdapter> adapters;
  u32 steps = 0;                    // 0: the bundle's
  Text sampler;                     // empty: the bundle's
  Emphasis emphasis = Emphasis::none;
  Long long_texts = Long::truncate;
  Seeds seeds;
  u32 width = 0, height = 0;  // pixels; 0: the bundle's first
  Span<const float> latents;  // the noise to begin with instead of the seed's; empty: none
  bool fast = false;  // decoded by the pipeline's fast decoder
  u32 decode_chunk = 0;  // frames of a film that are decoded at once, at most; 0: as many as there are plans for
  // How it is drawn with less memory.
  bool one_pass_at_a_time = false;
  bool unload = false;   // give weights back when a part is done
  bool bands = false;    // the decoder in bands where the bundle has it
  u32 band_rows = 0;     // 0: the lowest that the bundle has
  u64 memory_limit = 0;  // bytes; 0: no matter. Savings are taken until it is enough
  bool stream_weights = false;  // a block at a time
  u64 stream_bytes = 0;         // through at most so much memory; 0: as much as the device takes to run on meanwhile
  // A schedule in two parts, by two models; 0: all of it. With an end nothing is decoded, and the latents are the
  // sample as it stands; with a start, `latents` are such, and the run goes on from them.
  double denoising_end = 0, denoising_start = 0;
  struct {
    Text name;
    Span<const NamedNumber> numbers;
  } refiner;  // of a run with an end, for the parameters: the model that goes on, and its numbers
  // Names of the files that pictures came from, for the parameters; those of `pictures` as NAME=FILE, NAME=FILE; and
  // the thresholds of edges as they were asked for.
  Text init_image, mask, picture_files, canny;
};

// How previews are made: by a sum of the latents' channels where the pipeline knows one, or by its fast decoder. Where
// neither is asked for, by the first of these that there is, else by the decoder itself.
enum class PreviewBy : u8 { usual, sum, fast };
constexpr const char* kPreviewWays[] = {"rgb", "taesd"};  // that a user may ask for

// What a caller hears of. `preview`, where it is not null, is asked for each `preview_every` calls, and after the last.
struct Watch {
  void* user = nullptr;
  // Calls done and in all (0 before the first: all that is loaded), the seconds that are left by the calls so far
  // (negative: not known yet), and the stage, for people: "text_encoder", "step 3 of 20", "vae_decoder".
  void (*progress)(void* user, u32 done, u32 calls, double seconds_left, const char* stage) = nullptr;
  // What is being drawn, uint8 [height, width, 3]: a small picture of the latents where the pipeline says how
  // (height / scale), else what the decoder makes of them, which takes as long as it takes.
  void (*preview)(void* user, u32 done, Pixels pixels) = nullptr;
  u32 preview_every = 0;
  PreviewBy preview_by = PreviewBy::usual;
};

struct Drawn {
  List<u8> pixels;  // uint8 [frames, height, width, 3]
  u32 width = 0, height = 0, frames = 1;
  List<float> latents;  // the final ones
  List<char> sampler;   // what it was drawn with
  u32 steps = 0;
  // `parameters` and `ondevice`, the texts of the picture's file as the Python package writes them.
  List<char> parameters, ondevice;
  double seconds_to_first_step = 0, seconds_of_steps = 0, seconds_of_decoder = 0;
};

// The file of a picture, or of one frame: a PNG with its parameters inside.
bool encode_drawn(const Drawn& drawn, u32 frame, List<u8>& out, Error& error);

class Drawing {
 public:
  ~Drawing();
  // Refuses a pipeline that asks for what this player does not do. Reads the tokenizers. Code::bundle.
  bool open(Bundle& bundle, Session& session, Error& error);
  void close();
  // Code::usage for what cannot be had; Code::numeric where a step's result is not finite; Code::cancelled.
  bool draw(const Request& request, const Watch& watch, Drawn& out, Error& error);

 private:
  Bundle* bundle_ = nullptr;
  Session* session_ = nullptr;
  List<Tokenizer*> tokenizers_;
};

}  // namespace od
