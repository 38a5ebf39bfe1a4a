// The part of a session that loads weights a block at a time.
#include <stdio.h>

#include "base/os.h"
#include "device/session.h"

namespace od {
namespace {

constexpr u64 kStep = u64(16) << 20;  // bytes that are copied at once
constexpr u64 kUnit = 512;            // of a weight's place

}  // namespace

void Session::stream(const Streaming& how) {
  if (how == streaming_) return;
  Error ignored;
  device_.finish(ignored);
  unbind();
  for (Shard& shard : shards_) unload(shard);
  shards_.clear();
  device_.release(window_);
  streaming_ = how;
  if (how.on) give_back_freed();  // what comes and goes beside weights is not to stay for good
  streamed_most_ = 0;
}

bool Session::passes(u32 weight) const {
  return streaming_.on && !streaming_.mapped && !(changed_ && changed_->has(weight));
}

bool Session::make_streamed(const Plan& plan, Bound& bound, Error& error) {
  Streamed& made = *bound.streamed;
  const size_t count = made.window.blocks.count;
  if (!bound_pool_.array(made.touched, count, error) || !bound_pool_.array(made.fetched, count, error) ||
      !bound_pool_.array(made.lent, count, error)) {
    return false;
  }
  for (u32 i = 0; i < count; ++i) {
    const Block& block = made.window.blocks[i];
    if (!find_pieces(plan, block, true, made.touched[i], error) ||
        !find_pieces(plan, block, !streaming_.mapped, made.fetched[i], error) ||
        (!streaming_.mapped && !lend(plan, bound, i, error))) {
      return false;
    }
  }
  return true;
}

// Where a block's weights are in their files, those that follow each other there and in the window as one piece; all of
// them, or those that a dispatch reads as a whole.
bool Session::find_pieces(const Plan& plan, const Block& block, bool all, Span<Piece>& out, Error& error) {
  List<Piece> pieces;
  for (const Placed& one : block.weights) {
    bool whole = all;
    for (u32 number = block.first; number < block.end && !whole; ++number) {
      const Dispatch& dispatch = plan.dispatches[number];
      for (const u32 index : dispatch.operands) {
        const Operand& given = plan.operands[index];
        const Operand& operand = given.view == kNone ? given : plan.operands[static_cast<size_t>(given.view)];
        whole = whole || (operand.weight == static_cast<i32>(one.weight) && operand.bytes <= dispatch.reads);
      }
    }
    if (!whole) continue;
    const WeightEntry& entry = bundle_.manifest().weights[one.weight];
    const u64 until = entry.offset + entry.bytes;
    if (!pieces.empty()) {
      Piece& last = pieces.back();
      const bool together = last.file == entry.file && entry.offset >= last.until && entry.offset - last.until < kUnit &&
                            entry.offset - last.from == one.place - last.place;
      if (together) {
        last.until = until;
        continue;
      }
    }
    if (!pieces.push({entry.file, entry.offset, until, one.place})) return Pool::no_memory(error, sizeof(Piece));
  }
  if (!bound_pool_.array(out, pieces.size(), error)) return false;
  for (size_t i = 0; i < pieces.size(); ++i) out[i] = pieces[i];
  return true;
}

// Buffers of a block's weights in the window, and images over these.
bool Session::lend(const Plan& plan, Bound& bound, u32 index, Error& error) {
  const Block& block = bound.streamed->window.blocks[index];
  List<Lent> made;
  bool good = true;
  const auto give = [&](u32 operand) -> Buffer* {
    for (Lent& one : made) {
      if (one.operand == operand) return &one.buffer;
    }
    const auto weight = static_cast<u32>(plan.operands[operand].weight);
    for (const Placed& one : block.weights) {
      if (one.weight != weight) continue;
      Buffer part;
      good = good && device_.part(window_, one.place, plan.operands[operand].bytes, part, error);
      if (good && !made.push({operand, part})) {
        device_.release(part);
        good = Pool::no_memory(error, sizeof part);
      }
      return good ? &made.back().buffer : nullptr;
    }
    return nullptr;
  };
  for (u32 number = block.first; number < block.end && good; ++number) {
    for (const u32 operand : plan.dispatches[number].operands) {
      const Operand& used = plan.operands[operand];
      const bool view = used.view != kNone;
      const u32 home = view ? static_cast<u32>(used.view) : operand;
      if (plan.operands[home].weight == kNone || !passes(static_cast<u32>(plan.operands[home].weight))) continue;
      const Buffer* buffer = give(home);
      bool known = !view;
      for (const Lent& one : made) known = known || one.operand == operand;
      if (!buffer || known) continue;
      char what[700];
      snprintf(what, sizeof what, "%.*s: %.*s", OD_TEXT(bound.name), OD_TEXT(plan.operands[home].name));
      Buffer image;
      good = device_.image(*buffer, used.width, used.height, plan.operands[home].dtype, what, image, error);
      if (good && !made.push({operand, image})) {
        device_.release(image);
        good = Pool::no_memory(error, sizeof image);
      }
    }
  }
  Span<Lent>& out = bound.streamed->lent[index];
  good = good && bound_pool_.array(out, made.size(), error);
  for (size_t i = 0; i < made.size(); ++i) {
    if (good) out[i] = made[i];
    if (!good) device_.release(made[i].buffer);
  }
  return good;
}

// Before a dispatch is launched: load the block that it begins.
bool Session::enter_block(Bound& bound, u32 number, const List<cl_event>& events, Error& error) {
  Streamed& streamed = *bound.streamed;
  const Span<Block> blocks = streamed.window.blocks;
  if (streamed.loaded == blocks.count || blocks[streamed.loaded].first != number) return true;
  const u32 index = streamed.loaded;
  const Block& block = blocks[index];
  if (block.after > streamed.done) {
    if (!device_.wait(events[blocks[block.after - 1].end - 1], error)) return false;
    leave_blocks(bound, block.after);
  }
  ++streamed.loaded;
  streamed_now_ += block.bytes;
  streamed_most_ = max(streamed_most_, streamed_now_);
  for (const Piece& piece : streamed.fetched[index]) {
    if (!load_piece(piece, error)) return false;
  }
  for (const Piece& piece : index + 1 < blocks.count ? streamed.fetched[index + 1] : Span<Piece>()) {
    bundle_.expect(piece.file, piece.from, piece.until - piece.from);
  }
  for (const Lent& one : streamed.lent[index]) bound.buffers[one.operand] = one.buffer;
  return true;
}

bool Session::load_piece(const Piece& piece, Error& error) {
  if (streaming_.mapped) return bundle_.fetch(piece.file, piece.from, piece.until - piece.from, error);
  Bytes data;
  if (!bundle_.shard(piece.file, data, error)) return false;
  for (u64 at = piece.from; at < piece.until; at += kStep) {
    const u64 end = min(at + kStep, piece.until);
    if (!bundle_.fetch(piece.file, at, end - at, error) ||
        !device_.fill(window_, piece.place + at - piece.from, data.slice(at, end), error)) {
      return false;
    }
    bundle_.forget(piece.file, at, end - at);
  }
  return true;
}

// Give back blocks whose dispatches are done, or given up.
void Session::leave_blocks(Bound& bound, u32 until) {
  Streamed& streamed = *bound.streamed;
  for (u32 index = streamed.done; index < until; ++index) {
    streamed_now_ -= streamed.window.blocks[index].bytes;
    for (const Piece& piece : streaming_.mapped ? streamed.touched[index] : Span<Piece>()) {
      bundle_.forget(piece.file, piece.from, piece.until - piece.from);
    }
  }
  streamed.done = until;
}

}  // namespace od
