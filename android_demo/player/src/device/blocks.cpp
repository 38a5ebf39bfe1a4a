#include "device/blocks.h"

#include <stdio.h>

#include "device/device.h"

namespace od {
namespace {

constexpr u64 kUnit = 512;            // bytes; of a weight's place in a buffer
constexpr u64 kBlock = u64(32) << 20;  // bytes of a block where nobody says

u64 whole_units(u64 bytes) { return (bytes + kUnit - 1) / kUnit * kUnit; }

// Weights in the order of their first use.
struct Reads {
  List<Placed> list;
  u64 total = 0;

  u64 of(u32 weight) const {
    for (const Placed& one : list) {
      if (one.weight == weight) return one.bytes;
    }
    return 0;
  }

  // Have at least as many bytes of a weight. Whether there was memory.
  bool add(u32 weight, u64 bytes) {
    for (Placed& one : list) {
      if (one.weight != weight) continue;
      total += bytes > one.bytes ? bytes - one.bytes : 0;
      one.bytes = max(one.bytes, bytes);
      return true;
    }
    total += bytes;
    return list.push({weight, 0, bytes});
  }
};

// What a dispatch reads of weights; of a table that is mapped no more than its rows.
bool read_by(const Plan& plan, const Dispatch& dispatch, bool mapped, const Changed* held, Reads& out) {
  for (const u32 index : dispatch.operands) {
    const Operand* operand = &plan.operands[index];
    if (operand->view != kNone) operand = &plan.operands[static_cast<size_t>(operand->view)];
    if (operand->weight == kNone || (held && held->has(static_cast<u32>(operand->weight)))) continue;
    const u64 bytes = mapped ? min(operand->bytes, dispatch.reads) : operand->bytes;
    if (!out.add(static_cast<u32>(operand->weight), whole_units(bytes))) return false;
  }
  return true;
}

}  // namespace

bool window_of(const Plan& plan, Text component, const Streaming& how, const Changed* held, Pool& pool, Window& out,
               Error& error) {
  out = {};
  const u64 given = how.bytes / kUnit * kUnit, most = how.bytes ? given / 2 : kBlock;
  List<Block> blocks;
  Reads here;
  const auto close = [&](u32 end) {  // the block that is open
    Block& block = blocks.back();
    block.end = end;
    block.bytes = here.total;
    if (!pool.array(block.weights, here.list.size(), error)) return false;
    for (size_t i = 0; i < here.list.size(); ++i) block.weights[i] = here.list[i];
    here.list.clear();
    here.total = 0;
    return true;
  };
  for (u32 number = 0; number < plan.dispatches.count; ++number) {
    Reads read;
    if (!read_by(plan, plan.dispatches[number], how.mapped, held, read)) return Pool::no_memory(error, sizeof(Placed));
    u64 more = 0;  // beside what the open block has
    for (const Placed& one : read.list) more += one.bytes > here.of(one.weight) ? one.bytes - here.of(one.weight) : 0;
    if (blocks.empty() || (more && !here.list.empty() && here.total + more > most)) {
      if (!blocks.empty() && !close(number)) return false;
      if (!blocks.push({number, 0, 0, 0, {}})) return Pool::no_memory(error, sizeof(Block));
    }
    for (const Placed& one : read.list) {
      if (!here.add(one.weight, one.bytes)) return Pool::no_memory(error, sizeof(Placed));
    }
  }
  if (!blocks.empty() && !close(static_cast<u32>(plan.dispatches.count))) return false;
  u64 least = 0, pairs = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    least = max(least, blocks[i].bytes);
    pairs = max(pairs, blocks[i].bytes + (i ? blocks[i - 1].bytes : 0));
  }
  if (how.bytes && least > given) {
    char fix[80];
    snprintf(fix, sizeof fix, "stream weights through %lluMB or more",
             static_cast<unsigned long long>((least + 999999) / 1000000));
    return fail(error, Code::device, component, fix,
                "a dispatch reads %s of weights, and the window has %s.", Megabytes(least).text, Megabytes(given).text);
  }
  out.bytes = how.bytes ? given : pairs;
  if (!pool.array(out.blocks, blocks.size(), error)) return false;
  for (u32 i = 0; i < blocks.size(); ++i) {
    Block& block = out.blocks[i] = blocks[i];
    const u64 both = block.bytes + (i ? blocks[i - 1].bytes : 0);
    block.after = both > out.bytes ? i : i ? i - 1 : 0;
    out.most = max(out.most, both > out.bytes ? block.bytes : both);
    u64 at = i % 2 ? out.bytes - block.bytes : 0;
    for (Placed& one : block.weights) {
      one.place = at;
      at += one.bytes;
    }
  }
  return true;
}

}  // namespace od
