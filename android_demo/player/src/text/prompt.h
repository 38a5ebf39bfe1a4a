// What people write into prompts beside words (docs/prompts.md, "Reading a text"): weights, BREAK and AND. Every text
// can be read.
#pragma once

#include "base/base.h"

namespace od {

// Text of one weight. It is made into tokens by itself.
struct Piece {
  Text text;
  double weight;
};

// What lies between two BREAKs.
struct Section {
  Span<Piece> pieces;
};

// What lies between two ANDs. At least one section.
struct PromptPart {
  double weight;
  Span<Section> sections;
};

// At least one part. `signs` false: all is text. `parts`: whether AND divides it. Texts are parts of `text`, or live in
// `pool`. False where there is no memory.
bool read_prompt(Text text, bool signs, bool parts, Pool& pool, Span<PromptPart>& out, Error& error);

}  // namespace od
