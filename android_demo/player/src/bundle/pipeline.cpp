// A pipeline as a whole, steps before the loop and roles. Every check of docs/pipeline.md's last section is here or in
// another of the reader's files.
#include <stdio.h>

#include "bundle/pipeline_reader.h"

namespace od {
namespace {

template <class T>
i32 index_of(Span<T> rows, Text name) {
  for (size_t i = 0; i < rows.count; ++i) {
    if (rows[i].name == name) return static_cast<i32>(i);
  }
  return kNone;
}

bool keeps(const Role& role, i32 value) {
  for (const Keep& keep : role.keeps) {
    if (keep.value == value) return true;
  }
  return false;
}

}  // namespace

i32 Pipeline::number(Text name) const { return index_of(numbers, name); }
i32 Pipeline::text(Text name) const { return index_of(texts, name); }
i32 Pipeline::picture(Text name) const { return index_of(pictures, name); }

bool parse_pipeline(const Json& value, Pool& pool, const Manifest& manifest, Pipeline& out, Error& error) {
  return PipelineReader(Checker("bundle.json", error), pool, manifest, out).read(value);
}

bool PipelineReader::read(const Json& value) {
  out_ = Pipeline();
  for (size_t i = 0; i < manifest_.components.count; ++i) {
    if (!components_.add(manifest_.components[i].name, static_cast<i32>(i))) return no_memory();
  }
  for (size_t i = 0; i < manifest_.tokenizers.count; ++i) {
    if (!tokenizers_.add(manifest_.tokenizers[i].name, static_cast<i32>(i))) return no_memory();
  }
  if (!values_.push({"latents", Rate::call, false}) || !values_.push({"timestep", Rate::call, false}) ||
      !rates_.resize(2)) {
    return no_memory();
  }
  const Place at("pipeline"), before = at.field("before"), denoise = at.field("denoise"), after = at.field("after");
  const Json* rows[9];
  if (!check_.record(value,
                     {"gives", "numbers", "texts", "pictures", "latents", "sampler", "before", "denoise", "after"},
                     rows, at)) {
    return false;
  }
  const Json &steps = *rows[6], &loops = *rows[7], &last = *rows[8];
  if (const Json* needs = value.find("needs")) {
    if (!check_.needs(*needs, {}, at.field("needs"))) return false;  // there is none yet
  }
  const Text kinds[] = {"picture", "frames"};
  if (!check_.one_of(*rows[0], {kinds, 2}, at.field("gives"), out_.frames) || !read_numbers(*rows[1]) ||
      !read_texts(*rows[2]) || !read_pictures(*rows[3]) || !read_sampler(*rows[5])) {
    return false;
  }

  if (!check_.array(steps, 0, kMaxRoles, before) || !pool_.array(out_.before, steps.list.count, check_.error())) {
    return false;
  }
  u32 noises = 0;
  for (size_t i = 0; i < steps.list.count; ++i) {
    if (!read_step(steps.list[i], before.item(i), out_.before[i])) return false;
    noises += out_.before[i].kind == Step::Kind::noise;
  }
  if (noises > 1) return check_.fail(before, "draws the initial noise twice");
  if (!read_latents(*rows[4]) || !show(kLatents, Rate::call) || !show(kTimestep, Rate::call)) return false;

  if (!check_.array(loops, 1, kMaxLoops, denoise) || !pool_.array(out_.denoise, loops.list.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < loops.list.count; ++i) {
    if (!read_loop(loops.list[i], denoise.item(i), out_.denoise[i])) return false;
  }

  rates_[kLatents] = Rate::picture;
  const size_t made = values_.size();  // before anything is decoded
  if (!read_after(last, after, made, out_.after)) return false;
  const char* gives = out_.frames ? "frames" : "picture";
  const Json* frames = given(*rows[4], "frames");
  if ((out_.latents.frames != kNone) != out_.frames) {
    return check_.fail(at.field("gives"),
                       "is %s, and latents.frames is %s (expected frames and their number, or neither)", gives,
                       frames ? shown(*frames).text : "null");
  }
  if (values_[out_.gives].optional) {
    return check_.fail(after, "makes no %s where an optional picture is not given", gives);
  }
  if (const Json* fast = value.find("fast")) {
    const Place fast_at = at.field("fast");
    kept_again_ = out_.gives;
    if (!read_after(*fast, fast_at, made, out_.fast)) return false;
    if (values_[out_.gives].optional) {
      return check_.fail(fast_at, "makes no %s where an optional picture is not given", gives);
    }
  }
  if (!pool_.array(out_.values, values_.size(), check_.error())) return false;
  for (size_t i = 0; i < values_.size(); ++i) out_.values[i] = values_[i];
  return read_outside(value.find("outside"), at.field("outside"));
}

// Roles that make what the pipeline gives of the first `made` values.
bool PipelineReader::read_after(const Json& value, const Place& at, size_t made, Span<Role>& out) {
  visible_.clear();
  for (size_t i = 0; i < made; ++i) {
    if (rates_[i] != Rate::call && !visible_.add(values_[i].name, static_cast<i32>(i))) return no_memory();
  }
  if (!check_.array(value, 1, kMaxRoles, at) || !pool_.array(out, value.list.count, check_.error())) return false;
  for (size_t i = 0; i < value.list.count; ++i) {
    const Text rates[] = {"picture", "chunk"};
    if (!read_role(value.list[i], at.item(i), {rates, 2}, false, out[i])) return false;
  }
  const char* gives = out_.frames ? "frames" : "picture";
  out_.gives = index_of(values_.span(), gives);
  return (out_.gives != kNone && keeps(out[out.count - 1], out_.gives)) ||
         check_.fail(at, "keeps no %s in its last role (expected what the pipeline gives)", gives);
}

bool PipelineReader::read_sampler(const Json& value) {
  const Place pipeline("pipeline"), at = pipeline.field("sampler");
  const Json* rows[2];
  if (!check_.record(value, {"name", "steps"}, rows, at) ||
      !check_.identifier(*rows[0], at.field("name"), out_.sampler) ||
      !check_.integer(*rows[1], 1, kMaxSteps, at.field("steps"), out_.steps)) {
    return false;
  }
  char table[80];
  snprintf(table, sizeof table, "%.*s_%u", OD_TEXT(out_.sampler), out_.steps);
  for (const Text name : manifest_.samplers) {
    if (name == table) return true;
  }
  return check_.fail(at, "is %.*s at %u steps, but samplers has no %s", OD_TEXT(out_.sampler), out_.steps, table);
}

// A step of `before`.
bool PipelineReader::read_step(const Json& row, const Place& at, Step& out) {
  out = Step();
  if (!check_.table(row, kMaxRank, at) || !read_below(row, at.field("below"), out)) return false;
  if (const Json* noise = row.find("noise")) {
    out.kind = Step::Kind::noise;
    const Text latents("latents");
    size_t index = 0;
    if (!check_.one_of(*noise, {&latents, 1}, at.field("noise"), index)) return false;
    return out.below == kNone ||
           check_.fail(at.field("below"), "is there, and the noise is always drawn (expected it of a role or sample)");
  }
  if (row.find("sample")) return read_sample(row, at, out);
  out.kind = Step::Kind::run;
  const Text rates[] = {"bundle", "picture", "text"};
  return read_role(row, at, {rates, 3}, out.below != kNone, out.role);
}

// Where a number is below a value, a step is done.
bool PipelineReader::read_below(const Json& row, const Place& at, Step& out) {
  const Json* below = row.find("below");
  if (!below) return true;
  return check_.array(*below, 2, 2, at) && steady_.choose(check_, below->list[0], at.item(0), out.below) &&
         check_.number(below->list[1], -kFloatMax, kFloatMax, at.item(1), out.limit);
}

bool PipelineReader::read_sample(const Json& row, const Place& at, Step& out) {
  out.kind = Step::Kind::sample;
  const Json* rows[3];
  const Text takes[] = {"mean", "draw"};
  return check_.record(row, {"sample", "take", "keep"}, rows, at) &&
         picture_value(*rows[0], at.field("sample"), out.moments) &&
         check_.one_of(*rows[1], {takes, 2}, at.field("take"), out.draw) &&
         keep(*rows[2], Rate::picture, values_[out.moments].optional || out.below != kNone, at.field("keep"),
              out.keep) &&
         check_.flag(row, "scaled", at, out.scaled);
}

bool PipelineReader::picture_value(const Json& value, const Place& at, i32& out) const {
  out = value.is(Json::Kind::text) ? index_of(Span<const ValueEntry>(values_.span()), value.text) : kNone;
  // Before the loop there is neither `latents` nor `timestep`.
  if (out > kTimestep && rates_[out] == Rate::picture) return true;
  return check_.fail(at, "is %s (expected a value that is made once per picture)", shown(value).text);
}

bool PipelineReader::show(i32 value, Rate rate) {
  rates_[value] = rate;
  return visible_.add(values_[value].name, value) || no_memory();
}

// A new value.
bool PipelineReader::keep(const Json& value, Rate rate, bool optional, const Place& at, i32& out) {
  Text name;
  if (!check_.identifier(value, at, name)) return false;
  if (kept_again_ != kNone && values_[kept_again_].name == name) {
    out = kept_again_;
    kept_again_ = kNone;
    values_[out].optional = optional;
    return show(out, rate);
  }
  if (!new_name(name, at)) return false;
  out = static_cast<i32>(values_.size());
  if (values_.size() == kMaxValues) {
    return check_.fail("pipeline", "keeps %zu values (expected at most %zu)", kMaxValues + 1, kMaxValues);
  }
  if (!values_.push({name, rate, optional}) || !rates_.push(rate)) return no_memory();
  return show(out, rate);
}

bool PipelineReader::read_role(const Json& row, const Place& at, Span<const Text> rates, bool optional, Role& out) {
  const Json *rows[3], *every = nullptr;
  i32 component = 0;
  if (!check_.record(row, {"run", "feed", "keep"}, rows, at) ||
      !components_.choose(check_, *rows[0], at.field("run"), component)) {
    return false;
  }
  out.component = static_cast<u32>(component);
  u32 word = 0;
  if (rates.count > 1) {
    if (!check_.field(row, "every", every, at) || !check_.one_of(*every, rates, at.field("every"), word)) return false;
  }
  out.chunks = rates[word] == "chunk";
  out.every = Rate::picture;
  for (u8 rate = 0; rate < 4; ++rate) {
    if (rates[word] == kRateNames[rate]) out.every = static_cast<Rate>(rate);
  }
  if (!read_feeds(*rows[1], at.field("feed"), out, optional)) return false;
  const Place keeps_at = at.field("keep");
  const Json& table = *rows[2];
  if (!check_.table(table, kMaxFeeds, keeps_at) || !pool_.array(out.keeps, table.members.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < table.members.count; ++i) {
    const Member& member = table.members[i];
    out.keeps[i].port = member.key;
    if (!check_.text(member.key, keeps_at) ||
        !keep(member.value, out.every, optional, keeps_at.key(member.key), out.keeps[i].value)) {
      return false;
    }
  }
  return true;
}

}  // namespace od
