// What runs: steps before the loop, its roles and passes, and what is after it. Every check of docs/pipeline.md's last
// section is here or in pipeline_given.cpp.
#include <math.h>
#include <stdio.h>

#include "bundle/pipeline_reader.h"

namespace od {
namespace {

const char* const kRates[] = {"bundle", "picture", "text", "call"};

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

  visible_.clear();
  rates_[kLatents] = Rate::picture;
  for (size_t i = 0; i < values_.size(); ++i) {
    if (rates_[i] != Rate::call && !visible_.add(values_[i].name, static_cast<i32>(i))) return no_memory();
  }
  if (!check_.array(last, 1, kMaxRoles, after) || !pool_.array(out_.after, last.list.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < last.list.count; ++i) {
    if (!read_role(last.list[i], after.item(i), false, out_.after[i])) return false;
  }
  const char* gives = out_.frames ? "frames" : "picture";
  out_.gives = index_of(values_.span(), gives);
  if (out_.gives == kNone || !keeps(out_.after[out_.after.count - 1], out_.gives)) {
    return check_.fail(after, "keeps no %s in its last role (expected what the pipeline gives)", gives);
  }
  if (values_[out_.gives].optional) {
    return check_.fail(after, "makes no %s where an optional picture is not given", gives);
  }
  if (!pool_.array(out_.values, values_.size(), check_.error())) return false;
  for (size_t i = 0; i < values_.size(); ++i) out_.values[i] = values_[i];
  return true;
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
  if (!check_.table(row, kMaxRank, at)) return false;
  if (const Json* noise = row.find("noise")) {
    out.kind = Step::Kind::noise;
    const Text latents("latents");
    size_t index = 0;
    return check_.one_of(*noise, {&latents, 1}, at.field("noise"), index);
  }
  if (row.find("sample")) return read_sample(row, at, out);
  out.kind = Step::Kind::run;
  return read_role(row, at, false, out.role);
}

bool PipelineReader::read_sample(const Json& row, const Place& at, Step& out) {
  out.kind = Step::Kind::sample;
  out.moments = out.keep = kNone;
  const Json* rows[3];
  const Text takes[] = {"mean", "draw"};
  return check_.record(row, {"sample", "take", "keep"}, rows, at) &&
         picture_value(*rows[0], at.field("sample"), out.moments) &&
         check_.one_of(*rows[1], {takes, 2}, at.field("take"), out.draw) &&
         keep(*rows[2], Rate::picture, values_[out.moments].optional, at.field("keep"), out.keep) &&
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
  if (!check_.identifier(value, at, name) || !new_name(name, at)) return false;
  out = static_cast<i32>(values_.size());
  if (values_.size() == kMaxValues) {
    return check_.fail("pipeline", "keeps %zu values (expected at most %zu)", kMaxValues + 1, kMaxValues);
  }
  if (!values_.push({name, rate, optional}) || !rates_.push(rate)) return no_memory();
  return show(out, rate);
}

bool PipelineReader::read_role(const Json& row, const Place& at, bool in_loop, Role& out) {
  const Json *rows[3], *every = nullptr;
  i32 component = 0;
  if (!check_.record(row, {"run", "feed", "keep"}, rows, at) ||
      !components_.choose(check_, *rows[0], at.field("run"), component)) {
    return false;
  }
  out.component = static_cast<u32>(component);
  out.every = Rate::call;
  if (!in_loop) {
    const Text words[] = {"bundle", "picture", "text", "chunk"};
    u32 word = 0;
    if (!check_.field(row, "every", every, at) || !check_.one_of(*every, {words, 4}, at.field("every"), word)) {
      return false;
    }
    out.chunks = word == 3;
    out.every = out.chunks ? Rate::picture : static_cast<Rate>(word);
  }
  bool optional = false;
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

// What a role reads; whether a part of it may be missing.
bool PipelineReader::read_feeds(const Json& table, const Place& at, Role& role, bool& optional) {
  if (!check_.table(table, kMaxFeeds, at) || !pool_.array(role.feeds, table.members.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < table.members.count; ++i) {
    const Member& member = table.members[i];
    role.feeds[i] = Feed();
    role.feeds[i].port = member.key;
    if (!read_feed(member.value, at.key(member.key), role.feeds[i])) return false;
  }
  for (const Feed& feed : role.feeds) {
    if (!check_.text(feed.port, at)) return false;
    const Rate rate = rate_of(feed);
    if (rate > role.every) {
      return check_.fail(at.key(feed.port), "changes once per %s, and the role runs once per %s",
                         kRates[static_cast<u8>(rate)], role.chunks ? "chunk" : kRates[static_cast<u8>(role.every)]);
    }
    const bool missing = feed.kind == Feed::Kind::picture
                             ? out_.pictures[feed.index].optional
                             : feed.kind == Feed::Kind::value && values_[feed.index].optional;
    optional = optional || (missing && !feed.absent_zeros);
  }
  return !optional || role.every != Rate::call ||
         check_.fail(at, "reads what is not made where an optional picture is not given");
}

Rate PipelineReader::rate_of(const Feed& feed) const {
  if (feed.kind == Feed::Kind::value) return rates_[feed.index];
  if (feed.kind == Feed::Kind::tokens) return Rate::text;
  if (feed.kind == Feed::Kind::picture) return Rate::picture;
  Rate rate = Rate::bundle;
  for (const Feed::PerText& one : feed.numbers) {
    if (!one.same) rate = max(rate, Rate::text);
    for (const Amount& amount : one.amounts) {
      if (amount.number == kNone) continue;
      rate = max(rate, Rate::picture);
      if (amount.number >= 0 && out_.numbers[amount.number].window_from != kNone) return Rate::call;
    }
  }
  return rate;
}

bool PipelineReader::read_feed(const Json& value, const Place& at, Feed& out) {
  if (!check_.table(value, 2, at)) return false;
  const char* const kinds[] = {"value", "tokens", "picture", "numbers"};
  u32 found = 0, kind = 0;
  char listed[40] = "";
  for (u32 i = 0; i < 4; ++i) {
    if (!value.find(kinds[i])) continue;
    const size_t size = Text(listed).size;
    snprintf(listed + size, sizeof listed - size, "%s%s", found++ ? ", " : "", kinds[i]);
    kind = i;
  }
  if (found != 1) {
    return check_.fail(at, "is %s of %s (expected value, tokens, picture or numbers)", shown(value).text,
                       found ? listed : "no kind");
  }
  const Json& source = *value.find(kinds[kind]);
  const Place source_at = at.field(kinds[kind]);
  out.kind = static_cast<Feed::Kind>(kind);
  if (const Json* absent = given(value, "absent")) {
    out.absent_zeros = absent->is(Json::Kind::text) && absent->text == "zeros" && kind < 2;
    if (!out.absent_zeros) {
      return check_.fail(at.field("absent"), "is %s (expected \"zeros\", for a value or tokens)", shown(*absent).text);
    }
  }
  if (out.kind == Feed::Kind::numbers) {
    if (!check_.array(source, 1, kMaxNumbers, source_at) ||
        !pool_.array(out.numbers, source.list.count, check_.error())) {
      return false;
    }
    for (size_t i = 0; i < source.list.count; ++i) {
      if (!read_listed(source.list[i], source_at.item(i), out.numbers[i])) return false;
    }
    return true;
  }
  const Names& known = kind == 0 ? visible_ : kind == 1 ? tokenizers_ : pictures_;
  if (!known.choose(check_, source, source_at, out.index)) return false;
  const Json* noise = out.kind == Feed::Kind::picture ? value.find("noise") : nullptr;
  out.noisy = noise;
  return !noise || amount(*noise, at.field("noise"), out.noise);
}

// One of a list of numbers.
bool PipelineReader::read_listed(const Json& value, const Place& at, Feed::PerText& out) {
  out.same = !value.is(Json::Kind::object);
  if (!pool_.array(out.amounts, out.same ? 1 : out_.texts.count, check_.error())) return false;
  if (out.same) return amount(value, at, out.amounts[0]);
  bool all = value.members.count == out_.texts.count;
  for (const NamedText& text : out_.texts) all = all && value.find(text.name);
  if (!all) return check_.fail(at, "is %s (expected a number for each text)", shown(value).text);
  for (const Member& member : value.members) {
    if (!amount(member.value, at.key(member.key), out.amounts[out_.text(member.key)])) return false;
  }
  return true;
}

bool PipelineReader::read_loop(const Json& row, const Place& at, Loop& out) {
  out = Loop();
  const Place roles = at.field("roles"), passes = at.field("passes"), rescale_at = at.field("rescale");
  const Json* rows[6];
  if (!check_.record(row, {"from", "until", "roles", "prediction", "passes", "combine"}, rows, at) ||
      !amount(*rows[0], at.field("from"), out.from) || !amount(*rows[1], at.field("until"), out.until) ||
      !check_.array(*rows[2], 1, kMaxRoles, roles) || !pool_.array(out.roles, rows[2]->list.count, check_.error())) {
    return false;
  }
  bool reads_texts = false;
  for (size_t i = 0; i < out.roles.count; ++i) {
    if (!read_role(rows[2]->list[i], roles.item(i), true, out.roles[i])) return false;
    for (const Feed& feed : out.roles[i].feeds) reads_texts = reads_texts || rate_of(feed) == Rate::text;
  }
  Names kept;
  for (const Keep& one : out.roles[out.roles.count - 1].keeps) {
    if (!kept.add(values_[one.value].name, one.value)) return no_memory();
  }
  if (!kept.choose(check_, *rows[3], at.field("prediction"), out.prediction) ||
      !check_.array(*rows[4], 1, kMaxPasses, passes) || !pool_.array(out.passes, rows[4]->list.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < out.passes.count; ++i) {
    if (!read_pass(rows[4]->list[i], passes.item(i), out.passes[i])) return false;
  }
  for (size_t i = 0; i < out.passes.count; ++i) {
    if (reads_texts == (out.passes[i].text != kNone)) continue;
    return check_.fail(passes.item(i), "has %s text, and its roles read %s", reads_texts ? "no" : "a",
                       reads_texts ? "one" : "none");
  }
  const Json *rescale = given(row, "rescale"), *guided = given(row, "guided");
  if (rescale && !numbers_.choose(check_, *rescale, rescale_at, out.rescale)) return false;
  if (!read_combine(*rows[5], at.field("combine"), out)) return false;
  if (rescale && out.add.empty()) return check_.fail(rescale_at, "is there, and nothing is combined");
  return !guided || read_guided(*guided, at.field("guided"), out);
}

bool PipelineReader::read_pass(const Json& row, const Place& at, Pass& out) {
  const Place zeros_at = at.field("zeros");
  if (!check_.table(row, kMaxRank, at)) return false;
  const Json *text = given(row, "text"), *zeros = row.find("zeros");
  out.text = kNone;
  if (text && !texts_.choose(check_, *text, at.field("text"), out.text)) return false;
  if (!zeros) return true;
  if (!check_.array(*zeros, 0, kMaxFeeds, zeros_at) || !pool_.array(out.zeros, zeros->list.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < out.zeros.count; ++i) {
    if (!visible_.choose(check_, zeros->list[i], zeros_at.item(i), out.zeros[i])) return false;
  }
  return true;
}

bool PipelineReader::read_combine(const Json& value, const Place& at, Loop& out) {
  const Place add = at.field("add");
  const i64 most = static_cast<i64>(out.passes.count) - 1;
  const Json* rows[2];
  if (!check_.record(value, {"first", "add"}, rows, at) ||
      !check_.integer(*rows[0], 0, most, at.field("first"), out.first) || !check_.array(*rows[1], 0, kMaxPasses, add) ||
      !pool_.array(out.add, rows[1]->list.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < out.add.count; ++i) {
    const Json& row = rows[1]->list[i];
    const Place term = add.item(i);
    if (!check_.array(row, 3, 3, term) || !numbers_.choose(check_, row.list[0], term.item(0), out.add[i].number) ||
        !check_.integer(row.list[1], 0, most, term.item(1), out.add[i].plus) ||
        !check_.integer(row.list[2], 0, most, term.item(2), out.add[i].minus)) {
      return false;
    }
  }
  return true;
}

bool PipelineReader::read_guided(const Json& value, const Place& at, Loop& out) {
  out.guided = true;
  const Json* rows[3];
  return check_.record(value, {"number", "above", "alone"}, rows, at) &&
         numbers_.choose(check_, *rows[0], at.field("number"), out.guided_number) &&
         check_.number(*rows[1], -1e6, 1e6, at.field("above"), out.guided_above) &&
         check_.integer(*rows[2], 0, static_cast<i64>(out.passes.count) - 1, at.field("alone"), out.guided_alone);
}

}  // namespace od
