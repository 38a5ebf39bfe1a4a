// A tokenizer of a bundle: its files, each checked against its hash.
#include <stdio.h>

#include "bundle/checker.h"
#include "text/tokenizer.h"

namespace od {

bool Tokenizer::open(Bundle& bundle, const TokenizerEntry& entry, Error& error) {
  char where[192];
  snprintf(where, sizeof where, "tokenizers/%.*s", OD_TEXT(entry.name));
  List<NamedFile> files;
  for (const Text name : entry.files) {
    char path[384];
    const int size = snprintf(path, sizeof path, "%s/%.*s", where, OD_TEXT(name));
    NamedFile file{name, {}};
    if (!bundle.read({path, static_cast<size_t>(size)}, kMaxJson, file.bytes, error)) return false;
    if (!files.push(file)) return Pool::no_memory(error, sizeof file);
  }
  const Span<const NamedFile> all = {files.begin(), files.size()};
  return entry.kind == TokenizerKind::unigram ? open_unigram(all, where, entry.length, error)
                                              : open(all, where, entry.length, error);
}

}  // namespace od
