// What the user may give, and where a picture begins: numbers, texts, pictures and latents.
#include "bundle/pipeline_reader.h"

namespace od {

bool Names::has(Text name) const {
  for (const Text text : texts_) {
    if (text == name) return true;
  }
  return false;
}

bool Names::choose(const Checker& check, const Json& value, const Place& at, i32& index) const {
  size_t found = 0;
  if (!check.one_of(value, texts_.span(), at, found)) return false;
  index = indices_[found];
  return true;
}

// An identifier that nothing else has.
bool PipelineReader::new_name(Text name, const Place& at) const {
  if (!check_.identifier(name, at)) return false;
  bool taken = name == "width" || name == "height" || numbers_.has(name) || texts_.has(name) || pictures_.has(name);
  for (size_t i = 0; i < values_.size() && !taken; ++i) taken = values_[i].name == name;
  return !taken || check_.fail(at, "is %s, a name that is taken", shown(name).text);
}

bool PipelineReader::amount(const Json& value, const Place& at, Amount& out) const {
  out = {};
  if (value.is(Json::Kind::text)) return amounts_.choose(check_, value, at, out.number);
  return check_.number(value, -kFloatMax, kFloatMax, at, out.constant);
}

// Two numbers that were read before.
bool PipelineReader::pair(const Json& value, const Place& at, i32& first, i32& second) const {
  return check_.array(value, 2, 2, at) && plain_.choose(check_, value.list[0], at.item(0), first) &&
         plain_.choose(check_, value.list[1], at.item(1), second);
}

bool PipelineReader::read_numbers(const Json& value) {
  const Place pipeline("pipeline"), numbers = pipeline.field("numbers");
  if (!amounts_.add("width", kWidth) || !amounts_.add("height", kHeight)) return no_memory();
  if (!check_.table(value, kMaxNumbers, numbers) || !pool_.array(out_.numbers, value.members.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < value.members.count; ++i) {
    const Text name = value.members[i].key;
    const i32 index = static_cast<i32>(i);
    Number& number = out_.numbers[i];
    if (!read_number(value.members[i], numbers.key(name), number)) return false;
    if (!numbers_.add(name, index)) return no_memory();
    if (number.has_default && (!plain_.add(name, index) || !amounts_.add(name, index))) return no_memory();
    if (number.has_default && number.window_from == kNone && !steady_.add(name, index)) return no_memory();
  }
  return true;
}

bool PipelineReader::read_number(const Member& row, const Place& at, Number& out) {
  const Json& value = row.value;
  out = {};
  out.name = row.key;
  out.low = -kFloatMax;
  out.high = kFloatMax;
  if (!new_name(row.key, at) || !check_.object(value, at)) return false;
  if (const Json* ramp = value.find("ramp")) return pair(*ramp, at.field("ramp"), out.ramp_from, out.ramp_until);
  const Json *low = value.find("low"), *high = value.find("high"), *window = value.find("window"), *usual = nullptr;
  const Place by_default = at.field("default");
  if (low && !check_.number(*low, -kFloatMax, kFloatMax, at.field("low"), out.low)) return false;
  if (high && !check_.number(*high, out.low, kFloatMax, at.field("high"), out.high)) return false;
  if (!check_.field(value, "default", usual, at) || !amount(*usual, by_default, out.usual)) return false;
  out.has_default = true;
  if (out.usual.number == kNone && !check_.number(*usual, out.low, out.high, by_default, out.usual.constant)) {
    return false;
  }
  return !window || pair(*window, at.field("window"), out.window_from, out.window_until);
}

bool PipelineReader::read_texts(const Json& value) {
  const Place pipeline("pipeline"), texts = pipeline.field("texts");
  if (!check_.table(value, kMaxGiven, texts) || !pool_.array(out_.texts, value.members.count, check_.error())) {
    return false;
  }
  for (size_t i = 0; i < value.members.count; ++i) {
    const Member& row = value.members[i];
    const Place at = texts.key(row.key);
    out_.texts[i].name = row.key;
    if (!new_name(row.key, at) || !check_.table(row.value, kMaxGiven, at) ||
        !check_.flag(row.value, "optional", at, out_.texts[i].optional)) {
      return false;
    }
    if (!texts_.add(row.key, static_cast<i32>(i))) return no_memory();
  }
  return true;
}

bool PipelineReader::read_pictures(const Json& value) {
  const Place pipeline("pipeline"), pictures = pipeline.field("pictures");
  if (!check_.table(value, kMaxGiven, pictures) || !pool_.array(out_.pictures, value.members.count, check_.error())) {
    return false;
  }
  Names themselves;  // pictures that are made of no others
  for (size_t i = 0; i < value.members.count; ++i) {
    const Member& row = value.members[i];
    const Place at = pictures.key(row.key), of = at.field("of");
    Given& given = out_.pictures[i];
    given = {};
    given.name = row.key;
    const Text words[] = {"fit", "mask", "masked", "clip_vision", "edges", "unit"};  // Prepare
    const Json* prepare = nullptr;
    if (!new_name(row.key, at) || !check_.field(row.value, "prepare", prepare, at) ||
        !check_.one_of(*prepare, {words, 6}, at.field("prepare"), given.prepare)) {
      return false;
    }
    const Json* others = row.value.find("of");
    if (others && !check_.array(*others, 0, 2, of)) return false;
    const size_t count = others ? others->list.count : 0;
    for (size_t j = 0; j < count; ++j) {
      if (!themselves.choose(check_, others->list[j], of.item(j), given.of[j])) return false;
      given.optional = given.optional || out_.pictures[given.of[j]].optional;
    }
    if ((given.prepare == Prepare::masked) != (count == 2)) {
      return check_.fail(
          of, "is wrong (expected a picture and its mask for masked, and for other words at most one picture)");
    }
    if (!given.optional && !check_.flag(row.value, "optional", at, given.optional)) return false;
    if (!pictures_.add(row.key, static_cast<i32>(i))) return no_memory();
    if (!count && !themselves.add(row.key, static_cast<i32>(i))) return no_memory();
  }
  return true;
}

bool PipelineReader::read_latents(const Json& value) {
  const Place pipeline("pipeline"), at = pipeline.field("latents");
  Latents& out = out_.latents;
  out = {};
  const Json* rows[4];
  if (!check_.record(value, {"channels", "scale", "scaling", "shift"}, rows, at)) return false;
  const Json* mask = value.find("mask");
  const Json *frames = given(value, "frames"), *begin = given(value, "begin"), *strength = given(value, "strength");
  const Json* rounds = value.find("rounds");
  const Text ways[] = {"down", "up"};
  if (begin && !picture_value(*begin, at.field("begin"), out.begin)) return false;
  if (!begin != !strength) {
    return check_.fail(at.field(begin ? "begin" : "strength"),
                       "is there alone (expected begin and strength, or neither)");
  }
  if (rounds && !strength) {
    return check_.fail(at.field("rounds"), "is there alone (expected begin and strength beside it)");
  }
  if (rounds && !check_.one_of(*rounds, {ways, 2}, at.field("rounds"), out.rounds_up)) return false;
  return (!frames || steady_.choose(check_, *frames, at.field("frames"), out.frames)) &&
         (!strength || steady_.choose(check_, *strength, at.field("strength"), out.strength)) &&
         check_.integer(*rows[0], 1, 64, at.field("channels"), out.channels) &&
         check_.integer(*rows[1], 1, 64, at.field("scale"), out.scale) &&
         check_.number(*rows[2], 1e-9, 1e9, at.field("scaling"), out.scaling) &&
         check_.number(*rows[3], -1e9, 1e9, at.field("shift"), out.shift) && read_preview(value.find("preview"), at) &&
         (!mask || read_mask(*mask, at.field("mask")));
}

// Where a part of a picture is drawn anew.
bool PipelineReader::read_mask(const Json& value, const Place& at) {
  Latents& out = out_.latents;
  const Json* rows[2];
  if (!check_.record(value, {"picture", "strength"}, rows, at)) return false;
  if (out.begin == kNone) return check_.fail(at, "is there alone (expected begin and strength beside it)");
  return prepared(*rows[0], Prepare::mask, at.field("picture"), out.mask) &&
         check_.number(*rows[1], 0, 1, at.field("strength"), out.mask_strength);
}

// Whose pixels the result has outside of which mask.
bool PipelineReader::read_outside(const Json* value, const Place& at) {
  const Json* rows[2];
  if (!value) return true;
  if (!check_.record(*value, {"picture", "mask"}, rows, at)) return false;
  if (out_.frames) return check_.fail(at, "is there, and frames are given (expected a picture)");
  return prepared(*rows[0], Prepare::fit, at.field("picture"), out_.outside.picture) &&
         prepared(*rows[1], Prepare::mask, at.field("mask"), out_.outside.mask);
}

bool PipelineReader::prepared(const Json& value, Prepare how, const Place& at, i32& out) const {
  Names known;
  for (size_t i = 0; i < out_.pictures.count; ++i) {
    const Given& given = out_.pictures[i];
    if (given.prepare == how && !known.add(given.name, static_cast<i32>(i))) return no_memory();
  }
  return known.choose(check_, value, at, out);
}

bool PipelineReader::read_preview(const Json* value, const Place& latents) {
  if (!value) return true;
  const Place at = latents.field("preview");
  const size_t size = out_.latents.channels + 1;
  Span<double>& out = out_.latents.preview;
  if (!check_.array(*value, 3, 3, at) || !pool_.array(out, 3 * size, check_.error())) return false;
  for (size_t colour = 0; colour < 3; ++colour) {
    const Place row = at.item(colour);
    const Json& factors = value->list[colour];
    if (!check_.array(factors, size, size, row)) return false;
    for (size_t i = 0; i < size; ++i) {
      if (!check_.number(factors.list[i], -1e9, 1e9, row.item(i), out[3 * i + colour])) return false;
    }
  }
  return true;
}

}  // namespace od
