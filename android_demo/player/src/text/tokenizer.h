// CLIP's tokenizer, or T5's (docs/tokenizer.md): a text -> the ids that a text encoder reads, from the files of a
// bundle.
#pragma once

#include "base/base.h"
#include "bundle/bundle.h"
#include "text/vocabulary.h"

namespace od {

class Unigram;

class Tokenizer {
 public:
  Tokenizer() = default;
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  // Of a bundle's tokenizer. Code::bundle where a file is damaged or of a kind that this player cannot read.
  bool open(Bundle& bundle, const TokenizerEntry& entry, Error& error);
  // Of files in memory, which may go afterwards; `where` is their folder, for messages, and `length` at least 1.
  bool open(Span<const NamedFile> files, Text where, u32 length, Error& error);
  // The same of T5's kind.
  bool open_unigram(Span<const NamedFile> files, Text where, u32 length, Error& error);

  // `length` ids of a text: start, ids, end and padding. Several vectors of one added token are spelled out first.
  // `cut` (may be null) says how many ids of the text found no room. Code::usage for a text that is no UTF-8 or of more
  // than 2^20 letters.
  bool encode(Text text, List<i32>& ids, size_t* cut, Error& error) const;
  // All ids of a text, without start and end, however many. Code::usage as above.
  bool ids(Text text, List<i32>& ids, Error& error) const;
  u32 length() const { return length_; }
  i32 start() const { return vocabulary_.start; }
  i32 end() const { return vocabulary_.end; }
  i32 padding() const { return vocabulary_.pad; }
  bool has_start() const { return !unigram_; }
  // Tokens that a chunk has room for, between its start and its end.
  u32 room() const { return length_ > 1u + has_start() ? length_ - 1 - has_start() : 0; }
  i32 comma() const;  // of one that ends a word, as most do; -1: there is none

 private:
  bool spell(Text text, List<char> (&spelled)[2], Text& out, Error& error) const;
  Pool pool_;
  Vocabulary vocabulary_;
  Unigram* unigram_ = nullptr;
  u32 length_ = 0;
};

}  // namespace od
