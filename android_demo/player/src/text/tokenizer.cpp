#include "text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/sort.h"
#include "text/unicode.h"
#include "text/unigram.h"

namespace od {
namespace {

constexpr size_t kMaxLetters = 1 << 20;  // of a text, all vectors spelled out

// The length of the word at the beginning of a text in normal form, which begins with no space.
size_t word_at(Text text) {
  static constexpr const char* kEndings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
  if (text.data[0] == '\'') {
    for (const char* ending : kEndings) {
      if (text.starts_with(ending)) return strlen(ending);
    }
  }
  constexpr u8 kinds = kLetter | kNumber;
  u32 letter;
  size_t end = decode_letter(text, letter);
  const auto kind = static_cast<u8>(class_of(letter) & kinds);
  if (kind == kNumber) return end;
  while (end < text.size) {
    const size_t size = decode_letter({text.data + end, text.size - end}, letter);
    if (letter == ' ' || (class_of(letter) & kinds) != kind) break;
    end += size;
  }
  return end;
}

// The longest token that a text begins with; null where there is none. Tokens are ordered by `sought`.
const AddedToken* longest(Span<AddedToken> tokens, Text text) {
  const AddedToken* found = nullptr;
  size_t low = 0, high = tokens.count;
  for (size_t depth = 0; low < high; ++depth) {
    // All of low..high begin with the first `depth` bytes of the text; the shortest of them is first.
    if (tokens[low].sought.size == depth) {
      found = &tokens[low++];
      if (low == high) break;
    }
    if (high - low == 1) return text.starts_with(tokens[low].sought) ? &tokens[low] : found;
    if (depth == text.size) break;
    const auto byte = static_cast<u8>(text.data[depth]);
    const auto first_from = [&](int least) {
      size_t from = low, to = high;
      while (from < to) {
        const size_t middle = (from + to) / 2;
        if (static_cast<u8>(tokens[middle].sought.data[depth]) < least) {
          from = middle + 1;
        } else {
          to = middle;
        }
      }
      return from;
    };
    const size_t begin = first_from(byte);
    high = first_from(byte + 1);
    low = begin;
  }
  return found;
}

// The last letter of a text.
u32 letter_before(Text text) {
  size_t size = 1;
  while (size < text.size && (text.data[text.size - size] & 0xc0) == 0x80) ++size;
  u32 letter = 0;
  decode_letter({text.data + text.size - size, size}, letter);
  return letter;
}

u32 letter_after(Text text) {
  u32 letter = 0;
  decode_letter(text, letter);
  return letter;
}

size_t spaces_before(Text text) {
  size_t size = 0;
  for (char bytes[4]; size < text.size;) {
    const u32 letter = letter_before({text.data, text.size - size});
    if (!is_space(letter)) break;
    size += encode_letter(letter, bytes);
  }
  return size;
}

size_t spaces_after(Text text) {
  size_t size = 0;
  while (size < text.size) {
    u32 letter;
    const size_t one = decode_letter({text.data + size, text.size - size}, letter);
    if (!is_space(letter)) break;
    size += one;
  }
  return size;
}

// Ids of one text, the start and the end not among them. Every function gives whether there was memory.
class Encoder {
 public:
  // Ids go to `ids` until it holds `room`; of those of several vectors, each once, to `named` (either may be null).
  Encoder(const Vocabulary& vocabulary, const Unigram* unigram, List<i32>* ids, size_t room, List<u32>* named)
      : vocabulary_(vocabulary), unigram_(unigram), ids_(ids), room_(room), named_(named) {}

  bool text(Text whole) {
    if (unigram_)
      return find(whole, vocabulary_.plain, [&](Text piece) { return unigram_->cut(piece, *ids_, too_long_); });
    return find(whole, vocabulary_.plain, [&](Text piece) {
      return normal_form(piece, letters_, normal_) &&
             find({normal_.begin(), normal_.size()}, vocabulary_.normal, [&](Text rest) { return words(rest); });
    });
  }
  size_t count() const { return count_; }
  bool too_long() const { return too_long_; }

 private:
  // Cut added tokens out of a text; `piece` is called with all that lies between.
  template <class Piece>
  bool find(Text text, const AddedTokens& added, Piece piece) {
    size_t done = 0, spaces_from = 0, spaces_end = 0;
    for (size_t at = 0; at < text.size;) {
      const AddedToken* token = added.begins[static_cast<u8>(text.data[at])]
                                    ? longest(added.tokens, {text.data + at, text.size - at})
                                    : nullptr;
      if (!token) {
        ++at;
        continue;
      }
      size_t begin = at, end = at + token->sought.size;
      at = end;
      const Text before(text.data, begin), after(text.data + end, text.size - end);
      if (token->single_word) {
        if (before.size && class_of(letter_before(before)) & kWord) continue;
        if (after.size && class_of(letter_after(after)) & kWord) continue;
      }
      // Spaces before it belong to it as far as the token before.
      if (token->lstrip && begin > done) begin -= spaces_before({text.data + done, begin - done});
      if (token->rstrip) {
        if (end < spaces_from || end >= spaces_end) {
          spaces_from = end;
          spaces_end = end + spaces_after(after);
        }
        end = spaces_end;
      }
      if (done < begin && !piece(Text(text.data + done, begin - done))) return false;
      if (!give(token->id)) return false;
      done = end;
    }
    return done >= text.size || piece(Text(text.data + done, text.size - done));
  }

  bool words(Text text) {
    // These two are cut off before signs are taken together, and then cut into signs, letters and signs.
    static constexpr const char* kWhole[] = {"<|startoftext|>", "<|endoftext|>"};
    while (text.size) {
      size_t end = 1;
      if (text.data[0] != ' ') {
        end = 0;
        for (const Text whole : kWhole) {
          if (!text.starts_with(whole)) continue;
          end = whole.size;
          if (!word(text.slice(0, 2)) || !word(text.slice(2, end - 2)) || !word(text.slice(end - 2, end))) return false;
        }
        if (!end) {
          end = word_at(text);
          if (!word(text.slice(0, end))) return false;
        }
      }
      text = text.slice(end, text.size);
    }
    return true;
  }

  // Byte-level pairs of a word: while two neighbours are a pair of merges.txt, the best, most to the left, becomes one.
  bool word(Text text) {
    const auto count = static_cast<u32>(text.size);
    pieces_.clear();
    best_.clear();
    if (!pieces_.resize(count)) return false;
    for (u32 i = 0; i < count; ++i) {
      pieces_[i] = {vocabulary_.letters[i + 1 == count][static_cast<u8>(text.data[i])], i - 1, i + 1};
    }
    for (u32 i = 0; i + 1 < count; ++i) {
      if (!offer(i)) return false;
    }
    while (!best_.empty()) {
      const u64 first = take();
      const auto at = static_cast<u32>(first);
      Piece& left = pieces_[at];
      if (left.id < 0 || left.next >= count) continue;
      Piece& right = pieces_[left.next];
      const Merges::Merge* merge = vocabulary_.merges.find(left.id, right.id);
      if (!merge || merge->rank != first >> 32) continue;  // one of them has changed since
      left.id = merge->id;
      left.next = right.next;
      right.id = -1;
      if (left.next < count) pieces_[left.next].previous = at;
      if (at && !offer(left.previous)) return false;
      if (left.next < count && !offer(at)) return false;
    }
    for (u32 i = 0; i < count; i = pieces_[i].next) {
      if (!give(pieces_[i].id)) return false;
    }
    return true;
  }

  // Consider the piece at `at` and the one after it for a merge.
  bool offer(u32 at) {
    const Merges::Merge* merge = vocabulary_.merges.find(pieces_[at].id, pieces_[pieces_[at].next].id);
    if (!merge) return true;
    size_t place = best_.size();
    const u64 key = u64(merge->rank) << 32 | at;
    if (!best_.push(key)) return false;
    for (; place && best_[(place - 1) / 2] > key; place = (place - 1) / 2) best_[place] = best_[(place - 1) / 2];
    best_[place] = key;
    return true;
  }

  // The best merge of the heap.
  u64 take() {
    const u64 first = best_[0], last = best_.back();
    best_.pop();
    const size_t count = best_.size();
    size_t place = 0;
    for (size_t child; (child = 2 * place + 1) < count; place = child) {
      if (child + 1 < count && best_[child + 1] < best_[child]) ++child;
      if (best_[child] >= last) break;
      best_[place] = best_[child];
    }
    if (count) best_[place] = last;
    return first;
  }

  bool give(i32 id) {
    ++count_;
    if (ids_ && ids_->size() < room_ && !ids_->push(id)) return false;
    if (!named_) return true;
    const AddedToken* found = find_sorted(vocabulary_.several, [&](const AddedToken& token) { return token.id - id; });
    if (!found) return true;
    const auto index = static_cast<u32>(found - vocabulary_.several.data);
    if (seen_.size() <= index && !seen_.resize(vocabulary_.several.count)) return false;
    if (seen_[index]) return true;
    seen_[index] = true;
    return named_->push(index);
  }

  struct Piece {
    i32 id;  // -1: it is part of the one before
    u32 previous, next;
  };

  const Vocabulary& vocabulary_;
  const Unigram* unigram_;
  bool too_long_ = false;
  List<i32>* ids_;
  size_t room_;
  List<u32>* named_;
  size_t count_ = 0;
  List<u32> letters_;
  List<char> normal_;
  List<Piece> pieces_;
  List<u64> best_;   // heap of merges: rank and place
  List<bool> seen_;  // of `several`
};

bool append(List<char>& out, Text text) {
  for (const u8 byte : text.bytes()) {
    if (!out.push(static_cast<char>(byte))) return false;
  }
  return true;
}

// How many letters a text has; -1 where it is no UTF-8.
i64 letters_of(Text text) {
  i64 count = 0;
  u32 letter;
  for (size_t size; text.size; text = text.slice(size, text.size), ++count) {
    size = decode_letter(text, letter);
    if (!size) return -1;
  }
  return count;
}

// `text` with each NAME written as NAME NAME_1 NAME_2..., inside other words as well. Stops where it is too long.
bool spell_out(Text text, const AddedToken& token, List<char>& out) {
  const Text name = token.content;
  out.clear();
  for (size_t at = 0; at < text.size && out.size() <= 4 * kMaxLetters;) {
    const Text rest = text.slice(at, text.size);
    if (!rest.starts_with(name)) {
      const auto* next = static_cast<const char*>(memchr(rest.data + 1, name.data[0], rest.size - 1));
      const size_t size = next ? static_cast<size_t>(next - rest.data) : rest.size;
      if (!append(out, rest.slice(0, size))) return false;
      at += size;
      continue;
    }
    at += name.size;
    if (!append(out, name)) return false;
    for (u32 i = 1; i < token.vectors && out.size() <= 4 * kMaxLetters; ++i) {
      char number[16];
      const int size = snprintf(number, sizeof number, "_%u", i);
      if (!out.push(' ') || !append(out, name) || !append(out, {number, static_cast<size_t>(size)})) return false;
    }
  }
  return true;
}

bool no_memory(Error& error) { return Pool::no_memory(error, kMaxLetters); }

}  // namespace

Tokenizer::~Tokenizer() { destroy(unigram_); }

bool Tokenizer::open_unigram(Span<const NamedFile> files, Text where, u32 length, Error& error) {
  destroy(unigram_);
  vocabulary_ = {};
  length_ = length;
  unigram_ = construct<Unigram>();
  return unigram_ ? unigram_->open(files, where, vocabulary_, error) : Pool::no_memory(error, sizeof(Unigram));
}

i32 Tokenizer::comma() const { return unigram_ ? unigram_->find(",") : vocabulary_.letters[1][static_cast<u8>(',')]; }

bool Tokenizer::open(Span<const NamedFile> files, Text where, u32 length, Error& error) {
  pool_.clear();
  vocabulary_ = {};
  length_ = length;
  return read_vocabulary(files, where, pool_, vocabulary_, error);
}

// A text with all vectors of the tokens that it names.
bool Tokenizer::spell(Text text, List<char> (&spelled)[2], Text& out, Error& error) const {
  const i64 letters = letters_of(text);
  if (letters < 0) {
    return fail(error, Code::usage, "prompt", "pass it as UTF-8", "the prompt is not valid Unicode.");
  }
  if (letters > i64(kMaxLetters)) {
    return fail(error, Code::usage, "prompt", "shorten it", "it is too long (got %lld letters, expected at most %zu).",
                static_cast<long long>(letters), kMaxLetters);
  }
  out = text;
  if (vocabulary_.several.empty()) return true;
  List<u32> named;
  Encoder finder(vocabulary_, nullptr, nullptr, 0, &named);
  if (!finder.text(text)) return no_memory(error);
  for (size_t i = 0; i < named.size(); ++i) {
    const AddedToken& token = vocabulary_.several[named[i]];
    if (!spell_out(out, token, spelled[i % 2])) return no_memory(error);
    out = {spelled[i % 2].begin(), spelled[i % 2].size()};
    if (out.size > 4 * kMaxLetters || letters_of(out) > i64(kMaxLetters)) {
      return fail(error, Code::usage, "prompt", "name the token less often",
                  "it is too long with all vectors of '%.*s'.",
                  OD_TEXT(token.content.slice(0, min<size_t>(token.content.size, 80))));
    }
  }
  return true;
}

bool Tokenizer::ids(Text text, List<i32>& ids, Error& error) const {
  List<char> spelled[2];
  if (!spell(text, spelled, text, error)) return false;
  ids.clear();
  Encoder encoder(vocabulary_, unigram_, &ids, ~size_t(0), nullptr);
  if (!encoder.text(text)) return no_memory(error);
  return !encoder.too_long() || fail(error, Code::usage, "prompt", "use a shorter text",
                                     "it is too long (more than %zu letters).", kMaxLetters);
}

bool Tokenizer::encode(Text text, List<i32>& out, size_t* cut, Error& error) const {
  List<i32> own;
  if (!ids(text, own, error)) return false;
  const size_t kept = min<size_t>(own.size(), room());
  out.clear();
  if (has_start() && length_ > 1 && !out.push(vocabulary_.start)) return no_memory(error);
  for (size_t i = 0; i < kept; ++i) {
    if (!out.push(own[i])) return no_memory(error);
  }
  if (!out.push(vocabulary_.end)) return no_memory(error);
  while (out.size() < length_) {
    if (!out.push(vocabulary_.pad)) return no_memory(error);
  }
  if (cut) *cut = own.size() - kept;
  return true;
}

}  // namespace od
