#include "draw/draw.h"
#include "draw/run.h"
#include "picture/png.h"

namespace od {
namespace {

bool refuse(Error& error, Text bundle, const char* what, Text name = {}) {
  return fail(error, Code::bundle, bundle, "install a newer player",
              "its pipeline asks for %s%.*s, which this version does not do.", what, OD_TEXT(name));
}

// Refuse words of docs/pipeline.md that are not here yet.
bool check_supported(const Pipeline& pipeline, Text bundle, Error& error) {
  for (const Given& given : pipeline.pictures) {
    if (!can_prepare(given.prepare)) return refuse(error, bundle, "another way to prepare the picture ", given.name);
  }
  if (pipeline.frames) return refuse(error, bundle, "frames");
  for (const Number& number : pipeline.numbers) {
    if (number.ramp_from != kNone) return refuse(error, bundle, "a number per frame, ", number.name);
  }
  return true;
}

}  // namespace

bool encode_drawn(const Drawn& drawn, List<u8>& out, Error& error) {
  const PngText texts[] = {{"parameters", {drawn.parameters.begin(), drawn.parameters.size()}},
                           {"ondevice", {drawn.ondevice.begin(), drawn.ondevice.size()}}};
  return encode_png(drawn.pixels.span(), drawn.width, drawn.height, {texts, 2}, out, error);
}

Drawing::~Drawing() { close(); }

void Drawing::close() {
  for (Tokenizer* one : tokenizers_) destroy(one);
  tokenizers_.clear();
}

bool Drawing::open(Bundle& bundle, Session& session, Error& error) {
  close();
  bundle_ = &bundle;
  session_ = &session;
  const Manifest& manifest = bundle.manifest();
  if (!manifest.draws) {
    return fail(error, Code::bundle, bundle.name(), "convert a whole checkpoint",
                "it holds plans, and no pipeline that draws with them.");
  }
  if (!check_supported(manifest.pipeline, bundle.name(), error)) return false;
  for (const TokenizerEntry& entry : manifest.tokenizers) {
    auto* tokenizer = construct<Tokenizer>();
    if (!tokenizer || !tokenizers_.push(tokenizer)) {
      destroy(tokenizer);
      return Pool::no_memory(error, sizeof(Tokenizer));
    }
    if (!tokenizer->open(bundle, entry, error)) return false;
  }
  return true;
}

bool Drawing::draw(const Request& request, const Watch& watch, Drawn& out, Error& error) {
  Run run(*bundle_, *session_, {tokenizers_.begin(), tokenizers_.size()}, request, watch);
  return run.draw(out, error);
}

}  // namespace od
