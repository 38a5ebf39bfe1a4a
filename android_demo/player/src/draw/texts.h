// The texts of one picture as the passes read them: parts, and chunks of tokens (docs/pipeline.md, "Texts").
#pragma once

#include "base/base.h"
#include "bundle/pipeline.h"
#include "text/chunks.h"
#include "text/prompt.h"
#include "text/tokenizer.h"

namespace od {

// What signs in a text mean: nothing; or how weights act on states (docs/prompts.md).
enum class Emphasis : u8 { none, mean, compel };
constexpr const char* kEmphases[] = {"none", "mean", "compel"};
// How a text is read that is longer than an encoder takes at once: its beginning; in chunks, and an error where the
// bundle has no plans for so many; in as many chunks as it has plans for.
enum class Long : u8 { truncate, chunk, fit };
constexpr const char* kLengths[] = {"truncate", "chunk"};  // that a user may ask for

class Texts {
 public:
  Texts(const Pipeline& pipeline, Span<Tokenizer* const> tokenizers) : pipeline_(pipeline), tokenizers_(tokenizers) {}
  ~Texts();
  Texts(const Texts&) = delete;

  // Divide the given texts into parts. Those of a text follow each other; one that was not given has one.
  bool open(Span<const Text> texts, Span<const bool> given, Emphasis emphasis, Error& error);
  // Read a text's parts, of `most` chunks. Code::usage where it has more, or is no UTF-8 or too long.
  bool read(i32 text, Long how, u32 most, Error& error);

  size_t count() const { return parts_.size(); }
  // Parts of a text: from the first to before the end.
  i32 first(i32 text) const { return firsts_[static_cast<size_t>(text)]; }
  i32 end(i32 text) const { return firsts_[static_cast<size_t>(text) + 1]; }
  i32 text_of(i32 part) const { return parts_[static_cast<size_t>(part)].text; }
  bool given(i32 part) const { return parts_[static_cast<size_t>(part)].given; }
  float weight(i32 part) const {
    return part == kNone ? 1 : static_cast<float>(parts_[static_cast<size_t>(part)].weight);
  }
  // How many chunks a part has, by the tokenizer that gives most; 1 of no part.
  u32 chunks(i32 part) const { return part == kNone ? 1 : parts_[static_cast<size_t>(part)].chunks; }
  // Tokens of one of them; none of a chunk that this tokenizer does not give.
  Span<const Token> tokens(i32 part, i32 tokenizer, u32 chunk) const;
  Emphasis emphasis() const { return emphasis_; }
  // Whether signs of a text mean anything.
  bool has_signs(i32 text) const;

 private:
  struct Part {
    i32 text;
    bool given;
    double weight;
    Text words;
    Span<Section> sections;
    Span<Chunks*> read;  // by tokenizer; null where no role uses it
    u32 chunks;
  };
  bool may_have_parts(i32 text) const;
  bool is_used(size_t tokenizer) const;
  bool read_part(Part& part, Long how, u32 most, Error& error);

  const Pipeline& pipeline_;
  Span<Tokenizer* const> tokenizers_;
  Emphasis emphasis_ = Emphasis::none;
  Pool pool_;
  List<Part> parts_;
  List<i32> firsts_;
};

}  // namespace od
