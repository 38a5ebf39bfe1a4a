// bundle.json, and the pipeline in it.
#include "bundle/made.h"
#include "support/fuzz.h"

namespace od::fuzz {
namespace {

class Walk {
 public:
  explicit Walk(const Manifest& manifest) : manifest_(manifest), spec_(manifest.pipeline) {}

  // Everything that is an index is one.
  void all() const {
    for (const Number& one : spec_.numbers) {
      amount(one.usual);
      number(one.window_from);
      number(one.window_until);
      number(one.ramp_from);
      number(one.ramp_until);
    }
    for (const Given& one : spec_.pictures) {
      for (const i32 index : one.of) below(index, spec_.pictures.count, true);
    }
    value(spec_.gives);
    value(spec_.latents.begin, true);
    number(spec_.latents.frames);
    number(spec_.latents.strength);
    for (const Step& step : spec_.before) {
      if (step.kind == Step::Kind::run) role(step.role);
      value(step.moments, step.kind != Step::Kind::sample);
      value(step.keep, step.kind != Step::Kind::sample);
    }
    for (const Loop& loop : spec_.denoise) {
      amount(loop.from);
      amount(loop.until);
      for (const Role& one : loop.roles) role(one);
      value(loop.prediction);
      for (const Pass& pass : loop.passes) {
        below(pass.text, spec_.texts.count, true);
        for (const i32 zero : pass.zeros) value(zero);
      }
      OD_HOLDS(loop.first < loop.passes.count && loop.guided_alone < loop.passes.count);
      for (const Add& add : loop.add) {
        OD_HOLDS(add.plus < loop.passes.count && add.minus < loop.passes.count);
        below(add.number, spec_.numbers.count, false);
      }
      number(loop.guided_number);
      number(loop.rescale);
    }
    OD_HOLDS(!spec_.after.empty() && !spec_.denoise.empty());
    for (const Role& one : spec_.after) role(one);
    for (const Role& one : spec_.fast) role(one);
  }

 private:
  static void below(i32 index, size_t count, bool none) {
    OD_HOLDS((none && index == kNone) || (index >= 0 && static_cast<size_t>(index) < count));
  }
  void number(i32 index) const { below(index, spec_.numbers.count, true); }
  void value(i32 index, bool none = false) const { below(index, spec_.values.count, none); }
  void amount(const Amount& one) const {
    if (one.number != kWidth && one.number != kHeight) number(one.number);
  }
  void role(const Role& one) const {
    OD_HOLDS(one.component < manifest_.components.count);
    for (const Feed& feed : one.feeds) {
      if (feed.kind == Feed::Kind::value) value(feed.index);
      if (feed.kind == Feed::Kind::tokens) below(feed.index, manifest_.tokenizers.count, false);
      if (feed.kind == Feed::Kind::picture) below(feed.index, spec_.pictures.count, false);
      amount(feed.noise);
      for (const Feed::PerText& row : feed.numbers) {
        OD_HOLDS(row.amounts.count == (row.same ? 1 : spec_.texts.count));
        for (const Amount& each : row.amounts) amount(each);
      }
    }
    for (const Keep& keep : one.keeps) value(keep.value);
  }

  const Manifest& manifest_;
  const Pipeline& spec_;
};

}  // namespace
}  // namespace od::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  Pool pool;
  Json value;
  Error error;
  Manifest manifest;
  if (!parse_json({data, size}, "bundle.json", pool, value, error) || !parse_manifest(value, pool, manifest, error)) {
    fuzz::check_error(error);
    return 0;
  }
  fuzz::remember({data, size});
  for (const PlanEntry& plan : manifest.plans) {
    OD_HOLDS(plan.component < manifest.components.count && plan.file < manifest.files.count);
    OD_HOLDS(plan.arena <= kMaxBytes && plan.weight_bytes <= kMaxBytes);
  }
  for (const WeightEntry& weight : manifest.weights) {
    OD_HOLDS(weight.file < manifest.files.count && weight.offset % kAlign == 0);
    OD_HOLDS(weight.offset + weight.bytes <= manifest.files[weight.file].bytes);
    OD_HOLDS(weight.shape.count() * bytes_of(weight.dtype) == weight.bytes);
    OD_HOLDS(manifest.weight(weight.key) == &weight);
  }
  for (const WeightEntry& weight : manifest.weights) {
    const Made* step = weight.made ? number_step(*weight.made) : nullptr;
    OD_HOLDS(!weight.made || weight.made->shape == weight.shape);
    if (!step) continue;
    const WeightEntry* other = manifest.weight(weight.other);
    OD_HOLDS(other && other->made && number_step(*other->made) && number_step(*other->made)->op != step->op);
    OD_HOLDS(number_step(*other->made)->of[0].shape == step->of[0].shape);
  }
  for (const AdapterEntry& adapter : manifest.adapters) {
    for (const AdapterChange& change : adapter.changes) {
      OD_HOLDS(adapter.change(change.leaf) == &change && !change.terms.empty());
      for (const AdapterTerm& term : change.terms) {
        OD_HOLDS(term.up >= 0 && static_cast<size_t>(term.up) < manifest.weights.count);
        OD_HOLDS(term.down == kNone || (term.down >= 0 && static_cast<size_t>(term.down) < manifest.weights.count));
      }
    }
  }
  for (const FileEntry& file : manifest.files) OD_HOLDS(manifest.file(file.path) == &file && file.bytes <= kMaxBytes);
  if (manifest.draws) fuzz::Walk(manifest).all();
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_json(data, size, most, seed);
}
