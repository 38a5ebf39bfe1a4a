#include "doctor/golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "base/json.h"
#include "bundle/checker.h"

namespace od {
namespace {

constexpr u32 kSigns = 255;  // the seed of signs: no operand has this place
constexpr i64 kBlocks = 1024;
constexpr u32 kIndices = 64;
constexpr size_t kMaxLaunches = 65536;
const char* const kFix = "make it again with `ondevice doctor --golden FILE`";

// A hash of a position and a seed.
u32 bits(u32 position, u32 seed) {
  u32 x = position * 0x9E3779B9u + seed * 0x85EBCA6Bu;
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ x >> 16;
}

// Of a float that is a whole number of 11 bits times a power of two, which half holds exactly.
u16 exact_half(float value) {
  u32 word;
  memcpy(&word, &value, sizeof word);
  const u32 sign = word >> 16 & 0x8000u;
  if (!(word & 0x7FFFFFFFu)) return static_cast<u16>(sign);
  const u32 exponent = (word >> 23 & 0xFFu) - 127 + 15;  // 1/2048 has 4, so all are normal
  return static_cast<u16>(sign | exponent << 10 | (word >> 13 & 0x3FFu));
}

double value_at(Dtype dtype, const u8* data, u64 index) {
  switch (dtype) {
    case Dtype::f32: {
      float value;
      memcpy(&value, data + index * 4, sizeof value);
      return static_cast<double>(value);
    }
    case Dtype::f16: {
      u16 half;
      memcpy(&half, data + index * 2, sizeof half);
      return static_cast<double>(from_half(half));
    }
    case Dtype::i32: {
      i32 value;
      memcpy(&value, data + index * 4, sizeof value);
      return value;
    }
    case Dtype::i8:
      return static_cast<int8_t>(data[index]);
    case Dtype::u4x2:
      break;
  }
  return data[index];
}

class Reader {
 public:
  Reader(Text name, const Manifest& manifest, Pool& pool, Error& error)
      : manifest_(manifest), pool_(pool), name_(name), error_(error), check_(name, error) {}

  bool read(const Json& file, Text digest, Golden& out) {
    const Place root;
    const Json* fields[5];
    if (!check_.record(file, {"format", "version", "bundle", "target", "launches"}, fields, root)) return false;
    if (!fields[0]->is(Json::Kind::text) || fields[0]->text != "ondevice-golden" ||
        !fields[1]->is(Json::Kind::integer) || fields[1]->integer != 1) {
      return fail(error_, Code::usage, name_, kFix, "it is no golden file of this version.");
    }
    if (!fields[2]->is(Json::Kind::text) || fields[2]->text != digest) {
      return fail(error_, Code::usage, name_, "make it again from this bundle with `ondevice doctor --golden FILE`",
                  "it was made of another bundle.");
    }
    if (!fields[3]->is(Json::Kind::text)) return check_.fail("target", "is no text");
    out.target = fields[3]->text;
    const Place at("launches");
    if (!check_.array(*fields[4], 0, kMaxLaunches, at) || !pool_.array(out.launches, fields[4]->list.count, error_)) {
      return false;
    }
    for (size_t i = 0; i < out.launches.count; ++i) {
      if (!launch(fields[4]->list[i], at.item(i), out.launches[i])) return false;
    }
    return true;
  }

 private:
  bool launch(const Json& row, const Place& at, GoldenLaunch& out) {
    const Json* fields[4];
    if (!check_.record(row, {"plan", "dispatch", "fill", "results"}, fields, at)) return false;
    const Place plan = at.field("plan"), how = at.field("fill"), results = at.field("results");
    out.plan = nullptr;
    for (const PlanEntry& entry : manifest_.plans) {
      if (fields[0]->is(Json::Kind::text) && manifest_.files[entry.file].path == fields[0]->text) out.plan = &entry;
    }
    if (!out.plan) return check_.fail(plan, "is no plan of the bundle");
    static const Text kFills[] = {"signed", "positive"};
    size_t chosen = 0;
    if (!check_.integer(*fields[1], 0, 65535, at.field("dispatch"), out.dispatch) ||
        !check_.one_of(*fields[2], {kFills, 2}, how, chosen) || !check_.array(*fields[3], 0, kMaxArguments, results) ||
        !pool_.array(out.results, fields[3]->list.count, error_)) {
      return false;
    }
    out.fill = chosen ? Fill::positive : Fill::is_signed;
    for (size_t i = 0; i < out.results.count; ++i) {
      if (!result(fields[3]->list[i], results.item(i), out.results[i])) return false;
    }
    return true;
  }

  bool result(const Json& row, const Place& at, GoldenResult& out) {
    const Json* fields[5];
    return check_.record(row, {"operand", "block", "odd", "sums", "slack"}, fields, at) &&
           check_.integer(*fields[0], 0, i64(2 * kMaxArguments), at.field("operand"), out.operand) &&
           check_.integer(*fields[1], 1, i64(kMaxBytes), at.field("block"), out.block) &&
           check_.integer(*fields[2], 0, i64(kMaxBytes), at.field("odd"), out.odd) &&
           numbers(*fields[3], at.field("sums"), -1e300, out.sums) &&
           numbers(*fields[4], at.field("slack"), 0, out.slack);
  }

  bool numbers(const Json& list, const Place& at, double low, Span<double>& out) {
    if (!check_.array(list, 1, kBlocks, at) || !pool_.array(out, list.list.count, error_)) return false;
    for (size_t i = 0; i < out.count; ++i) {
      if (!check_.number(list.list[i], low, 1e300, at.item(i), out[i])) return false;
    }
    return true;
  }

  const Manifest& manifest_;
  Pool& pool_;
  Text name_;
  Error& error_;
  Checker check_;
};

}  // namespace

void fill(Dtype dtype, u64 count, u32 seed, Fill fill, u8* out) {
  if (fill == Fill::none) {
    memset(out, 0xFF, static_cast<size_t>(count * bytes_of(dtype)));
    return;
  }
  for (u64 i = 0; i < count; ++i) {
    const u32 random = bits(static_cast<u32>(i), seed);
    const i32 high = static_cast<i32>(random >> 21);
    const float value =
        fill == Fill::positive ? static_cast<float>(high + 1) / 2048.0f : static_cast<float>(high - 1024) / 1024.0f;
    if (dtype == Dtype::f32) {
      memcpy(out + i * 4, &value, sizeof value);
    } else if (dtype == Dtype::f16) {
      const u16 half = exact_half(value);
      memcpy(out + i * 2, &half, sizeof half);
    } else if (dtype == Dtype::i32) {
      const u32 index = random % kIndices;
      memcpy(out + i * 4, &index, sizeof index);
    } else {
      out[i] = static_cast<u8>(random >> 24);
    }
  }
}

bool parse_golden(Bytes data, Text name, const Manifest& manifest, Text digest, Pool& pool, Golden& out, Error& error) {
  Json file;
  Reader reader(name, manifest, pool, error);
  const bool read = parse_json(data, name, pool, file, error) && reader.read(file, digest, out);
  if (!read && error.code == Code::bundle) error.code = Code::usage;  // the file is a flag's, and no part of the bundle
  return read;
}

bool compare(const GoldenResult& expected, Dtype dtype, u64 count, const u8* data, char* why, size_t room) {
  u64 odd = 0, wrong = 0;
  double worst = 0;
  why[0] = 0;
  for (u64 b = 0; b < expected.sums.count; ++b) {
    double sum = 0;
    const u64 end = min(count, (b + 1) * expected.block);
    for (u64 i = b * expected.block; i < end; ++i) {
      const double value = value_at(dtype, data, i);
      if (!isfinite(value)) {
        ++odd;
      } else {
        sum += bits(static_cast<u32>(i), kSigns) & 1 ? -value : value;
      }
    }
    const double off = fabs(sum - expected.sums[b]),
                 beyond = off / (expected.slack[b] > 0 ? expected.slack[b] : 1e-300);
    if (off <= expected.slack[b]) continue;
    ++wrong;
    if (beyond <= worst) continue;
    worst = beyond;
    snprintf(why, room, "elements %llu to %llu sum to %.6g (expected %.6g, at most %.2g off)",
             static_cast<unsigned long long>(b * expected.block), static_cast<unsigned long long>(end - 1), sum,
             expected.sums[b], expected.slack[b]);
  }
  if (!wrong && odd == expected.odd) return true;
  const size_t used = strlen(why);
  if (wrong) {
    snprintf(why + used, room - used, "; %llu of %zu parts are wrong", static_cast<unsigned long long>(wrong),
             expected.sums.count);
  }
  const size_t more = strlen(why);
  if (odd != expected.odd) {
    snprintf(why + more, room - more, "%s%llu values are NaN or infinite (expected %llu)", more ? "; " : "",
             static_cast<unsigned long long>(odd), static_cast<unsigned long long>(expected.odd));
  }
  return false;
}

}  // namespace od
