#include "picture/sampler.h"

#include <math.h>
#include <string.h>

#include "bundle/checker.h"

namespace od {
namespace {

constexpr size_t kMaxCalls = 20000, kMaxSlots = 16, kMaxRows = 8, kMaxTerms = 20, kMaxName = 40,
                 kMaxTrainSteps = 100000;
constexpr double kLargest = 1e30;  // of a table's numbers: they are multiplied in float32
constexpr i32 kModel = -1, kNoise = -2;

class Reader {
 public:
  Reader(Text where, Pool& pool, SamplerTable& out, Error& error)
      : check_(where, error), pool_(pool), out_(out), error_(error) {}

  bool read(const Json& value) {
    static constexpr const char* kKeys[] = {"sampler",     "steps", "slots", "start_image",
                                            "start_noise", "calls", "result"};
    const Json* fields[7];
    const Json* begins = value.find("begins");
    const Json* noised = value.find("noised");
    const Json* train_steps = value.find("train_steps");
    if (!exactly(value, kKeys, fields, size_t{!!begins} + !!noised + !!train_steps, {})) return false;
    const Json& calls = *fields[5];
    if (!check_.identifier(*fields[0], "sampler", out_.sampler)) return false;
    if (out_.sampler.size > kMaxName) return check_.fail("sampler", "is too long (expected at most %zu)", kMaxName);
    if (!check_.integer(*fields[1], 1, kMaxCalls, "steps", out_.steps)) return false;
    if (!check_.integer(*fields[2], 1, kMaxSlots, "slots", out_.slots)) return false;
    if (!real(*fields[3], "start_image", out_.start_image)) return false;
    if (!real(*fields[4], "start_noise", out_.start_noise)) return false;
    const Place at = "calls";
    if (!check_.array(calls, 1, kMaxCalls, at) || !pool_.array(out_.calls, calls.list.count, error_)) return false;
    for (size_t i = 0; i < calls.list.count; ++i) {
      if (!call(calls.list[i], at.item(i), out_.calls[i])) return false;
    }
    i32 result = 0;
    if (!source(*fields[6], 0, false, "result", result)) return false;
    out_.result = static_cast<u32>(result);
    if (train_steps && !check_.integer(*train_steps, 1, kMaxTrainSteps, "train_steps", out_.train_steps)) return false;
    return (!begins || begin(*begins, "begins")) && (!noised || pairs(*noised, "noised", out_.noised));
  }

 private:
  // An object with these fields, `more` others, and nothing else.
  template <size_t N>
  bool exactly(const Json& value, const char* const (&keys)[N], const Json* (&out)[N], size_t more, const Place& at) {
    if (!check_.record(value, keys, out, at)) return false;
    if (value.members.count == N + more) return true;
    return check_.fail(at, "has %zu fields (expected %zu)", value.members.count, N + more);
  }

  template <class Real>
  bool real(const Json& value, const Place& at, Real& out) {
    double wide;
    if (!check_.number(value, -kLargest, kLargest, at, wide)) return false;
    out = static_cast<Real>(wide);
    return true;
  }

  // What is read: a slot that was written, or, from `lowest` on, the model's output or the draw.
  bool source(const Json& value, i32 lowest, bool draws, const Place& at, i32& out) {
    if (!check_.integer(value, lowest, i64(out_.slots) - 1, at, out)) return false;
    if (out >= 0 && !(written_ >> out & 1)) return check_.fail(at, "slot %d is read before it is written", out);
    return out != kNoise || draws || check_.fail(at, "noise is used but not drawn");
  }

  bool call(const Json& value, const Place& at, Call& out) {
    static constexpr const char* kKeys[] = {"timestep", "input_scale", "sample", "draws_noise", "rows"};
    const Json* fields[5];
    i32 sample = 0;
    if (!exactly(value, kKeys, fields, 0, at) || !check_.flag(value, "draws_noise", at, out.draws_noise)) return false;
    if (!source(*fields[2], 0, out.draws_noise, at.field("sample"), sample)) return false;
    out.sample = static_cast<u32>(sample);
    const Json& rows = *fields[4];
    const Place of_rows = at.field("rows");
    if (!check_.array(rows, 1, kMaxRows, of_rows) || !pool_.array(out.rows, rows.list.count, error_)) return false;
    for (size_t i = 0; i < rows.list.count; ++i) {
      if (!row(rows.list[i], of_rows.item(i), out.draws_noise, out.rows[i])) return false;
    }
    return real(*fields[0], at.field("timestep"), out.timestep) &&
           real(*fields[1], at.field("input_scale"), out.input_scale);
  }

  bool row(const Json& value, const Place& at, bool draws, Row& out) {
    static constexpr const char* kKeys[] = {"slot", "terms"};
    const Json* fields[2];
    if (!exactly(value, kKeys, fields, 0, at)) return false;
    if (!check_.integer(*fields[0], 0, i64(out_.slots) - 1, at.field("slot"), out.slot)) return false;
    const Json& terms = *fields[1];
    const Place of_terms = at.field("terms");
    if (!check_.array(terms, 0, kMaxTerms, of_terms) || !pool_.array(out.terms, terms.list.count, error_)) return false;
    for (size_t i = 0; i < terms.list.count; ++i) {
      const Place one = of_terms.item(i);
      const Json& pair = terms.list[i];
      if (!check_.array(pair, 2, 2, one)) return false;
      if (!source(pair.list[0], kNoise, draws, one.item(0), out.terms[i].source)) return false;
      if (!real(pair.list[1], one.item(1), out.terms[i].weight)) return false;
    }
    written_ |= 1u << out.slot;
    return true;
  }

  // None, or a pair for each call; a table of more slots would read some before they are written.
  bool begin(const Json& value, const Place& at) {
    if (!check_.array(value, 0, out_.calls.count, at)) return false;
    const size_t count = value.list.count;
    if (count && (count != out_.calls.count || out_.slots > 1)) {
      return check_.fail(at, "is %s for %zu calls and %u slots (expected one per call, and one slot)",
                         shown(value).text, out_.calls.count, out_.slots);
    }
    return pairs(value, at, out_.begins);
  }

  // None, or the factors of image and noise for each call.
  bool pairs(const Json& value, const Place& at, Span<SamplerTable::Begin>& out) {
    if (!check_.array(value, 0, out_.calls.count, at)) return false;
    const size_t count = value.list.count;
    if (!count) return true;
    if (count != out_.calls.count) {
      return check_.fail(at, "is %s for %zu calls (expected one per call)", shown(value).text, out_.calls.count);
    }
    if (!pool_.array(out, count, error_)) return false;
    for (size_t i = 0; i < count; ++i) {
      const Place one = at.item(i);
      const Json& pair = value.list[i];
      if (!check_.array(pair, 2, 2, one) || !real(pair.list[0], one.item(0), out[i].image) ||
          !real(pair.list[1], one.item(1), out[i].noise)) {
        return false;
      }
    }
    return true;
  }

  Checker check_;
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

bool first_call(const SamplerTable& table, double strength, bool rounds_up, u32& call, Error& error) {
  const size_t count = table.calls.count;
  if (table.begins.empty()) {
    return fail(error, Code::usage, "sampler", "choose a sampler whose table has `begins`, such as ddim",
                "%.*s at %u steps cannot begin from a picture.", OD_TEXT(table.sampler), table.steps);
  }
  if (!(strength >= 0 && strength <= 1)) {
    return fail(error, Code::usage, "strength", "give another value", "is out of range (got %g, expected 0 to 1).",
                strength);
  }
  const double steps = static_cast<double>(count), wanted = steps * strength;
  const size_t left = rounds_up ? count - static_cast<size_t>(steps - wanted) : static_cast<size_t>(wanted);
  if (!left && rounds_up) {
    return fail(error, Code::usage, "strength", "use a higher strength", "is too low (got %g, expected more).", strength);
  }
  if (!left) {
    return fail(error, Code::usage, "strength", "use more steps or a higher strength",
                "is too low (got %g, expected at least %.3g with %zu steps).", strength, 1 / steps, count);
  }
  call = static_cast<u32>(count - left);
  return true;
}

bool cut_schedule(const SamplerTable& table, double part_start, double part_end, u32& first, u32& end, Error& error) {
  const auto count = static_cast<u32>(table.calls.count);
  const auto from = [&](double part) {  // calls with a timestep from the cutoff on
    const double steps = table.train_steps, cutoff = rint(steps - part * steps);
    u32 calls = 0;
    for (const Call& call : table.calls) calls += call.timestep >= cutoff;
    return calls;
  };
  end = count;
  if (part_start == 0 && part_end == 0) return true;
  if (!table.train_steps || (part_start != 0 && table.begins.empty())) {
    return fail(error, Code::usage, "sampler", "choose a sampler whose table has `begins`, such as euler",
                "%.*s at %u steps cannot be cut in two.", OD_TEXT(table.sampler), table.steps);
  }
  if (part_end != 0) end = from(part_end);
  if (part_start != 0) first = from(part_start);
  return first < end ||
         fail(error, Code::usage, part_start != 0 ? "denoising_start" : "denoising_end",
              "use more steps, or parts that are further apart", "there is no timestep in this part of the schedule.");
}

bool Sampling::begin(const SamplerTable& table, u32 first, Span<const float> noise, const float* image, bool as_it_is,
                     Error& error) {
  table_ = &table;
  count_ = noise.count;
  slots_.clear();
  row_.clear();
  if (!slots_.resize(count_ * table.slots) || !row_.resize(count_)) {
    return Pool::no_memory(error, count_ * (table.slots + 1) * sizeof(float));
  }
  const bool table_begins = image && first < table.begins.count;
  const float of_image = table_begins ? table.begins[first].image : table.start_image;
  const float of_noise = as_it_is ? 1.0f : table_begins ? table.begins[first].noise : table.start_noise;
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

void Sampling::put_back(u32 call, Span<const float> mask, Span<const float> clean, Span<const float> noise) {
  const SamplerTable::Begin level = table_->noised[call];
  float* out = slots_.begin() + (sample(call + 1).data - slots_.begin());
  for (size_t i = 0; i < count_; ++i) {
    const float kept = level.image * clean[i] + level.noise * noise[i];
    out[i] = (1.0f - mask[i]) * kept + mask[i] * out[i];
  }
}

Span<const float> Sampling::sample(u32 next_call) const {
  const u32 slot = next_call < table_->calls.count ? table_->calls[next_call].sample : table_->result;
  return {slots_.begin() + slot * count_, count_};
}

Span<const float> Sampling::result() const { return sample(static_cast<u32>(table_->calls.count)); }

}  // namespace od
