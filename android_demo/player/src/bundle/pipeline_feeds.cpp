// What roles read: feeds, and how often they change.
#include <stdio.h>

#include "bundle/pipeline_reader.h"

namespace od {

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
                         kRateNames[static_cast<u8>(rate)],
                         role.chunks ? "chunk" : kRateNames[static_cast<u8>(role.every)]);
    }
    const bool missing = feed.kind == Feed::Kind::picture
                             ? out_.pictures[feed.index].optional
                             : feed.kind == Feed::Kind::value && values_[feed.index].optional;
    optional = optional || (missing && !feed.absent_zeros);
  }
  return !optional || !always_ ||
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

}  // namespace od
