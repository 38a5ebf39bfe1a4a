// What CLIP's tokenizer is made of, read from files that nobody vouches for (docs/tokenizer.md, "Files in a bundle").
#pragma once

#include "base/base.h"
#include "base/json.h"

namespace od {

struct NamedFile {
  Text name;
  Bytes bytes;
};

constexpr size_t kMaxTokens = 1 << 20;

// The smallest power of two that leaves half of a table of `count` entries free.
size_t table_size(size_t count);
// Spreads keys that a hostile file chose; `seed` differs from run to run.
u64 mixed(u64 key, u64 seed);
u64 new_seed();

// Ids of texts; the texts stay the JSON's.
class TokenIds {
 public:
  // Of an object token -> id, each id there once.
  bool read(const Json& vocab, Text where, Error& error);
  // The id of `first` and `second` joined; -1 where there is none.
  i32 find(Text first, Text second = {}) const;
  bool given(i32 id) const { return id >= 0 && id <= highest_ && taken_[size_t(id) / 64] >> (id % 64) & 1; }
  size_t count() const { return members_.count; }

 private:
  struct Slot {
    const char* text;  // null: a free place
    u32 size, tag;     // bytes, and bits of the hash
    i32 id;
  };
  u64 hash(Text first, Text second) const;
  Span<Member> members_;
  List<Slot> slots_;
  List<u64> taken_;  // ids, one bit each
  i32 highest_ = -1;
  u64 seed_ = 0;
};

// Pairs of ids that become one, best first.
class Merges {
 public:
  struct Merge {
    i32 left, right;  // -1: a free place
    u32 rank;
    i32 id;
  };
  bool reserve(size_t count, Pool& pool, Error& error);
  // A pair that is there already takes the later rank.
  void add(const Merge& merge);
  const Merge* find(i32 left, i32 right) const;

 private:
  Merge* place(i32 left, i32 right) const;
  Span<Merge> slots_;
  u64 seed_ = 0;
};

// A token that is found whole in a text.
struct AddedToken {
  Text content;
  Text sought;  // what it is looked for by: its content, or that in the normal form
  i32 id;
  bool single_word, lstrip, rstrip;
  bool normal;  // it is looked for in the text's normal form
  u32 vectors;  // how many tokens its name stands for in a prompt: NAME, NAME_1...
};

// Added tokens, ordered by `sought`, bytewise.
struct AddedTokens {
  Span<AddedToken> tokens;
  bool begins[256];  // bytes that one of them begins with
};

struct Vocabulary {
  i32 letters[2][256];  // of each byte: within a word, and as its last
  Merges merges;
  AddedTokens plain, normal;  // looked for in a text as it is, and in its normal form
  // Those of several vectors, ordered by id.
  Span<AddedToken> several;
  i32 start, end, pad;
};

// Code::bundle, naming `where`/FILE. What is found lives in `pool`.
bool read_vocabulary(Span<const NamedFile> files, Text where, Pool& pool, Vocabulary& out, Error& error);

// The part of it that is added tokens and the names of the special ones (`config`: tokenizer_config.json, `map`:
// special_tokens_map.json, each perhaps null). `unknown`: the id for what the vocabulary lacks.
bool read_added_tokens(const Json* config, const Json* map, Text where, const TokenIds& ids, Pool& pool,
                       Vocabulary& out, i32& unknown, Error& error);

}  // namespace od
