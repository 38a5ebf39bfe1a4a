// Tokens as a tokenizer's settings name them, in the order of transformers 5's CLIPTokenizer.
#pragma once

#include "bundle/checker.h"

namespace od {

constexpr size_t kMaxAdded = 1 << 16, kLongestAdded = 512;  // tokens; letters of one

struct NamedToken {
  Text content;
  bool single_word = false, lstrip = false, rstrip = false, special = false;
  bool says_normalized = false, normalized = false;

  // Special tokens are found in a text as it was typed, others in its normal form, where no flag says otherwise.
  bool is_normalized() const { return says_normalized ? normalized : !special; }
};

// A token as some file names it.
struct TokenEntry {
  enum class Kind : u8 { stated, named, extra };

  NamedToken token;
  Kind kind;
  i32 stated;  // its id by `added_tokens_decoder`, else -1
};

// The tokens that a model needs by name. What the unknown is must be in the vocabulary itself.
struct TokenRoles {
  Text start, end, unknown, pad;
};

// Entries of `config` (tokenizer_config.json) and `map` (special_tokens_map.json), each perhaps null: first those with
// ids, ordered by these, then the special ones. Texts stay the JSON's. Code::bundle.
bool read_named_tokens(const Json* config, const Json* map, const Checker& check, List<TokenEntry>& out,
                       TokenRoles& roles);

}  // namespace od
