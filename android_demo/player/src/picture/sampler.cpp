#include "picture/sampler.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

namespace od {
namespace {

constexpr size_t kMaxCalls = 20000, kMaxSlots = 16, kMaxRows = 8, kMaxTerms = 20, kMaxName = 40;
constexpr double kLargest = 1e30;  // of a table's numbers: they are multiplied in float32
constexpr i32 kModel = -1, kNoise = -2;
constexpr const char* kFix = "convert the checkpoint again";

// Where in a table a reader is, for messages: "calls[3]: rows[0]: slot", numbers of calls and rows where they are.
struct Place {
  i64 call = -1, row = -1;
  const char* field = "";
};

class Reader {
 public:
  Reader(Text where, Pool& pool, SamplerTable& out, Error& error)
      : where_(where), pool_(pool), out_(out), error_(error) {}

  bool read(const Json& value) {
    const Json *sampler, *steps, *slots, *image, *noise, *calls, *result, *begins;
    const Field fields[] = {{"sampler", &sampler},   {"steps", &steps},        {"slots", &slots},
                            {"calls", &calls},       {"result", &result},      {"start_image", &image},
                            {"start_noise", &noise}, {"begins", &begins, true}};
    if (!record(value, fields, 8, {})) return false;
    if (!integer(*slots, 1, kMaxSlots, {-1, -1, "slots"}, out_.slots)) return false;
    if (!list(*calls, 1, kMaxCalls, {-1, -1, "calls"}) || !name(*sampler)) return false;
    if (!integer(*steps, 1, kMaxCalls, {-1, -1, "steps"}, out_.steps)) return false;
    if (!real(*image, {-1, -1, "start_image"}, out_.start_image)) return false;
    if (!real(*noise, {-1, -1, "start_noise"}, out_.start_noise)) return false;
    if (!pool_.array(out_.calls, calls->list.count, error_)) return false;
    for (size_t i = 0; i < calls->list.count; ++i) {
      if (!call(calls->list[i], static_cast<i64>(i), out_.calls[i])) return false;
    }
    const Place at{-1, -1, "result"};
    if (!integer(*result, 0, out_.slots - 1, at, out_.result)) return false;
    return source(static_cast<i32>(out_.result), false, at) && (!begins || begin(*begins));
  }

 private:
  struct Field {
    const char* name;
    const Json** value;
    bool optional = false;
  };

  // The text "WHERE: calls[3]: rows[0]: field".
  Text spelled(Place place, char (&text)[256]) const {
    const Text file(where_.data, min<size_t>(where_.size, 150));
    int size = snprintf(text, sizeof text, "%.*s", OD_TEXT(file));
    const auto add = [&](const char* format, auto value) {
      if (size > 0 && static_cast<size_t>(size) < sizeof text) {
        size += snprintf(text + size, sizeof text - static_cast<size_t>(size), format, value);
      }
    };
    if (place.call >= 0) add(": calls[%lld]", static_cast<long long>(place.call));
    if (place.row >= 0) add(": rows[%lld]", static_cast<long long>(place.row));
    if (place.field[0]) add(": %s", place.field);
    return text;
  }

  template <class... Arguments>
  bool wrong(Place place, const char* what, Arguments... arguments) {
    char text[256];
    return fail(error_, Code::bundle, spelled(place, text), kFix, what, arguments...);
  }

  // What was got, for messages.
  static const char* shown(const Json& value, char (&text)[96]) {
    switch (value.kind) {
      case Json::Kind::null:
        return "null";
      case Json::Kind::boolean:
        return value.boolean ? "true" : "false";
      case Json::Kind::integer:
        if (value.too_large) return "a number that is too large";
        snprintf(text, sizeof text, "%lld", static_cast<long long>(value.integer));
        return text;
      case Json::Kind::real:
        snprintf(text, sizeof text, "%g", value.real);
        return text;
      case Json::Kind::text:
        snprintf(text, sizeof text, "\"%.*s\"", static_cast<int>(min<size_t>(value.text.size, 60)), value.text.data);
        return text;
      case Json::Kind::list:
        snprintf(text, sizeof text, "a list of %zu", value.list.count);
        return text;
      case Json::Kind::object:
        snprintf(text, sizeof text, "an object of %zu", value.members.count);
        return text;
    }
    return "";
  }

  // An object with exactly these fields.
  bool record(const Json& value, const Field* fields, size_t count, Place place) {
    size_t found = 0;
    bool whole = value.is(Json::Kind::object);
    for (size_t i = 0; i < count; ++i) {
      const Json* one = whole ? value.find(fields[i].name) : nullptr;
      *fields[i].value = one;
      found += one != nullptr;
      whole = whole && (one || fields[i].optional);
    }
    if (whole && found == value.members.count) return true;
    char expected[160] = "";
    for (size_t i = 0, size = 0; i < count; ++i) {
      if (fields[i].optional) continue;
      size += static_cast<size_t>(
          snprintf(expected + size, sizeof expected - size, "%s%s", size ? ", " : "", fields[i].name));
    }
    char text[96];
    return wrong(place, "has wrong fields (got %s, expected %s).", shown(value, text), expected);
  }

  bool list(const Json& value, size_t low, size_t high, Place place) {
    if (value.is(Json::Kind::list) && value.list.count >= low && value.list.count <= high) return true;
    char text[96];
    return wrong(place, "is a wrong list (got %s, expected %zu to %zu items).", shown(value, text), low, high);
  }

  template <class Whole>
  bool integer(const Json& value, i64 low, i64 high, Place place, Whole& out) {
    if (value.is(Json::Kind::integer) && !value.too_large && value.integer >= low && value.integer <= high) {
      out = static_cast<Whole>(value.integer);
      return true;
    }
    char text[96];
    return wrong(place, "is out of range (got %s, expected an integer from %lld to %lld).", shown(value, text),
                 static_cast<long long>(low), static_cast<long long>(high));
  }

  template <class Real>
  bool real(const Json& value, Place place, Real& out) {
    if (value.number() && fabs(value.real) <= kLargest) {
      out = static_cast<Real>(value.real);
      return true;
    }
    char text[96];
    return wrong(place, "is no number that a player can hold (got %s, expected a float32).", shown(value, text));
  }

  bool name(const Json& value) {
    bool word = value.is(Json::Kind::text) && value.text.size > 0 && value.text.size <= kMaxName;
    for (size_t i = 0; word && i < value.text.size; ++i) {
      const char c = value.text.data[i];
      word = c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (i && c >= '0' && c <= '9');
    }
    if (word) {
      out_.sampler = value.text;
      return true;
    }
    char text[96];
    return wrong({-1, -1, "sampler"}, "is no sampler's name (got %s, expected a word).", shown(value, text));
  }

  bool source(i32 slot, bool draws, Place place) {
    if (slot >= 0 && !(written_ >> slot & 1)) return wrong(place, "slot %d is read before it is written.", slot);
    return slot != kNoise || draws || wrong(place, "noise is used but not drawn.");
  }

  bool call(const Json& value, i64 index, Call& out) {
    const Json *timestep, *scale, *sample, *draws, *rows;
    const Field fields[] = {{"timestep", &timestep},
                            {"input_scale", &scale},
                            {"sample", &sample},
                            {"draws_noise", &draws},
                            {"rows", &rows}};
    if (!record(value, fields, 5, {index})) return false;
    if (!draws->is(Json::Kind::boolean)) {
      char text[96];
      return wrong({index, -1, "draws_noise"}, "has a wrong type (got %s, expected true or false).",
                   shown(*draws, text));
    }
    out.draws_noise = draws->boolean;
    const Place at{index, -1, "sample"};
    if (!integer(*sample, 0, out_.slots - 1, at, out.sample)) return false;
    if (!source(static_cast<i32>(out.sample), out.draws_noise, at)) return false;
    if (!list(*rows, 1, kMaxRows, {index, -1, "rows"})) return false;
    if (!pool_.array(out.rows, rows->list.count, error_)) return false;
    for (size_t i = 0; i < rows->list.count; ++i) {
      if (!row(rows->list[i], {index, static_cast<i64>(i)}, out.draws_noise, out.rows[i])) return false;
    }
    return real(*timestep, {index, -1, "timestep"}, out.timestep) &&
           real(*scale, {index, -1, "input_scale"}, out.input_scale);
  }

  bool row(const Json& value, Place place, bool draws, Row& out) {
    const Json *slot, *terms;
    const Field fields[] = {{"slot", &slot}, {"terms", &terms}};
    if (!record(value, fields, 2, place)) return false;
    const auto at = [&](const char* field) { return Place{place.call, place.row, field}; };
    if (!integer(*slot, 0, out_.slots - 1, at("slot"), out.slot)) return false;
    if (!list(*terms, 0, kMaxTerms, at("terms"))) return false;
    if (!pool_.array(out.terms, terms->list.count, error_)) return false;
    for (size_t i = 0; i < terms->list.count; ++i) {
      const Json& pair = terms->list[i];
      Term& term = out.terms[i];
      if (!list(pair, 2, 2, at("term"))) return false;
      if (!integer(pair.list[0], kNoise, out_.slots - 1, at("source"), term.source)) return false;
      if (!source(term.source, draws, at("source"))) return false;
      if (!real(pair.list[1], at("coefficient"), term.weight)) return false;
    }
    written_ |= 1u << out.slot;
    return true;
  }

  // A table of more slots would read some before they are written.
  bool begin(const Json& value) {
    const Place at{-1, -1, "begins"};
    if (!list(value, 0, out_.calls.count, at)) return false;
    const size_t count = value.list.count;
    if (!count) return true;
    if (count != out_.calls.count || out_.slots > 1) {
      return wrong(at,
                   "is a wrong list (got %zu items for %zu calls and %u slots, expected one per call, and one slot).",
                   count, out_.calls.count, out_.slots);
    }
    if (!pool_.array(out_.begins, count, error_)) return false;
    for (size_t i = 0; i < count; ++i) {
      char field[32];
      snprintf(field, sizeof field, "begins[%zu]", i);
      const Place one{-1, -1, field};
      const Json& pair = value.list[i];
      if (!list(pair, 2, 2, one)) return false;
      if (!real(pair.list[0], one, out_.begins[i].image) || !real(pair.list[1], one, out_.begins[i].noise))
        return false;
    }
    return true;
  }

  Text where_;
  Pool& pool_;
  SamplerTable& out_;
  Error& error_;
  u32 written_ = 1;  // slots that have a value, one bit each
};

}  // namespace

bool parse_sampler(const Json& value, Text where, Pool& pool, SamplerTable& out, Error& error) {
  out = {};
  return Reader(where, pool, out, error).read(value);
}

bool first_call(const SamplerTable& table, double strength, u32& call, Error& error) {
  const size_t count = table.calls.count;
  if (table.begins.empty()) {
    return fail(error, Code::usage, "sampler", "choose a sampler whose table has `begins`, such as ddim",
                "%.*s at %u steps cannot begin from a picture.", OD_TEXT(table.sampler), table.steps);
  }
  if (!(strength >= 0 && strength <= 1)) {
    return fail(error, Code::usage, "strength", "give another value", "is out of range (got %g, expected 0 to 1).",
                strength);
  }
  const auto left = static_cast<size_t>(static_cast<double>(count) * strength);
  if (!left) {
    return fail(error, Code::usage, "strength", "use more steps or a higher strength",
                "is too low (got %g, expected at least %.3g with %zu steps).", strength,
                1.0 / static_cast<double>(count), count);
  }
  call = static_cast<u32>(count - left);
  return true;
}

bool Sampling::begin(const SamplerTable& table, u32 first, Span<const float> noise, const float* image, Error& error) {
  table_ = &table;
  count_ = noise.count;
  slots_.clear();
  row_.clear();
  if (!slots_.resize(count_ * table.slots) || !row_.resize(count_)) {
    return Pool::no_memory(error, count_ * (table.slots + 1) * sizeof(float));
  }
  const bool table_begins = image && first < table.begins.count;
  const float of_image = table_begins ? table.begins[first].image : table.start_image;
  const float of_noise = table_begins ? table.begins[first].noise : table.start_noise;
  for (size_t i = 0; i < count_; ++i) {
    const float start = of_noise * noise[i];
    slots_[i] = image ? of_image * image[i] + start : start;
  }
  return true;
}

void Sampling::input(u32 call, Span<float> out) const {
  const float scale = table_->calls[call].input_scale;
  const float* slot = sample(call).data;
  for (size_t i = 0; i < count_; ++i) out[i] = slot[i] * scale;
}

void Sampling::step(u32 call, Span<const float> output, const float* draw) {
  for (const Row& row : table_->calls[call].rows) {
    memset(row_.begin(), 0, count_ * sizeof(float));
    for (const Term& term : row.terms) {
      const float* source = term.source == kModel   ? output.data
                            : term.source == kNoise ? draw
                                                    : slots_.begin() + static_cast<size_t>(term.source) * count_;
      for (size_t i = 0; i < count_; ++i) row_[i] += term.weight * source[i];
    }
    memcpy(slots_.begin() + row.slot * count_, row_.begin(), count_ * sizeof(float));
  }
}

Span<const float> Sampling::sample(u32 next_call) const {
  const u32 slot = next_call < table_->calls.count ? table_->calls[next_call].sample : table_->result;
  return {slots_.begin() + slot * count_, count_};
}

Span<const float> Sampling::result() const { return sample(static_cast<u32>(table_->calls.count)); }

}  // namespace od
