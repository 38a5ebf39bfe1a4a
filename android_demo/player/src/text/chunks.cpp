#include "text/chunks.h"

namespace od {
namespace {

constexpr size_t kBacktrack = 20;  // tokens after a comma that go into the next chunk with what does not fit any more

}  // namespace

bool Chunks::read(Span<const Section> sections, const Tokenizer& tokenizer, bool straight, Error& error) {
  tokens_.clear();
  ends_.clear();
  const size_t room = tokenizer.room();
  const auto no_memory = [&] { return Pool::no_memory(error, sizeof(Token)); };
  if (!room) return ends_.push(0) || no_memory();
  u32 piece = 0;
  size_t begin = 0;  // of the present chunk
  List<i32> ids;
  for (const Section& section : sections) {
    size_t comma = 0;  // one more than where the last comma of the chunk is; 0: there is none
    for (const Piece& one : section.pieces) {
      if (!tokenizer.ids(one.text, ids, error)) return false;
      for (const i32 id : ids) {
        const size_t at = tokens_.size();
        if (id == tokenizer.comma() && !straight) {
          comma = at + 1;
        } else if (at - begin == room && comma && at + 1 - comma <= kBacktrack) {
          if (!ends_.push(begin = comma)) return no_memory();
          comma = 0;
        }
        if (at - begin == room) {
          if (!ends_.push(begin = at)) return no_memory();
          comma = 0;
        }
        if (!tokens_.push({id, piece, one.weight})) return no_memory();
      }
      ++piece;
    }
    const bool last = &section == sections.end() - 1, nothing = begin == tokens_.size() && !ends_.empty();
    if (straight ? !last || nothing : last && nothing) continue;
    if (!ends_.push(begin = tokens_.size())) return no_memory();
  }
  return true;
}

Span<const Token> Chunks::operator[](size_t chunk) const {
  if (chunk >= ends_.size()) return {};
  return tokens_.span().slice(chunk ? ends_[chunk - 1] : 0, ends_[chunk]);
}

size_t Chunks::left_out(size_t first) const {
  return first < ends_.size() && first ? tokens_.size() - ends_[first - 1] : 0;
}

bool pad(Span<const Token> tokens, const Tokenizer& tokenizer, u32 without, List<i32>& ids) {
  ids.clear();
  if (tokenizer.has_start() && tokenizer.length() > 1 && !ids.push(tokenizer.start())) return false;
  for (const Token& token : tokens) {
    if (token.piece != without && !ids.push(token.id)) return false;
  }
  if (!ids.push(tokenizer.end())) return false;
  while (ids.size() < tokenizer.length()) {
    if (!ids.push(tokenizer.padding())) return false;
  }
  return true;
}

}  // namespace od
