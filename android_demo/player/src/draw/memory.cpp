#include "draw/memory.h"

#include <stdio.h>

#include "draw/bands.h"

namespace od {
namespace {

const Role& decoder_of(const Bundle& bundle) {
  const Pipeline& pipeline = bundle.manifest().pipeline;
  return pipeline.after[pipeline.after.count - 1];
}

const Role& denoiser_of(const Bundle& bundle) {
  const Loop& loop = bundle.manifest().pipeline.denoise[0];
  return loop.roles[loop.roles.count - 1];
}

// Whether a component runs only where an optional picture is given.
bool begins_from_picture(const Bundle& bundle, u32 component) {
  const Pipeline& pipeline = bundle.manifest().pipeline;
  for (const Step& step : pipeline.before) {
    if (step.kind != Step::Kind::run || step.role.component != component) continue;
    for (const Feed& feed : step.role.feeds) {
      if (feed.kind == Feed::Kind::picture && pipeline.pictures[static_cast<size_t>(feed.index)].optional) return true;
    }
  }
  return false;
}

bool in_one_piece(const Bundle& bundle, Size size) {
  return chunk_of(bundle, decoder_of(bundle).component, size, ~0u) != 0;
}

// Adds up what plans of one component at a time take.
class Account {
 public:
  Account(Bundle& bundle, const Changed* with, const Streaming& how) : bundle_(bundle), with_(with), how_(how) {}

  bool add(u32 component, const Sizes& sizes, Error& error) {
    const Plan* plan;
    if (!bundle_.plan(component, sizes, plan, error)) return false;
    arena = max(arena, plan->arena);
    if (how_.on) {
      Pool pool;
      Window window;
      const Text name = bundle_.manifest().components[component].name;
      if (!window_of(*plan, name, how_, with_, pool, window, error)) return false;
      own = max(own, how_.mapped ? window.most : window.bytes);
      all = max(all, own);
    }
    for (const Operand& operand : plan->operands) {
      if (operand.weight == kNone) continue;
      const auto weight = static_cast<u32>(operand.weight);
      if (with_ && with_->has(weight) && !count(changed_, weight, changed, operand.bytes)) {
        return Pool::no_memory(error, sizeof weight);
      }
      if (how_.on) continue;
      const u32 file = bundle_.manifest().weights[weight].file;
      const u64 bytes = bundle_.manifest().files[file].bytes;
      if (!count(own_, file, own, bytes) || !count(all_, file, all, bytes)) return Pool::no_memory(error, sizeof file);
    }
    return true;
  }

  // The component is done; the next one has shards of its own.
  void next() {
    most_arena = max(most_arena, arena);
    most_own = max(most_own, own);
    most_both = max(most_both, arena + own);
    arena = own = 0;
    own_.clear();
  }

  u64 arena = 0, own = 0, all = 0, changed = 0, most_arena = 0, most_own = 0, most_both = 0;

 private:
  static bool count(List<u32>& known, u32 index, u64& total, u64 bytes) {
    for (const u32 one : known) {
      if (one == index) return true;
    }
    total += bytes;
    return known.push(index);
  }

  Bundle& bundle_;
  const Changed* with_;
  const Streaming how_;
  List<u32> own_, all_, changed_;
};

// Which roles run where some pictures are given, as far as pictures say it.
class Running {
 public:
  explicit Running(const Pipeline& pipeline, Span<const bool> given) : pipeline_(pipeline), given_(given) {}

  // Roles in their order. Whether there was memory.
  bool open() {
    if (!lost_.resize(pipeline_.values.count)) return false;
    for (const Step& step : pipeline_.before) {
      if (step.kind == Step::Kind::run) look(step.role);
    }
    for (const Loop& loop : pipeline_.denoise) {
      for (const Role& role : loop.roles) look(role);
    }
    return true;
  }

  bool runs(const Role& role) const {
    for (const Feed& feed : role.feeds) {
      if (feed.kind == Feed::Kind::picture && !has(feed.index)) return false;
      if (feed.kind == Feed::Kind::value && !feed.absent_zeros && lost_[static_cast<size_t>(feed.index)]) return false;
    }
    return true;
  }

 private:
  void look(const Role& role) {
    if (runs(role)) return;
    for (const Keep& keep : role.keeps) lost_[static_cast<size_t>(keep.value)] = true;
  }
  bool has(i32 picture) const {
    const Given& one = pipeline_.pictures[static_cast<size_t>(picture)];
    if (one.of[0] != kNone) return has(one.of[0]) && (one.of[1] == kNone || has(one.of[1]));
    return !one.optional || (given_.count && given_[static_cast<size_t>(picture)]);
  }

  const Pipeline& pipeline_;
  const Span<const bool> given_;
  List<bool> lost_;  // values that are not made
};

// Whether a pass is the first of its text.
bool is_first_of(const Loop& loop, u32 pass) {
  for (u32 other = 0; other < pass; ++other) {
    if (loop.passes[other].text == loop.passes[pass].text) return false;
  }
  return true;
}

bool alike(Size a, Size b) { return a.width == b.width && a.height == b.height; }

}  // namespace

const char* Way::shown(char* out, size_t room) const {
  char bands[64] = "";
  if (rows) snprintf(bands, sizeof bands, "decoding in bands of %u rows", rows);
  snprintf(out, room, "%s%s%s%s%s%s%s", split ? "guidance in single passes" : "", split && rows ? ", " : "", bands,
           unload && (split || rows) ? ", " : "", unload ? "giving weights back after use" : "",
           stream.on && (split || rows || unload) ? ", " : "", stream.on ? "streaming weights" : "");
  return out[0] ? out : "all at once";
}

namespace {

// Of texts' chunks: ids that a text encoder takes at once; 0 where several take different numbers.
u32 text_length(const Bundle& bundle) {
  u32 length = 0;
  for (const TokenizerEntry& entry : bundle.manifest().tokenizers) {
    if (length && entry.length != length) return 0;
    length = entry.length;
  }
  return length;
}

}  // namespace

u32 most_chunks(const Bundle& bundle, Size size) {
  const Manifest& manifest = bundle.manifest();
  const u32 length = text_length(bundle);
  const auto reads = [&](u32 component, u32 chunks) {  // or has no plans for several
    bool several = false;
    for (const PlanEntry& entry : manifest.plans) {
      if (entry.component != component || !bundle.served(entry) || !entry.sizes.has("tokens")) continue;
      if (entry.sizes.get("height", size.height) != size.height || entry.sizes.get("width", size.width) != size.width) {
        continue;
      }
      if (entry.sizes.get("tokens") == chunks * length) return true;
      several = true;
    }
    return !several;
  };
  u32 most = 1;
  for (const PlanEntry& entry : manifest.plans) {
    const u32 chunks = length ? entry.sizes.get("tokens") / length : 0;
    bool all = chunks > most;
    for (u32 component = 0; all && component < manifest.components.count; ++component) all = reads(component, chunks);
    if (all) most = chunks;
  }
  return most;
}

Sizes plan_sizes(const Bundle& bundle, u32 component, u32 batch, Size size) {
  Sizes found;
  for (const PlanEntry& entry : bundle.manifest().plans) {
    if (entry.component != component || !bundle.served(entry) || entry.sizes.has("stage")) continue;
    for (u32 i = 0; i < entry.sizes.count; ++i) {
      const Text name = entry.sizes.names[i];
      const u32 value = name == "batch"    ? batch
                        : name == "height" ? size.height
                        : name == "width"  ? size.width
                        : name == "frames" ? max(size.frames, 1u)
                        : name == "tokens" ? size.chunks * text_length(bundle)
                                           : 0;
      if (value) found.set(name, value);
    }
    break;
  }
  return found;
}

bool has_plan(const Bundle& bundle, u32 component, u32 passes, Size size) {
  return bundle.find(component, plan_sizes(bundle, component, passes, size));
}

bool usual_size(const Bundle& bundle, Size& out, Error& error) {
  List<Size> sizes;
  if (!drawable_sizes(bundle, sizes)) return Pool::no_memory(error, sizeof(Size));
  if (sizes.empty()) {
    return fail(error, Code::bundle, bundle.name(), "convert the checkpoint again",
                "it has no plans of a denoiser and a decoder of one size.");
  }
  out = sizes[0];
  return true;
}

bool drawable_sizes(const Bundle& bundle, List<Size>& out) {
  out.clear();
  for (const PlanEntry& entry : bundle.manifest().plans) {
    if (entry.component != denoiser_of(bundle).component || !bundle.served(entry)) continue;
    const Size size = {entry.sizes.get("width"), entry.sizes.get("height"), 1, 0};
    bool known = !size.width || !size.height;
    for (const Size one : out) known = known || alike(one, size);
    if (known) continue;
    List<u32> rows;
    if (!band_heights(bundle, size.height, size.width, rows)) return false;
    if ((in_one_piece(bundle, size) || !rows.empty()) && !out.push(size)) return false;
  }
  return true;
}

bool encodes_pictures(const Bundle& bundle, Size size) {
  bool any = false;
  for (const Step& step : bundle.manifest().pipeline.before) {
    if (step.kind != Step::Kind::run || !begins_from_picture(bundle, step.role.component)) continue;
    any = true;
    const u32 component = step.role.component;
    if (!bundle.find(component, plan_sizes(bundle, component, 1, size))) return false;
  }
  return any;
}

u32 chunk_of(const Bundle& bundle, u32 component, Size size, u32 left) {
  u32 most = 0;
  for (const PlanEntry& entry : bundle.manifest().plans) {
    if (entry.component != component || !bundle.served(entry) || entry.sizes.has("stage")) continue;
    const u32 frames = entry.sizes.get("frames", 1);
    size.frames = frames;
    if (size.at_once && frames > size.at_once) continue;
    if (frames <= left && frames > most && entry.sizes == plan_sizes(bundle, component, 1, size)) most = frames;
  }
  return most;
}

bool drawable(const Bundle& bundle, Size size, Way& way, Error& error) {
  if (way.fast || way.rows || in_one_piece(bundle, size)) return true;
  List<u32> rows;
  if (!band_heights(bundle, size.height, size.width, rows)) return Pool::no_memory(error, sizeof(u32));
  if (!rows.empty()) way.rows = rows[0];
  return true;
}

bool need_of(Bundle& bundle, Size size, const Way& asked, u32 passes, Span<const bool> pictures, Demand& out,
             Error& error) {
  const Pipeline& pipeline = bundle.manifest().pipeline;
  out = {};
  out.way = asked;
  if (!drawable(bundle, size, out.way, error)) return false;
  const Way way = out.way;
  const u32 scale = pipeline.latents.scale;
  const u32 frames = max(size.frames, 1u);
  out.host = u64(3) * 4 * frames * size.height * size.width * scale * scale;
  Account account(bundle, way.changed, way.stream);
  Running running(pipeline, pictures);
  if (!running.open()) return Pool::no_memory(error, pipeline.values.count);
  for (const Step& step : pipeline.before) {
    if (step.kind != Step::Kind::run || !running.runs(step.role)) continue;
    const u32 component = step.role.component;
    if (!account.add(component, plan_sizes(bundle, component, 1, size), error)) return false;
    account.next();
  }
  for (const Loop& loop : pipeline.denoise) {
    const u32 wanted = min<u32>(passes, static_cast<u32>(loop.passes.count));
    bool at_once = !way.split;
    for (const Role& role : loop.roles) {
      at_once = at_once && (!running.runs(role) || has_plan(bundle, role.component, wanted, size));
    }
    u64 values = 0, texts = 0;
    for (u32 pass = 0; pass < wanted; ++pass) texts += is_first_of(loop, pass);
    List<bool> seen;  // values that were made before the loop, and stay for all of it
    if (!seen.resize(pipeline.values.count)) return Pool::no_memory(error, pipeline.values.count);
    for (size_t i = 0; i < loop.roles.count; ++i) {
      const Role& role = loop.roles[i];
      if (!running.runs(role)) continue;
      const Sizes sizes = plan_sizes(bundle, role.component, at_once ? wanted : 1, size);
      const Plan* plan;
      if (!account.add(role.component, sizes, error) || !bundle.plan(role.component, sizes, plan, error)) return false;
      for (const u32 port : plan->outputs) values += i + 1 < loop.roles.count ? plan->operands[port].bytes : 0;
      for (const Feed& feed : role.feeds) {
        const u64 bytes = plan->operands[static_cast<size_t>(plan->input(feed.port))].bytes / (at_once ? wanted : 1);
        if (feed.kind == Feed::Kind::picture) out.host += bytes;
        if (feed.kind != Feed::Kind::value || seen[static_cast<size_t>(feed.index)]) continue;
        const Rate rate = pipeline.values[static_cast<size_t>(feed.index)].rate;
        seen[static_cast<size_t>(feed.index)] = true;
        if (rate != Rate::call) values += rate == Rate::text ? bytes * texts : bytes;
      }
    }
    out.values = max(out.values, values);
    for (const Role& role : way.previews ? pipeline.fast : Span<Role>()) {
      if (!account.add(role.component, plan_sizes(bundle, role.component, 1, size), error)) return false;
    }
    account.next();
  }
  const Span<Role> last = way.fast ? pipeline.fast : pipeline.after;
  for (size_t i = 0; i < last.count; ++i) {
    const Role& role = last[i];
    if (i + 1 < last.count || !way.rows) {
      Size chunk = size;
      if (role.chunks) chunk.frames = chunk_of(bundle, role.component, size, frames);
      if (!account.add(role.component, plan_sizes(bundle, role.component, 1, chunk), error)) return false;
      account.next();
      continue;
    }
    List<const Plan*> stages;
    if (!find_stages(bundle, size.height, size.width, way.rows, stages, error)) return false;
    if (stages.empty()) {
      return fail(error, Code::usage, bundle.name(), "convert with `--tile-vae`",
                  "it has no plans that decode %ux%u in bands of %u rows.", size.width * scale, size.height * scale,
                  way.rows);
    }
    for (const Plan* plan : stages) {
      if (!account.add(role.component, plan->sizes, error)) return false;
    }
    account.next();
    out.host += held_bytes(stages.span());
  }
  out.changed = account.changed;
  if (way.changed) out.host += way.changed->temporary();
  out.arena = account.most_arena;
  out.weights = way.unload ? account.most_own : account.all;
  out.device = way.unload ? account.most_both : account.most_arena + account.all;
  return true;
}

}  // namespace od
