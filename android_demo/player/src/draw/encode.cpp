// A text encoder's runs for the chunks of a text, and what becomes of their states (docs/prompts.md, "Weighted
// states").
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "draw/run.h"

namespace od {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kLeast = 1e-5;  // of a weight that says how far to go towards a text without the piece

bool is_weighted(Span<const Token> tokens) {
  for (const Token& token : tokens) {
    if (token.weight != 1) return true;
  }
  return false;
}

double mean(const List<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value);
  return sum / static_cast<double>(values.size());
}

// f32 per position of what an encoder read, which is the tokens without a piece; 1 of the start, the end and padding.
bool weights_of(Span<const Token> tokens, u32 without, const Tokenizer& tokenizer, List<float>& out) {
  out.clear();
  if (tokenizer.has_start() && !out.push(1)) return false;
  for (const Token& token : tokens) {
    if (token.piece != without && !out.push(static_cast<float>(token.weight))) return false;
  }
  while (out.size() < tokenizer.length()) {
    if (!out.push(1)) return false;
  }
  return true;
}

// States times weights, brought back to the mean that they had.
void keep_mean(const List<float>& weights, List<float>& states) {
  const double before = mean(states);
  const size_t width = states.size() / weights.size();
  for (size_t i = 0; i < states.size(); ++i) states[i] = weights[i / width] * states[i];
  const double after = mean(states);
  const float ratio = after != 0 ? static_cast<float>(before / after) : 1.0f;
  for (float& value : states) value = ratio * value;
}

// States moved away from the empty text's by their weights.
void move(const List<float>& weights, const List<float>& empty, List<float>& states) {
  const size_t width = states.size() / weights.size();
  for (size_t i = 0; i < states.size(); ++i) {
    const float weight = weights[i / width];
    if (weight != 1) states[i] = empty[i] + weight * (states[i] - empty[i]);
  }
}

// The tokenizer that a role's texts are cut by; kNone where it reads none.
i32 tokenizer_of(const Role& role) {
  for (const Feed& feed : role.feeds) {
    if (feed.kind == Feed::Kind::tokens) return feed.index;
  }
  return kNone;
}

}  // namespace

// What a role outside of the loop makes of a text, or of none: of several chunks and of weighted ones the states are
// put together here, and of all else the first chunk's is kept.
bool Run::run_text(const Role& role, const Plan& plan, i32 part, Error& error) {
  const i32 tokenizer = part == kNone ? kNone : tokenizer_of(role);
  const u32 chunks = tokenizer == kNone ? 1 : texts_.chunks(part);
  bool weighted = false;
  for (u32 i = 0; i < chunks && tokenizer != kNone; ++i) {
    weighted = weighted || (texts_.emphasis() != Emphasis::none && is_weighted(texts_.tokens(part, tokenizer, i)));
  }
  reading_ = {0, kNoPiece};
  Feeds feeds(session_);
  if (!feed_role(role, plan, part, feeds, error) || !run_and_keep(role, plan, feeds, part, error)) return false;
  if (chunks == 1 && !weighted) return true;
  for (const Keep& keep : role.keeps) {
    const Kept& first = values_.at(keep.value, part);
    const u32 length = tokenizers_[static_cast<size_t>(tokenizer)]->length();
    const Shape shape = first.shape;
    if (shape.rank != 3 || shape.dims[0] != 1 || shape.dims[1] != length) continue;
    List<float> states, all;
    for (u32 i = 0; i < chunks; ++i) {
      if (!weighted_states(role, plan, keep, part, i, states, error)) return false;
      for (const float value : states) {
        if (!all.push(value)) return Pool::no_memory(error, sizeof value);
      }
    }
    Shape joined = shape;
    joined.dims[1] = chunks * length;
    DeviceValue made;
    if (!put_floats(all.span(), first.device.dtype, joined, made, error)) return false;
    values_.keep(keep.value, part, made);
  }
  return true;
}

// f32 states of a chunk as its weights make them.
bool Run::weighted_states(const Role& role, const Plan& plan, const Keep& keep, i32 part, u32 chunk,
                          List<float>& states, Error& error) {
  const i32 tokenizer = tokenizer_of(role);
  const Span<const Token> tokens = texts_.tokens(part, tokenizer, chunk);
  const Tokenizer& own = *tokenizers_[static_cast<size_t>(tokenizer)];
  const u32 length = own.length();
  List<float> weights;
  // The first chunk's are there: they are kept until all are put together.
  const bool made = chunk ? encode(role, plan, keep, part, {chunk, kNoPiece}, states, error)
                          : values_.host(values_.at(keep.value, part), states, error);
  if (!made) return false;
  if (texts_.emphasis() == Emphasis::none || !is_weighted(tokens)) return true;
  if (!weights_of(tokens, kNoPiece, own, weights)) return Pool::no_memory(error, length * sizeof(float));
  if (texts_.emphasis() == Emphasis::mean) {
    keep_mean(weights, states);
    return true;
  }
  // compel: and, for pieces of weights below 1, towards the states of the text without them.
  List<float> empty, other;
  if (!encode(role, plan, keep, part, {kNoChunk, kNoPiece}, empty, error)) return false;
  move(weights, empty, states);
  struct Lessened {
    u32 piece;
    double part;
  };
  List<Lessened> pieces;
  double total = 1;
  for (size_t i = 0; i < tokens.count; ++i) {
    if (!(tokens[i].weight < 1) || (i && tokens[i].piece == tokens[i - 1].piece)) continue;
    const double towards = tan((1 - max(tokens[i].weight, kLeast)) * kPi / 2);
    if (!pieces.push({tokens[i].piece, towards})) return Pool::no_memory(error, sizeof(Lessened));
    total += towards;
  }
  const auto whole = static_cast<float>(1 / total);
  for (float& value : states) value = whole * value;
  for (const Lessened& one : pieces) {
    if (!encode(role, plan, keep, part, {chunk, one.piece}, other, error)) return false;
    if (!weights_of(tokens, one.piece, own, weights)) return Pool::no_memory(error, length * sizeof(float));
    move(weights, empty, other);
    const auto factor = static_cast<float>(one.part / total);
    for (size_t i = 0; i < states.size(); ++i) states[i] = states[i] + factor * other[i];
  }
  return true;
}

// f32 states of a chunk, or of one without a piece.
bool Run::encode(const Role& role, const Plan& plan, const Keep& keep, i32 part, Reading reading, List<float>& out,
                 Error& error) {
  reading_ = reading;
  Feeds feeds(session_);
  DeviceValue value;
  Output output;
  output.port = keep.port;
  output.value = &value;
  const bool made =
      feed_role(role, plan, part, feeds, error) && session_.run(plan, feeds.inputs(), {&output, 1}, error);
  reading_ = {0, kNoPiece};
  if (!made) return false;
  const bool read = values_.host(value, out, error);
  session_.drop(value);
  return read;
}

// A value on the device of numbers that are f32 here.
bool Run::put_floats(Span<const float> values, Dtype dtype, const Shape& shape, DeviceValue& out, Error& error) {
  if (dtype != Dtype::f16) {
    return session_.put({reinterpret_cast<const u8*>(values.data), values.count * sizeof(float)}, dtype, shape, out,
                        error);
  }
  List<u16> halves;
  if (!halves.resize(values.count)) return Pool::no_memory(error, values.count * sizeof(u16));
  for (size_t i = 0; i < values.count; ++i) halves[i] = to_half(values[i]);
  return session_.put({reinterpret_cast<const u8*>(halves.begin()), values.count * sizeof(u16)}, dtype, shape, out,
                      error);
}

}  // namespace od
