#include "draw/texts.h"

#include <stdio.h>

namespace od {

Texts::~Texts() {
  for (const Part& part : parts_) {
    for (Chunks* one : part.read) destroy(one);
  }
}

// Whether all passes of a text are compared with another: what guidance adds to.
bool Texts::may_have_parts(i32 text) const {
  bool found = false;
  for (const Loop& loop : pipeline_.denoise) {
    for (u32 i = 0; i < loop.passes.count; ++i) {
      if (loop.passes[i].text != text) continue;
      bool plus = false, other = loop.first == i;
      for (const Add& add : loop.add) {
        plus = plus || add.plus == i;
        other = other || add.minus == i;
      }
      if (!plus || other) return false;
      found = true;
    }
  }
  return found;
}

bool Texts::open(Span<const Text> texts, Span<const bool> given, Emphasis emphasis, Error& error) {
  emphasis_ = emphasis;
  const bool signs = emphasis != Emphasis::none;
  for (size_t i = 0; i < texts.count; ++i) {
    const auto text = static_cast<i32>(i);
    Span<PromptPart> parts;
    if (!read_prompt(texts[i], signs, may_have_parts(text), pool_, parts, error)) return false;
    if (!firsts_.push(static_cast<i32>(parts_.size()))) return Pool::no_memory(error, sizeof(i32));
    for (const PromptPart& one : parts) {
      if (!parts_.push({text, given[i], one.weight, texts[i], one.sections, {}, 1})) {
        return Pool::no_memory(error, sizeof(Part));
      }
    }
  }
  return firsts_.push(static_cast<i32>(parts_.size())) || Pool::no_memory(error, sizeof(i32));
}

bool Texts::is_used(size_t tokenizer) const {
  const auto reads = [&](const Role& role) {
    for (const Feed& feed : role.feeds) {
      if (feed.kind == Feed::Kind::tokens && feed.index == static_cast<i32>(tokenizer)) return true;
    }
    return false;
  };
  for (const Step& step : pipeline_.before) {
    if (step.kind == Step::Kind::run && reads(step.role)) return true;
  }
  for (const Loop& loop : pipeline_.denoise) {
    for (const Role& role : loop.roles) {
      if (reads(role)) return true;
    }
  }
  return false;
}

bool Texts::read(i32 text, Long how, u32 most, Error& error) {
  for (i32 part = first(text); part < end(text); ++part) {
    if (!read_part(parts_[static_cast<size_t>(part)], how, most, error)) return false;
  }
  return true;
}

bool Texts::read_part(Part& part, Long how, u32 most, Error& error) {
  const Text name = pipeline_.texts[static_cast<size_t>(part.text)].name;
  if (!pool_.array(part.read, tokenizers_.count, error)) return false;
  const bool straight = how == Long::truncate || (how == Long::fit && most == 1);
  size_t wanted = 1;
  for (size_t i = 0; i < tokenizers_.count; ++i) {
    if (!is_used(i)) continue;
    part.read[i] = construct<Chunks>();
    if (!part.read[i]) return Pool::no_memory(error, sizeof(Chunks));
    if (!part.read[i]->read(part.sections, *tokenizers_[i], straight, error)) return false;
    wanted = max(wanted, part.read[i]->count());
  }
  if (how == Long::chunk && wanted > most) {
    char fix[96];
    snprintf(fix, sizeof fix, "convert with `--chunks %zu`, or use --long truncate", wanted);
    return fail(error, Code::usage, name, fix, "it takes %zu chunks of tokens, and the bundle has plans for %u.",
                wanted, most);
  }
  part.chunks = straight ? 1 : static_cast<u32>(min<size_t>(wanted, most));
  for (size_t i = 0; i < tokenizers_.count; ++i) {
    const size_t left_out = part.read[i] ? part.read[i]->left_out(part.chunks) : 0;
    if (!left_out) continue;
    log(Level::warning, "%zu tokens of the text %.*s are over the %u that the model reads%s", left_out, OD_TEXT(name),
        part.chunks * tokenizers_[i]->length(), how == Long::fit ? "; convert with --chunks for more" : "");
    break;
  }
  return true;
}

Span<const Token> Texts::tokens(i32 part, i32 tokenizer, u32 chunk) const {
  const Part& from = parts_[static_cast<size_t>(part)];
  const Chunks* chunks = from.read.count ? from.read[static_cast<size_t>(tokenizer)] : nullptr;
  return chunks && chunk < from.chunks ? (*chunks)[chunk] : Span<const Token>();
}

bool Texts::has_signs(i32 text) const {
  if (end(text) - first(text) > 1) return true;
  const Part& part = parts_[static_cast<size_t>(first(text))];
  const Span<Section> sections = part.sections;
  if (sections.count != 1) return true;
  const Span<Piece> pieces = sections[0].pieces;
  return pieces.count > 1 || (pieces.count == 1 && (pieces[0].weight != 1 || pieces[0].text != part.words));
}

}  // namespace od
