#include "draw/draw.h"
#include "draw/run.h"
#include "picture/png.h"

namespace od {
bool encode_drawn(const Drawn& drawn, u32 frame, List<u8>& out, Error& error) {
  const PngText texts[] = {{"parameters", {drawn.parameters.begin(), drawn.parameters.size()}},
                           {"ondevice", {drawn.ondevice.begin(), drawn.ondevice.size()}}};
  const size_t count = size_t(3) * drawn.width * drawn.height;
  return encode_png(drawn.pixels.span().slice(frame * count, (frame + 1) * count), drawn.width, drawn.height,
                    {texts, 2}, out, error);
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
