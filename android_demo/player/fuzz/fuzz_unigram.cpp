// T5's tokenizer and a text: "UNIGRAM\0TEXT\0" and the table of replacements.
#include "support/fuzz.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  const Bytes json = fuzz::part({data, size}, 0), text = fuzz::part({data, size}, 1);
  const size_t before = json.count + text.count + 2;
  const Bytes table = before < size ? Bytes{data + before, size - before} : Bytes();
  const NamedFile files[] = {{"unigram.json", json}, {"charsmap.bin", table}};
  Error error;
  Tokenizer tokenizer;
  List<i32> ids;
  size_t cut = 0;
  if (!tokenizer.open_unigram({files, 2}, "tokenizers/x", 77, error) ||
      !tokenizer.encode({reinterpret_cast<const char*>(text.data), text.count}, ids, &cut, error)) {
    fuzz::check_error(error);
    return 0;
  }
  fuzz::remember({data, size});
  OD_HOLDS(ids.size() == 77 && !tokenizer.has_start());
  for (const i32 id : ids) OD_HOLDS(id >= 0);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_json(data, size, most, seed);
}
