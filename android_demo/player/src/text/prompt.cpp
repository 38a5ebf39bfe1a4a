#include "text/prompt.h"

#include <string.h>

#include "base/json.h"
#include "base/os.h"
#include "text/unicode.h"

namespace od {
namespace {

constexpr double kRound = 1.1, kSquare = 1 / 1.1;  // what brackets without a number multiply with
constexpr double kLargest = 1000;                  // of a weight, either sign

double bounded(double weight) { return min(max(weight, -kLargest), kLargest); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_escaped(char c) { return c == '(' || c == ')' || c == '[' || c == ']' || c == '\\'; }

size_t skip_spaces(Text text, size_t at) {
  u32 letter;
  while (at < text.size) {
    const size_t size = decode_letter(text.slice(at, text.size), letter);
    if (!size || !is_space(letter)) break;
    at += size;
  }
  return at;
}

Text without_spaces_at_end(Text text) {
  size_t end = text.size;
  while (end) {
    size_t begin = end - 1;
    while (begin && (text.data[begin] & 0xc0) == 0x80) --begin;
    u32 letter;
    if (!decode_letter(text.slice(begin, end), letter) || !is_space(letter)) break;
    end = begin;
  }
  return text.slice(0, end);
}

// The end of ":", a number and `spaces`, from the colon at `at` on; 0 where there is something else.
size_t number_after(Text text, size_t at, double& number) {
  const size_t begin = skip_spaces(text, at + 1);
  size_t end = begin, digits = 0, dots = 0;
  if (end < text.size && (text.data[end] == '+' || text.data[end] == '-')) ++end;
  for (; end < text.size && (is_digit(text.data[end]) || (text.data[end] == '.' && !dots)); ++end) {
    ++(text.data[end] == '.' ? dots : digits);
  }
  if (!digits) return 0;
  size_t first = begin + !(is_digit(text.data[begin]) || text.data[begin] == '.');
  while (first + 1 < end && text.data[first] == '0') ++first;  // so that what counts is not far away
  number = bounded(read_number(text.slice(first, end)));
  if (text.data[begin] == '-') number = -number;
  return skip_spaces(text, end);
}

// The next `word` from `at` on that has no word's letter before or after it; the text's size where there is none.
size_t find_word(Text text, Text word, size_t at) {
  for (; at + word.size <= text.size; ++at) {
    const auto* found = static_cast<const char*>(memchr(text.data + at, word.data[0], text.size - at));
    if (!found) break;
    at = static_cast<size_t>(found - text.data);
    const size_t end = at + word.size;
    if (!text.slice(at, text.size).starts_with(word)) continue;
    if ((!at || !is_word(text.data[at - 1])) && (end == text.size || !is_word(text.data[end]))) return at;
  }
  return text.size;
}

class Reader {
 public:
  Reader(Pool& pool, Error& error) : pool_(pool), error_(error) {}

  bool read(Text text, bool signs, bool parts, Span<PromptPart>& out) {
    List<PromptPart> found;
    for (size_t begin = 0;;) {
      const size_t end = parts && signs ? find_word(text, "AND", begin) : text.size;
      PromptPart part = {1, {}};
      Text words = text.slice(begin, end);
      if (begin || end < text.size) take_weight(words, part.weight);
      if (!(signs ? read_signs(words) : add(words)) || !join(part.sections) || !found.push(part)) return no_memory();
      if (end == text.size) break;
      begin = end + 3;
    }
    if (!pool_.array(out, found.size(), error_)) return false;
    memcpy(out.data, found.begin(), found.size() * sizeof(PromptPart));
    return true;
  }

 private:
  // A BREAK where `breaks`.
  struct Mark {
    Piece piece;
    bool breaks;
  };

  bool no_memory() { return error_ ? false : Pool::no_memory(error_, sizeof(Mark)); }

  // ":0.7" at the end of a part.
  static void take_weight(Text& words, double& weight) {
    for (size_t at = words.size; at-- > 0;) {
      if (words.data[at] != ':') continue;
      double number;
      if (number_after(words, at, number) != words.size) return;
      weight = number;
      words = words.slice(0, at);
      return;
    }
  }

  bool read_signs(Text text) {
    size_t done = 0;
    const auto sign = [&](size_t at, size_t size) {
      const bool good = add_between(text.slice(done, at));
      done = at + size;
      return good;
    };
    for (size_t at = 0; at < text.size; at = max(at + 1, done)) {
      const char c = text.data[at];
      double number = 0;
      if (c == '\\') {
        const size_t escaped = at + 1 < text.size && is_escaped(text.data[at + 1]);
        if (!sign(at, 1 + escaped) || (escaped && !add(text.slice(at + 1, at + 2)))) return false;
      } else if (c == ':') {
        const size_t end = number_after(text, at, number);
        if (!end || end == text.size || text.data[end] != ')') continue;
        if (!sign(at, end + 1 - at)) return false;
        if (!(close(round_, number) || add(text.slice(at, end + 1)))) return false;
      } else if (c == '(' || c == '[') {
        if (!sign(at, 1) || !(c == '(' ? round_ : square_).push(marks_.size())) return false;
      } else if (c == ')' || c == ']') {
        if (!sign(at, 1)) return false;
        if (!(c == ')' ? close(round_, kRound) : close(square_, kSquare)) && !add(text.slice(at, at + 1))) return false;
      }
    }
    if (!add_between(text.slice(done, text.size))) return false;
    close_all(round_, kRound);
    close_all(square_, kSquare);
    return true;
  }

  bool add(Text text) { return !text.size || marks_.push({{text, 1}, false}); }

  // Text between signs, and the BREAKs in it.
  bool add_between(Text text) {
    for (size_t begin = 0;;) {
      const size_t end = find_word(text, "BREAK", begin);
      if (end == text.size) return add(text.slice(begin, text.size));
      if (!add(without_spaces_at_end(text.slice(begin, end))) || !marks_.push({{{}, 1}, true})) return false;
      begin = skip_spaces(text, end + 5);
    }
  }

  bool close(List<size_t>& opened, double factor) {
    if (opened.empty()) return false;
    for (size_t i = opened.back(); i < marks_.size(); ++i) multiply(marks_[i], factor);
    opened.pop();
    return true;
  }

  // Brackets that nothing closes reach to the end, in the order in which they were opened.
  void close_all(List<size_t>& opened, double factor) {
    size_t before = 0;
    for (size_t i = 0; i < marks_.size(); ++i) {
      while (before < opened.size() && opened[before] <= i) ++before;
      for (size_t k = 0; k < before; ++k) {
        const double weight = marks_[i].piece.weight;
        multiply(marks_[i], factor);
        if (marks_[i].piece.weight == weight) break;  // it will not change any more
      }
    }
    opened.clear();
  }

  static void multiply(Mark& mark, double factor) { mark.piece.weight = bounded(mark.piece.weight * factor); }

  // Sections of what was found; neighbours of one weight are one piece.
  bool join(Span<Section>& out) {
    size_t breaks = 0;
    for (const Mark& mark : marks_) breaks += mark.breaks;
    if (!pool_.array(out, breaks + 1, error_)) return false;
    List<Piece> pieces;
    size_t section = 0;
    for (size_t i = 0; i <= marks_.size(); ++i) {
      if (i == marks_.size() || marks_[i].breaks) {
        Span<Piece>& own = out[section++].pieces;
        if (!pool_.array(own, pieces.size(), error_)) return false;
        if (pieces.size()) memcpy(own.data, pieces.begin(), pieces.size() * sizeof(Piece));
        pieces.clear();
        continue;
      }
      size_t end = i + 1, bytes = marks_[i].piece.text.size;
      while (end < marks_.size() && !marks_[end].breaks && marks_[end].piece.weight == marks_[i].piece.weight) {
        bytes += marks_[end++].piece.text.size;
      }
      Piece joined = marks_[i].piece;
      if (end > i + 1) {
        Span<char> letters;
        if (!pool_.array(letters, bytes, error_)) return false;
        size_t at = 0;
        for (; i < end; ++i) {
          memcpy(letters.data + at, marks_[i].piece.text.data, marks_[i].piece.text.size);
          at += marks_[i].piece.text.size;
        }
        joined.text = {letters.data, bytes};
        --i;
      }
      if (!pieces.push(joined)) return false;
    }
    marks_.clear();
    return true;
  }

  Pool& pool_;
  Error& error_;
  List<Mark> marks_;
  List<size_t> round_, square_;  // where brackets that are not closed yet begin
};

}  // namespace

bool read_prompt(Text text, bool signs, bool parts, Pool& pool, Span<PromptPart>& out, Error& error) {
  return Reader(pool, error).read(text, signs, parts, out);
}

}  // namespace od
