// The part of a session that gets a plan ready: memory, weights, programs and buffers.
#include <stdio.h>
#include <string.h>

#include "device/session.h"

namespace od {
namespace {

constexpr const char* kSmaller = "use a smaller --size, or another --device";

struct NeedWords {
  Need need;
  const char* words;
};
constexpr NeedWords kNeedWords[] = {
    {kHalf, "arithmetic in half precision"},
    {kSubgroups, "exchange between the work-items that run side by side"},
    {kImage2d, "operands that are read as images"},
    {kMatrixUnit, "products of small matrices in one instruction"},
    {kWaveConstants, "loads of constants for all work-items that run side by side at once"},
    {kUnknownNeed, "what only a later version of the player knows"},
};

bool same(Span<Define> a, Span<Define> b) {
  if (a.count != b.count) return false;
  for (size_t i = 0; i < a.count; ++i) {
    if (a[i].name != b[i].name || a[i].value != b[i].value) return false;
  }
  return true;
}

}  // namespace

bool Session::bind(const Plan& plan, Error& error) {
  if (find(plan) || bind_anew(plan, error)) return true;
  unbind();  // buffers of a plan that is half bound are among what is given back
  return false;
}

Session::Bound* Session::find(const Plan& plan) {
  for (Bound* bound : bound_) {
    if (bound->plan == &plan) return bound;
  }
  return nullptr;
}

bool Session::bind_anew(const Plan& plan, Error& error) {
  char sizes[400], name[600];
  const Text component = bundle_.manifest().components[plan.component].name;
  snprintf(name, sizeof name, "%.*s%s%s", OD_TEXT(component), plan.sizes.count ? " " : "",
           plan.sizes.shown(sizes, sizeof sizes));
  if (!check_needs(plan, name, error)) return false;
  Pool pool;
  Window window;
  if (streaming_.on && !window_of(plan, component, streaming_, changed_, pool, window, error)) return false;
  if (!make_room(plan, name, streaming_.on ? &window : nullptr, error)) return false;
  Bound* bound = bound_pool_.one<Bound>();
  if (!bound) return Pool::no_memory(error, sizeof(Bound));
  if (streaming_.on) {
    bound->streamed = bound_pool_.one<Streamed>();
    if (!bound->streamed) return Pool::no_memory(error, sizeof(Streamed));
    if (!window_of(plan, component, streaming_, changed_, bound_pool_, bound->streamed->window, error)) return false;
  }
  bound->plan = &plan;
  bound->name = bound_pool_.copy(name);
  if (!bound_pool_.array(bound->buffers, plan.operands.count, error) ||
      !bound_pool_.array(bound->programs, plan.kernels.count, error)) {
    return false;
  }
  if (!bound_.push(bound)) return Pool::no_memory(error, sizeof bound);
  return build_programs(plan, *bound, error) && make_buffers(plan, *bound, error) &&
         (!bound->streamed || make_streamed(plan, *bound, error));
}

// Before anything is built or loaded for it.
bool Session::check_needs(const Plan& plan, Text name, Error& error) const {
  const u32 lacks = plan.needs & ~(device_.facts().capabilities | kSpelled);
  if (!lacks) return true;
  char what[512] = "";
  for (const NeedWords& row : kNeedWords) {
    if (!(lacks & row.need)) continue;
    const size_t used = strlen(what);
    snprintf(what + used, sizeof what - used, "%s%s (%s)", used ? ", " : "",
             row.need == kUnknownNeed ? "more" : name_of(row.need), row.words);
  }
  return fail(error, Code::device, name, "convert for a --target of this device, or use another --device",
              "it needs %s, which %s has not.", what, device_.facts().name);
}

Session::Shard* Session::shard_of(u32 file) {
  for (Shard& shard : shards_) {
    if (shard.file == file) return &shard;
  }
  Shard shard = {};
  shard.file = file;
  shard.bytes = bundle_.manifest().files[file].bytes;
  return shards_.push(shard) ? &shards_.back() : nullptr;
}

// Say what the plan needs, check it against the device's memory before anything is loaded, and grow the arena to it.
bool Session::make_room(const Plan& plan, Text name, const Window* window, Error& error) {
  const Manifest& manifest = bundle_.manifest();
  for (const Operand& operand : plan.operands) {
    if (operand.weight == kNone) continue;
    Shard* shard = shard_of(manifest.weights[static_cast<size_t>(operand.weight)].file);
    if (!shard) return Pool::no_memory(error, sizeof(Shard));
    shard->users[plan.component / 64] |= u64(1) << plan.component % 64;
  }
  u64 fresh = window ? window->bytes : 0, copied = 0;
  const bool grows = window && !streaming_.mapped && window->bytes > window_.bytes;
  if (window && !streaming_.mapped) copied = max(window->bytes, window_.bytes);
  for (const Shard& shard : shards_) {
    if (window || shard.buffer.handle || !(shard.users[plan.component / 64] >> plan.component % 64 & 1)) continue;
    Bytes data;
    if (!bundle_.shard(shard.file, data, error)) return false;
    fresh += shard.bytes;
    if (!device_.maps(data)) copied += shard.bytes;
  }
  const u64 arena = max(plan.arena, arena_.bytes), weights = weight_bytes_ + copied + own_bytes(plan);
  log(Level::info, "%.*s: arena %s, %s %s%s", OD_TEXT(name), Megabytes(plan.arena).text,
      window ? "weights through" : "new weights", Megabytes(fresh).text, copied ? "" : " (mapped, not copied)");
  const u64 has = device_.facts().global_memory;
  const bool limited = memory_limit && (!has || memory_limit < has);
  const u64 most = limited ? memory_limit : has;
  if (most && arena + weights > most) {
    const Megabytes all(arena + weights), parts[] = {Megabytes(arena), Megabytes(weights)};
    if (limited) {
      return fail(error, Code::device, name, "use a smaller --size, or a higher limit",
                  "it needs %s (arena %s, weights %s), and the limit is %s.", all.text, parts[0].text, parts[1].text,
                  Megabytes(most).text);
    }
    return fail(error, Code::device, name, kSmaller, "it needs %s (arena %s, weights %s), and %s has %s.", all.text,
                parts[0].text, parts[1].text, device_.facts().name, Megabytes(most).text);
  }
  char what[700];
  if (grows) {
    unbind();  // their buffers are parts of the window that is given back
    device_.release(window_);
    snprintf(what, sizeof what, "%.*s: window of weights", OD_TEXT(name));
    if (!device_.allocate(window->bytes, what, window_, error)) return false;
  }
  if (plan.arena <= arena_.bytes) return true;
  unbind();  // and of the arena
  device_.release(arena_);
  snprintf(what, sizeof what, "%.*s: arena", OD_TEXT(name));
  return device_.allocate(plan.arena, what, arena_, error);
}

bool Session::build_programs(const Plan& plan, Bound& bound, Error& error) {
  const u32 count = static_cast<u32>(plan.kernels.count);
  for (u32 i = 0; i < count; ++i) {
    if (building) building(building_user, i, count);
    if (cancelled(plan, error) || !make_program(plan.kernels[i], bound.programs[i], error)) return false;
  }
  if (building) building(building_user, count, count);
  return true;
}

bool Session::make_program(const PlanKernel& kernel, u32& index, Error& error) {
  for (index = 0; index < programs_.size(); ++index) {
    if (programs_[index].file == kernel.file && same(programs_[index].defines, kernel.defines)) return true;
  }
  const Text file = bundle_.manifest().kernels[kernel.file];
  char where[600];
  int used = snprintf(where, sizeof where, "%.*s.cl", OD_TEXT(file));
  for (const Define& define : kernel.defines) {
    if (used < 0 || static_cast<size_t>(used) >= sizeof where) break;
    used += snprintf(where + used, sizeof where - static_cast<size_t>(used), " %.*s=%d", OD_TEXT(define.name),
                     static_cast<int>(define.value));
  }
  List<char> source;
  Built built = {kernel.file, kernel.defines, {}};
  if (!bundle_.source(kernel, "opencl", source, error) ||
      !device_.build(source.begin(), file, where, built.program, error)) {
    return false;
  }
  if (programs_.push(built)) return true;
  device_.release(built.program);
  return Pool::no_memory(error, sizeof built);
}

bool Session::make_buffers(const Plan& plan, Bound& bound, Error& error) {
  u32 fresh = 0, done = 0;
  for (const Operand& operand : plan.operands) {
    fresh += operand.weight != kNone && is_new(static_cast<u32>(operand.weight));
  }
  for (size_t i = 0; i < plan.operands.count; ++i) {
    const Operand& operand = plan.operands[i];
    Buffer& buffer = bound.buffers[i];
    const Operand& home = operand.view == kNone ? operand : plan.operands[static_cast<size_t>(operand.view)];
    if (home.weight != kNone && passes(static_cast<u32>(home.weight))) continue;  // its block has one for it
    if (operand.view != kNone) {
      const auto viewed = static_cast<size_t>(operand.view);
      char what[700];
      snprintf(what, sizeof what, "%.*s: %.*s", OD_TEXT(bound.name), OD_TEXT(plan.operands[viewed].name));
      if (!device_.image(bound.buffers[viewed], operand.width, operand.height, plan.operands[viewed].dtype, what,
                         buffer, error)) {
        return false;
      }
    } else if (operand.weight != kNone) {
      if (is_new(static_cast<u32>(operand.weight))) {
        if (cancelled(plan, error)) return false;
        if (changing) changing(changing_user, done, fresh);
        ++done;
      }
      if (!weight(static_cast<u32>(operand.weight), buffer, error)) return false;
    } else if (!device_.part(arena_, operand.offset, operand.bytes, buffer, error)) {
      return false;
    }
  }
  if (changing && fresh) changing(changing_user, fresh, fresh);
  return true;
}

bool Session::weight(u32 index, Buffer& out, Error& error) {
  const Manifest& manifest = bundle_.manifest();
  const size_t count = manifest.weights.count;
  if (weights_.size() != count && !(weights_.resize(count) && holds_.resize(count))) {
    return Pool::no_memory(error, count * sizeof(Buffer));
  }
  if (!weights_[index].handle) {
    Shard* shard = shard_of(manifest.weights[index].file);
    if (!shard) return Pool::no_memory(error, sizeof(Shard));
    const bool whole = !streaming_.on || streaming_.mapped;  // else only those come here that have memory of their own
    if (whole && !load(*shard, error)) return false;
    if (!fill(index, *shard, error)) {
      drop_weight(index);
      return false;
    }
  }
  out = weights_[index];
  return true;
}

bool Session::load(Shard& shard, Error& error) {
  if (shard.buffer.handle) return true;
  struct Source {
    Bundle& bundle;
    u32 file;
  } source = {bundle_, shard.file};
  Bytes data;
  if (!bundle_.shard(shard.file, data, error)) return false;
  const auto forget = [](void* user) {
    const auto& from = *static_cast<Source*>(user);
    from.bundle.forget(from.file);
  };
  if (!device_.upload(data, bundle_.manifest().files[shard.file].path, shard.buffer, error, forget, &source)) {
    return false;
  }
  shard.copied = device_.maps(data) ? 0 : shard.bytes;
  weight_bytes_ += shard.copied;
  return true;
}

void Session::unload(Shard& shard) {
  for (u32 i = 0; i < weights_.size(); ++i) {
    if (bundle_.manifest().weights[i].file != shard.file) continue;
    drop_weight(i);
    holds_[i] = Holds::base;
  }
  device_.release(shard.buffer);
  weight_bytes_ -= shard.copied;
  shard.copied = 0;
  bundle_.forget(shard.file);
}

// Buffers of all plans; what they are parts of stays.
void Session::unbind() {
  for (Bound* bound : bound_) {
    for (Span<Lent> lent : bound->streamed ? bound->streamed->lent : Span<Span<Lent>>()) {
      for (size_t i = lent.count; i-- > 0;) {
        bound->buffers[lent[i].operand] = {};
        device_.release(lent[i].buffer);
      }
    }
    for (size_t i = bound->buffers.count; i-- > 0;) {
      if (bound->plan->operands[i].weight == kNone) device_.release(bound->buffers[i]);
    }
  }
  bound_.clear();
  bound_pool_.clear();
}

void Session::release(u32 component) {
  Error ignored;
  device_.finish(ignored);
  unbind();
  device_.release(arena_);
  device_.release(window_);
  for (size_t i = shards_.size(); i-- > 0;) {
    Shard& shard = shards_[i];
    u64& bits = shard.users[component / 64];
    const u64 bit = u64(1) << component % 64;
    if (!(bits & bit)) continue;
    bits &= ~bit;
    bool used = false;
    for (const u64 others : shard.users) used = used || others;
    if (used) continue;
    unload(shard);
    shard = shards_.back();
    shards_.pop();
  }
}

void Session::close() {
  Error ignored;
  device_.finish(ignored);
  unbind();
  device_.release(arena_);
  device_.release(window_);
  for (Shard& shard : shards_) unload(shard);
  shards_.clear();
  weights_.clear();
  holds_.clear();
  destroy(changed_);
  changed_ = nullptr;
  for (Built& built : programs_) device_.release(built.program);
  programs_.clear();
}

}  // namespace od
