#include "bundle/arena.h"

#include "base/sort.h"

namespace od {
namespace {

constexpr i32 kNever = -2, kBefore = -1;  // times beside those of the dispatches

// A set of numbers below 64^3 that finds the neighbours of one: a bit each, and a bit for each word that has any.
class Numbers {
 public:
  bool open(size_t count) {
    for (auto& level : levels_) {
      count = count / 64 + 1;
      if (!level.resize(count)) return false;
    }
    return true;
  }
  void add(u32 number) {
    for (auto& level : levels_) {
      level[number / 64] |= u64(1) << number % 64;
      number /= 64;
    }
  }
  void remove(u32 number) {
    for (auto& level : levels_) {
      level[number / 64] &= ~(u64(1) << number % 64);
      if (level[number / 64]) return;
      number /= 64;
    }
  }
  // The largest below `number` and the smallest above it; kNone where there is none.
  i32 below(u32 number) const {
    for (u32 k = 0; k < kLevels; ++k) {
      if (const u64 found = levels_[k][number / 64] & ((u64(1) << number % 64) - 1)) {
        number = number / 64 * 64 + 63 - u32(__builtin_clzll(found));
        while (k-- > 0) number = number * 64 + 63 - u32(__builtin_clzll(levels_[k][number]));
        return static_cast<i32>(number);
      }
      number /= 64;
    }
    return kNone;
  }
  i32 above(u32 number) const {
    for (u32 k = 0; k < kLevels; ++k) {
      if (const u64 found = levels_[k][number / 64] & ~((u64(2) << number % 64) - 1)) {
        number = number / 64 * 64 + u32(__builtin_ctzll(found));
        while (k-- > 0) number = number * 64 + u32(__builtin_ctzll(levels_[k][number]));
        return static_cast<i32>(number);
      }
      number /= 64;
    }
    return kNone;
  }

 private:
  static constexpr u32 kLevels = 3;
  List<u64> levels_[kLevels];
};

// When operands are needed: by operand, from the dispatch that writes it first to the last that uses it.
struct Lives {
  List<i32> first, last;
  List<u32> born;  // operands in the order in which they are first written

  bool open(size_t operands) {
    if (!first.resize(operands) || !last.resize(operands)) return false;
    for (size_t i = 0; i < operands; ++i) first[i] = last[i] = kNever;
    return true;
  }
  bool write(u32 operand, i32 time) {
    if (first[operand] == kNever) {
      first[operand] = time;
      if (!born.push(operand)) return false;
    }
    last[operand] = time;
    return true;
  }
};

u32 home(const Plan& plan, u32 operand) {
  const i32 view = plan.operands[operand].view;
  return view == kNone ? operand : static_cast<u32>(view);
}

bool follow(const Checker& check, const Plan& plan, const Manifest& manifest, Lives& lives) {
  const Place calls("dispatches"), outputs("outputs");
  const auto no_memory = [&] { return Pool::no_memory(check.error(), sizeof(u32)); };
  for (const u32 input : plan.inputs) {
    if (!lives.write(input, kBefore)) return no_memory();
  }
  for (size_t t = 0; t < plan.dispatches.count; ++t) {
    const Dispatch& call = plan.dispatches[t];
    const Place at = calls.item(t), places = at.field("operands");
    const size_t reads = plan.kernels[call.kernel].inputs;
    for (size_t k = 0; k < call.operands.count; ++k) {
      const u32 index = home(plan, call.operands[k]);
      const Operand& operand = plan.operands[index];
      if (k < reads) {
        if (operand.weight != kNone) continue;
        if (lives.first[index] == kNever) {
          return check.fail(places.item(k), "reads %s before anything writes it", shown(operand.name).text);
        }
        lives.last[index] = static_cast<i32>(t);
        continue;
      }
      if (operand.weight != kNone) {
        return check.fail(places.item(k), "writes the weight %s (expected an operand of the arena)",
                          shown(manifest.weights[static_cast<u32>(operand.weight)].key).text);
      }
      for (size_t other = 0; other < k; ++other) {
        if (home(plan, call.operands[other]) == index) {
          return check.fail(places.item(k), "writes %s, which it also uses", shown(operand.name).text);
        }
      }
      if (!lives.write(index, static_cast<i32>(t))) return no_memory();
    }
  }
  for (size_t i = 0; i < plan.outputs.count; ++i) {
    const u32 index = plan.outputs[i];
    if (lives.first[index] == kNever) {
      return check.fail(outputs.item(i), "is %s, which nothing writes", shown(plan.operands[index].name).text);
    }
    lives.last[index] = static_cast<i32>(plan.dispatches.count);
  }
  return true;
}

bool overlap(const Operand& a, const Operand& b) {
  return a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
}

// Operands that are needed together are kept by their offsets, so that a new one meets its neighbours only: those that
// are there already share nothing.
bool check_lives(const Checker& check, const Plan& plan, const Lives& lives) {
  const auto& operands = plan.operands;
  List<u32> order, rank, next;  // operands by offset; the place of each there; who dies at the same time
  List<i32> dying;              // the first operand that is last used at a time, from kBefore on
  Numbers needed;               // ranks
  if (!rank.resize(operands.count) || !next.resize(operands.count) || !dying.resize(plan.dispatches.count + 2) ||
      !needed.open(operands.count)) {
    return Pool::no_memory(check.error(), operands.count * sizeof(u32));
  }
  for (const u32 index : lives.born) {
    if (!order.push(index)) return Pool::no_memory(check.error(), sizeof(u32));
  }
  sort(order.span(), [&](u32 a, u32 b) {
    return operands[a].offset != operands[b].offset ? operands[a].offset < operands[b].offset : a < b;
  });
  for (u32 i = 0; i < order.size(); ++i) rank[order[i]] = i;
  for (i32& operand : dying) operand = kNone;
  for (const u32 index : lives.born) {
    i32& head = dying[static_cast<size_t>(lives.last[index] + 1)];
    next[index] = static_cast<u32>(head);
    head = static_cast<i32>(index);
  }
  i32 time = kBefore;
  for (const u32 index : lives.born) {
    for (; time < lives.first[index]; ++time) {
      for (i32 dead = dying[static_cast<size_t>(time + 1)]; dead != kNone;
           dead = static_cast<i32>(next[static_cast<u32>(dead)])) {
        needed.remove(rank[static_cast<u32>(dead)]);
      }
    }
    const i32 neighbours[] = {needed.below(rank[index]), needed.above(rank[index])};
    for (const i32 near : neighbours) {
      if (near == kNone) continue;
      const u32 other = order[static_cast<u32>(near)];
      if (!overlap(operands[index], operands[other])) continue;
      const Place at("operands");
      return check.fail(at.item(index), "(%s) overlaps operands[%u] (%s) while both are needed",
                        shown(operands[index].name).text, other, shown(operands[other].name).text);
    }
    needed.add(rank[index]);
  }
  return true;
}

}  // namespace

bool check_images(const Checker& check, const Plan& plan) {
  struct Taken {
    bool known;
    u64 images[2];  // a bit for each argument
  };
  List<Taken> taken;
  if (!taken.resize(plan.kernels.count)) return Pool::no_memory(check.error(), plan.kernels.count * sizeof(Taken));
  const Place calls("dispatches");
  for (size_t t = 0; t < plan.dispatches.count; ++t) {
    const Dispatch& call = plan.dispatches[t];
    const Place at = calls.item(t), places = at.field("operands");
    Taken own = {true, {}};
    size_t last = 0;
    for (size_t k = 0; k < call.operands.count; ++k) {
      if (plan.operands[call.operands[k]].view == kNone) continue;
      own.images[k / 64] |= u64(1) << k % 64;
      last = k;
    }
    if ((own.images[0] || own.images[1]) && last >= plan.kernels[call.kernel].inputs) {
      return check.fail(places.item(last), "writes the image %s (expected a buffer)",
                        shown(plan.operands[call.operands[last]].name).text);
    }
    Taken& before = taken[call.kernel];
    if (!before.known) before = own;
    for (size_t k = 0; k < call.operands.count; ++k) {
      const bool image = before.images[k / 64] >> k % 64 & 1;
      if (image == bool(own.images[k / 64] >> k % 64 & 1)) continue;
      return check.fail(places.item(k), "is another kind than before (expected %s)", image ? "an image" : "a buffer");
    }
  }
  return true;
}

bool check_arena(const Checker& check, const Plan& plan, const Manifest& manifest) {
  Lives lives;
  if (!lives.open(plan.operands.count)) {
    return Pool::no_memory(check.error(), plan.operands.count * sizeof(i32) * 2);
  }
  return follow(check, plan, manifest, lives) && check_lives(check, plan, lives);
}

}  // namespace od
