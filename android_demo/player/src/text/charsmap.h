// sentencepiece's table of replacements: which letters of a text become which others before it is cut into pieces
// (docs/tokenizer.md, "Replacements"). A trie as a double array, then the replacements.
#pragma once

#include "base/base.h"

namespace od {

class Charsmap {
 public:
  // Of a file that stays where it is; empty: every letter stays. Code::bundle, naming `where`.
  bool open(Bytes data, Text where, Error& error);
  // The text with its replacements. False where there is no memory.
  bool replace(Text text, List<char>& out) const;

 private:
  u32 unit(u32 node) const;
  size_t longest(Text text, Text& replacement) const;
  bool replacement_at(u32 start, Text& out) const;

  Bytes units_;
  Text texts_;
};

}  // namespace od
