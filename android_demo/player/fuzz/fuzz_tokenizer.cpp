// A tokenizer's files and a text: "VOCABULARY\0MERGES\0MAP\0CONFIG\0TEXT"; of the map and the config one may be empty.
#include "support/fuzz.h"
#include "text/chunks.h"
#include "text/prompt.h"
#include "text/tokenizer.h"

namespace {

// Every text that a tokenizer takes can be read as a prompt: no token is lost, and chunks have their length.
void read_as_prompt(od::Text text, const od::Tokenizer& tokenizer) {
  using namespace od;
  Pool pool;
  Error error;
  Span<PromptPart> parts;
  OD_HOLDS(read_prompt(text, true, true, pool, parts, error) && parts.count);
  for (const PromptPart& part : parts) {
    Chunks chunks, straight;
    if (!chunks.read(part.sections, tokenizer, false, error) || !straight.read(part.sections, tokenizer, true, error)) {
      return od::fuzz::check_error(error);
    }
    size_t count = 0;
    for (size_t i = 0; i < chunks.count(); ++i) {
      List<i32> ids;
      OD_HOLDS(chunks[i].count <= 75 && pad(chunks[i], tokenizer, kNoPiece, ids) && ids.size() == 77);
      count += chunks[i].count;
      for (const Token& token : chunks[i]) OD_HOLDS(token.weight >= -1000 && token.weight <= 1000);
    }
    for (size_t i = 0; i < straight.count(); ++i) count -= straight[i].count;
    OD_HOLDS(chunks.count() && straight.count() && count == 0);
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  const char* const names[] = {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"};
  NamedFile files[4];
  size_t count = 0;
  for (u32 i = 0; i < 4; ++i) {
    const Bytes bytes = fuzz::part({data, size}, i);
    if (bytes.count) files[count++] = {names[i], bytes};
  }
  const Bytes text = fuzz::part({data, size}, 4);
  Error error;
  Tokenizer tokenizer;
  List<i32> ids;
  size_t cut = 0;
  if (!tokenizer.open({files, count}, "tokenizers/x", 77, error) ||
      !tokenizer.encode({reinterpret_cast<const char*>(text.data), text.count}, ids, &cut, error)) {
    fuzz::check_error(error);
    return 0;
  }
  fuzz::remember({data, size});
  OD_HOLDS(ids.size() == 77 && tokenizer.length() == 77);
  for (const i32 id : ids) OD_HOLDS(id >= 0);
  read_as_prompt({reinterpret_cast<const char*>(text.data), text.count}, tokenizer);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_json(data, size, most, seed);
}
