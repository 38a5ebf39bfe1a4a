// The loop: its stretches of the schedule, their roles and passes, and how these become one prediction.
#include "bundle/pipeline_reader.h"

namespace od {

bool PipelineReader::read_loop(const Json& row, const Place& at, Loop& out) {
  out = Loop();
  const Place roles = at.field("roles"), passes = at.field("passes"), rescale_at = at.field("rescale");
  const Json* rows[6];
  if (!check_.record(row, {"from", "until", "roles", "prediction", "passes", "combine"}, rows, at) ||
      !amount(*rows[0], at.field("from"), out.from) || !amount(*rows[1], at.field("until"), out.until) ||
      !check_.array(*rows[2], 1, kMaxRoles, roles) || !pool_.array(out.roles, rows[2]->list.count, check_.error())) {
    return false;
  }
  const Text rate("call");
  bool reads_texts = false;
  for (size_t i = 0; i < out.roles.count; ++i) {
    always_ = i + 1 == out.roles.count;
    if (!read_role(rows[2]->list[i], roles.item(i), {&rate, 1}, false, out.roles[i])) return false;
    always_ = false;
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
  if (rescale && !plain_.choose(check_, *rescale, rescale_at, out.rescale)) return false;
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
  Names known;  // the timestep is the same in all passes
  for (size_t i = 0; i < values_.size(); ++i) {
    const auto value = static_cast<i32>(i);
    if (value != kTimestep && visible_.has(values_[i].name) && !known.add(values_[i].name, value)) return no_memory();
  }
  for (size_t i = 0; i < out.zeros.count; ++i) {
    if (!known.choose(check_, zeros->list[i], zeros_at.item(i), out.zeros[i])) return false;
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
