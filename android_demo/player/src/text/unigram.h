// T5's tokenizer: of all ways to cut a text into pieces the likeliest (docs/tokenizer.md, "Unigram").
#pragma once

#include "base/base.h"
#include "text/charsmap.h"
#include "text/vocabulary.h"

namespace od {

class Unigram {
 public:
  // Of a bundle's files, which may go afterwards; added tokens and the special ids go to `out`. Code::bundle, naming
  // `where`/FILE.
  bool open(Span<const NamedFile> files, Text where, Vocabulary& out, Error& error);
  // Ids of a text between added tokens, in the end of `ids`. False where there is no memory; `too_long` where a text
  // would have more than 2^20 letters.
  bool cut(Text text, List<i32>& ids, bool& too_long) const;
  // The id of a piece; -1 where there is none.
  i32 find(Text piece) const;

 private:
  struct Slot {
    Text text;  // of size 0: a free place
    double score;
    i32 id;
  };
  bool read_pieces(const Json& whole, Text where, List<bool>& plain, Error& error);
  bool read_added(const Json& whole, Text where, const List<bool>& plain, const Json& pieces, Vocabulary& out,
                  Error& error);
  Slot& place(Text text, u64 hash) const;

  Pool pool_;
  Charsmap charsmap_;
  Span<Slot> slots_;
  bool lengths_[129] = {};  // letters that pieces have
  u32 longest_ = 0;
  double least_ = 0;  // of a letter that no piece is
  i32 unknown_ = 0;
  u64 seed_ = 0;
};

}  // namespace od
