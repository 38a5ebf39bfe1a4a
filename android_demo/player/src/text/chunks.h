// Tokens of a text, cut into chunks that a text encoder takes (docs/prompts.md, "Reading a text").
#pragma once

#include "base/base.h"
#include "text/prompt.h"
#include "text/tokenizer.h"

namespace od {

// An id, its weight, and which of the text's pieces it is of.
struct Token {
  i32 id;
  u32 piece;
  double weight;
};

// A text's tokens, without starts and ends.
class Chunks {
 public:
  // At least one chunk of up to `length` - 2 tokens. `straight`: each is full, and BREAK and commas count for nothing.
  // Code::usage as `Tokenizer::encode`.
  bool read(Span<const Section> sections, const Tokenizer& tokenizer, bool straight, Error& error);

  size_t count() const { return ends_.size(); }
  // Tokens of a chunk; none of one that is not there.
  Span<const Token> operator[](size_t chunk) const;
  // Tokens that are in none of the first chunks.
  size_t left_out(size_t first) const;

 private:
  List<Token> tokens_;
  List<size_t> ends_;  // of each chunk, in `tokens_`
};

// What an encoder reads: the start, the tokens' ids but for those of a piece (kNoPiece: of none), the end and padding.
constexpr u32 kNoPiece = ~u32(0);
bool pad(Span<const Token> tokens, const Tokenizer& tokenizer, u32 without, List<i32>& ids);

}  // namespace od
