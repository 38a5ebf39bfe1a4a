#include "player.h"

#include <stdio.h>

#include "base/os.h"
#include "doctor/avoid.h"
#include "draw/memory.h"

namespace od {

bool Player::open(const PlayerOptions& options, Error& error) {
  const bool opened =
      options.bundle ? bundle_.open(options.bundle, error) : bundle_.open(options.descriptor, options.name, error);
  if (!opened || !device_.open(options.device, options.cache, error)) return false;
  const bool chosen =
      options.plans ? bundle_.for_target(options.plans, error) : bundle_.for_device(device_.facts().limits(), error);
  session_.cancel = &cancelled_;
  return chosen && (!options.avoid || avoid(options, error));
}

bool Player::avoid(const PlayerOptions& options, Error& error) {
  Pool pool;
  Mapping file;
  AvoidList list;
  if (!file.open(options.avoid, error)) {
    error.code = Code::usage;  // a flag's, and no part of the bundle
    return false;
  }
  return parse_avoid(file.bytes(), options.avoid, pool, list, error) &&
         choose_without(bundle_, device_.facts(), list, !options.plans, error);
}

bool Player::draw(const Request& request, const Watch& watch, Drawn& out, Error& error) {
  cancelled_ = false;
  if (!draws_ && !drawing_.open(bundle_, session_, error)) return false;
  draws_ = true;
  return drawing_.draw(request, watch, out, error);
}

void describe(const Facts& facts, JsonWriter& out) {
  out.begin_object()
      .member("name", facts.name)
      .member("vendor", facts.vendor)
      .member("platform", facts.platform)
      .member("version", facts.version)
      .member("driver", facts.driver)
      .member("kind", name_of(facts.kind));
  out.key("needs").begin_list();
  for (u32 bit = kHalf; bit <= kWaveConstants; bit <<= 1) {
    if (facts.capabilities & bit) out.text(name_of(static_cast<Need>(bit)));
  }
  out.end_list()
      .member("memory", facts.global_memory)
      .member("allocation", facts.allocation)
      .member("work_group", facts.work_group)
      .member("local_memory", facts.local_memory)
      .member("image_width", facts.image_width)
      .member("image_height", facts.image_height)
      .member("compute_units", facts.compute_units)
      .end_object();
}

namespace {

u32 most_passes(const Pipeline& pipeline) {
  size_t most = 1;
  for (const Loop& loop : pipeline.denoise) most = max(most, loop.passes.count);
  return static_cast<u32>(most);
}

void describe_memory(Bundle& bundle, Size size, bool bands, JsonWriter& out) {
  Way way;
  way.split = way.unload = bands;
  Demand need;
  Error error;
  if (!need_of(bundle, size, way, most_passes(bundle.manifest().pipeline), {}, need, error)) {
    out.null();
    return;
  }
  out.begin_object()
      .member("arena", need.arena)
      .member("weights", need.weights)
      .member("device", need.device)
      .member("pictures", need.host)
      .end_object();
}

void describe_pipeline(Bundle& bundle, JsonWriter& out) {
  const Pipeline& pipeline = bundle.manifest().pipeline;
  List<Size> sizes;
  out.key("sizes").begin_list();
  if (drawable_sizes(bundle, sizes)) {
    for (const Size& size : sizes) {
      out.begin_object()
          .member("width", size.width * pipeline.latents.scale)
          .member("height", size.height * pipeline.latents.scale);
      out.key("begins_from_picture").boolean(encodes_pictures(bundle, size)).key("memory");
      describe_memory(bundle, size, false, out);
      out.key("low_memory");
      describe_memory(bundle, size, true, out);
      out.end_object();
    }
  }
  out.end_list().key("texts").begin_list();
  for (const NamedText& text : pipeline.texts) {
    out.begin_object().member("name", text.name).key("optional").boolean(text.optional).end_object();
  }
  out.end_list().key("pictures").begin_list();
  for (const Given& given : pipeline.pictures) {
    out.begin_object().member("name", given.name).key("optional").boolean(given.optional).end_object();
  }
  out.end_list().key("fast_decoder").boolean(!pipeline.fast.empty()).key("adapters").begin_list();
  for (const AdapterEntry& adapter : bundle.manifest().adapters) {
    out.begin_object().member("name", adapter.name).member("scale", adapter.scale).end_object();
  }
  out.end_list().key("numbers").begin_list();
  for (const Number& number : pipeline.numbers) {
    out.begin_object().member("name", number.name);
    if (number.has_default && number.usual.number == kNone) out.member("default", number.usual.constant);
    out.member("low", number.low).member("high", number.high).end_object();
  }
  out.end_list().key("sampler").begin_object();
  out.member("name", pipeline.sampler).member("steps", pipeline.steps).end_object().key("samplers").begin_list();
  for (const Text name : bundle.manifest().samplers) out.text(name);
  out.end_list();
}

}  // namespace

void describe(Player& player, JsonWriter& out) {
  Bundle& bundle = player.bundle();
  const Manifest& manifest = bundle.manifest();
  char version[32];
  snprintf(version, sizeof version, "%u.%u", manifest.major, manifest.minor);
  out.begin_object()
      .member("name", bundle.name())
      .member("format", version)
      .member("producer", manifest.producer)
      .member("family", manifest.family)
      .member("source", manifest.source);
  if (!manifest.targets.empty()) out.member("plans", manifest.targets[bundle.target()].name);
  if (manifest.draws) describe_pipeline(bundle, out);
  out.key("device");
  describe(player.device().facts(), out);
  out.member("player", kVersion).end_object();
}

}  // namespace od
