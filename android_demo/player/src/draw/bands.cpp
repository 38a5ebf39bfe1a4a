#include "draw/bands.h"

#include <string.h>

#include "base/half.h"

namespace od {
namespace {

// A picture between stages, [1, rows, width, channels] of f16 or f32, and what later stages ask for of its statistics.
struct Held {
  Text name;
  Dtype dtype = Dtype::f32;
  u32 rows = 0, width = 0, channels = 0, groups = 0;
  List<u8> data;  // empty where it is made for its statistics alone, or no later stage reads it
  List<float> mean, variance;

  u64 row_bytes() const { return u64(width) * channels * bytes_of(dtype); }
};

const Operand& made_by(const Plan& plan) { return plan.operands[plan.outputs[0]]; }

bool reads(const Plan& plan, Text name) { return plan.input(name) != kNone; }

// The picture of a stage's input, and its statistics'.
struct Port {
  Text name, picture;
  const Operand* operand;
  bool statistics, mean;
};

Port port_of(const Plan& plan, u32 input) {
  Port port;
  port.operand = &plan.operands[plan.inputs[input]];
  port.name = port.picture = port.operand->name;
  port.statistics = is_statistics(port.name, port.picture, port.mean);
  return port;
}

// Rows of the whole picture that stages read, by `rows_of`; the smallest picture of a stage and its rows.
template <class RowsOf>
const Operand* smallest(const Plan& plan, const RowsOf& rows_of, u32& height) {
  const Operand* least = nullptr;
  for (u32 i = 0; i < plan.inputs.count; ++i) {
    const Port port = port_of(plan, i);
    if (port.statistics) continue;
    const u32 rows = rows_of(port.name);
    if (!least || rows < height) {
      least = port.operand;
      height = rows;
    }
  }
  return least;
}

u32 groups_of(Text name, Span<const Plan* const> later) {
  for (const Plan* plan : later) {
    for (u32 i = 0; i < plan->inputs.count; ++i) {
      const Port port = port_of(*plan, i);
      if (port.statistics && port.picture == name) return port.operand->shape.dims[0];
    }
  }
  return 0;
}

bool read_later(Text name, Span<const Plan* const> later) {
  for (const Plan* plan : later) {
    if (reads(*plan, name)) return true;
  }
  return false;
}

// Mean and variance of groups of neighbouring channels, band by band: sums in double precision around each channel's
// first value.
class Sums {
 public:
  bool open(u32 channels, Error& error) {
    channels_ = channels;
    return (origin_.resize(channels) && sum_.resize(channels) && square_.resize(channels)) ||
           Pool::no_memory(error, channels * sizeof(double));
  }

  void add(Dtype dtype, const u8* data, u64 pixels) {
    for (u64 pixel = 0; pixel < pixels; ++pixel) {
      for (u32 c = 0; c < channels_; ++c) {
        const u64 at = pixel * channels_ + c;
        float value;
        if (dtype == Dtype::f16) {
          u16 half;
          memcpy(&half, data + 2 * at, sizeof half);
          value = from_half(half);
        } else {
          memcpy(&value, data + 4 * at, sizeof value);
        }
        if (!count_ && !pixel) origin_[c] = value;
        const double off = static_cast<double>(value - origin_[c]);
        sum_[c] += off;
        square_[c] += off * off;
      }
    }
    count_ += pixels;
  }

  bool result(u32 groups, List<float>& mean, List<float>& variance, Error& error) const {
    if (!mean.resize(groups) || !variance.resize(groups)) return Pool::no_memory(error, groups * sizeof(float));
    const u32 each = channels_ / groups;
    const auto count = static_cast<double>(count_);
    for (u32 g = 0; g < groups; ++g) {
      double means = 0, spread = 0;
      for (u32 c = g * each; c < (g + 1) * each; ++c) means += sum_[c] / count + static_cast<double>(origin_[c]);
      means /= each;
      for (u32 c = g * each; c < (g + 1) * each; ++c) {
        const double off = sum_[c] / count, own = off + static_cast<double>(origin_[c]) - means;
        spread += square_[c] / count - off * off + own * own;
      }
      mean[g] = static_cast<float>(means);
      variance[g] = static_cast<float>(spread / each);
    }
    return true;
  }

 private:
  u32 channels_ = 0;
  u64 count_ = 0;
  List<float> origin_;
  List<double> sum_, square_;
};

struct Band {
  u32 start, begin, end;  // first row; first row that is kept; end of those
};

// The band that makes rows from `end` on, of pictures of `height` rows, `high` at a time.
Band next_band(u32 end, u32 height, u32 high) {
  const u32 start = min(end ? end - 1 : 0, height - high);
  return {start, end, start + high >= height ? height : start + high - 1};
}

class Decoder {
 public:
  Decoder(Session& session, Span<const Plan* const> stages) : session_(session), stages_(stages) {}
  ~Decoder() {
    for (Held& one : held_) {
      one.data.reset();
      one.mean.reset();
      one.variance.reset();
    }
  }

  bool first(Span<const float> latents, Error& error) {
    if (!pool_.array(held_, stages_.count, error)) return false;
    const Plan& plan = *stages_[0];
    Held& made = describe(0, made_by(plan).shape.dims[1]);
    if (!made.data.resize(made.row_bytes() * made.rows)) return Pool::no_memory(error, made.row_bytes() * made.rows);
    Input input;
    input.port = plan.operands[plan.inputs[0]].name;
    input.host = {reinterpret_cast<const u8*>(latents.data), latents.count * sizeof(float)};
    Output output;
    output.port = made.name;
    output.host = made.data.span();
    if (!session_.run(plan, {&input, 1}, {&output, 1}, error)) return false;
    if (!made.groups) return true;
    Sums sums;
    if (!sums.open(made.channels, error)) return false;
    sums.add(made.dtype, made.data.begin(), u64(made.rows) * made.width);
    return sums.result(made.groups, made.mean, made.variance, error);
  }

  bool stage(size_t number, Error& error) {
    const Plan& plan = *stages_[number];
    u32 height = 0;
    const Operand* least = smallest(
        plan, [&](Text name) { return of(name)->rows; }, height);
    const u32 high = least->shape.dims[1], scale = made_by(plan).shape.dims[1] / high;
    Held& made = describe(number, height * scale);
    const auto later = stages_.slice(number + 1, stages_.count);
    const bool kept = later.empty() || read_later(made.name, later);
    Held* dying = kept ? dying_like(made, plan, later) : nullptr;  // gives its memory
    if (kept && !dying && !made.data.resize(made.row_bytes() * made.rows)) {
      return Pool::no_memory(error, made.row_bytes() * made.rows);
    }
    Sums sums;
    if (made.groups && !sums.open(made.channels, error)) return false;
    List<u8> result, waiting;  // waiting: rows that a band to come may still read as they were
    const u64 row = made.row_bytes();
    if (!result.resize(row * high * scale)) return Pool::no_memory(error, row * high * scale);
    u8* const target = dying ? dying->data.begin() : made.data.begin();
    u64 written = 0;  // rows of the target
    for (u32 end = 0; end < height;) {
      const Band band = next_band(end, height, high);
      if (!run(plan, band.start, high, result, error)) return false;
      const u8* rows = result.begin() + row * (band.begin - band.start) * scale;
      const u64 count = u64(band.end - band.begin) * scale;
      if (made.groups) sums.add(made.dtype, rows, count * made.width);
      end = band.end;
      if (!kept) continue;
      const size_t had = waiting.size();
      if (!waiting.resize(had + row * count)) return Pool::no_memory(error, had + row * count);
      memcpy(waiting.begin() + had, rows, row * count);
      const u64 free = dying && end < height ? u64(next_band(end, height, high).start) * scale : u64(end) * scale;
      if (free <= written) continue;
      const u64 bytes = row * (free - written);
      memcpy(target + row * written, waiting.begin(), bytes);
      memmove(waiting.begin(), waiting.begin() + bytes, waiting.size() - bytes);
      if (!waiting.resize(waiting.size() - bytes)) return Pool::no_memory(error, bytes);
      written = free;
    }
    if (dying) made.data.take(dying->data);
    if (made.groups && !sums.result(made.groups, made.mean, made.variance, error)) return false;
    for (size_t i = 0; i < number; ++i) {
      if (!read_later(held_[i].name, later)) held_[i].data.reset();
    }
    return true;
  }

  const Held& last() const { return held_[stages_.count - 1]; }

 private:
  Held& describe(size_t number, u32 rows) {
    const Operand& out = made_by(*stages_[number]);
    Held& made = held_[number];
    made.name = out.name;
    made.dtype = out.dtype;
    made.rows = rows;
    made.width = out.shape.dims[2];
    made.channels = out.shape.dims[3];
    made.groups = groups_of(out.name, stages_.slice(number + 1, stages_.count));
    return made;
  }

  // A picture of the same shape that this stage is the last to read.
  Held* dying_like(const Held& made, const Plan& plan, Span<const Plan* const> later) {
    for (Held& one : held_) {
      const bool alike = one.rows == made.rows && one.width == made.width && one.channels == made.channels;
      if (&one == &made || !alike || one.dtype != made.dtype || one.data.empty()) continue;
      if (reads(plan, one.name) && !read_later(one.name, later)) return &one;
    }
    return nullptr;
  }

  Held* of(Text name) {
    for (Held& one : held_) {
      if (one.rows && one.name == name) return &one;
    }
    return nullptr;  // never: check_stages saw to it
  }

  bool run(const Plan& plan, u32 start, u32 high, List<u8>& result, Error& error) {
    List<Input> inputs;
    for (u32 i = 0; i < plan.inputs.count; ++i) {
      const Port port = port_of(plan, i);
      Held& from = *of(port.picture);
      Input input;
      input.port = port.name;
      if (port.statistics) {
        const List<float>& values = port.mean ? from.mean : from.variance;
        input.host = {reinterpret_cast<const u8*>(values.begin()), values.size() * sizeof(float)};
      } else {
        const u32 by = port.operand->shape.dims[1] / high;
        input.host = {from.data.begin() + from.row_bytes() * start * by, from.row_bytes() * high * by};
      }
      if (!inputs.push(input)) return Pool::no_memory(error, sizeof input);
    }
    Output output;
    output.port = made_by(plan).name;
    output.host = result.span();
    return session_.run(plan, inputs.span(), {&output, 1}, error);
  }

  Session& session_;
  Span<const Plan* const> stages_;
  Pool pool_;
  Span<Held> held_;
};

}  // namespace

bool band_heights(const Bundle& bundle, u32 height, u32 width, List<u32>& out) {
  const Manifest& manifest = bundle.manifest();
  const u32 decoder = manifest.pipeline.after[manifest.pipeline.after.count - 1].component;
  out.clear();
  for (const PlanEntry& entry : manifest.plans) {
    if (!bundle.served(entry) || entry.component != decoder || entry.sizes.get("stage") != 1) continue;
    if (entry.sizes.get("height") != height || entry.sizes.get("width") != width) continue;
    const u32 rows = entry.sizes.get("rows");
    size_t at = 0;
    while (at < out.size() && out[at] > rows) ++at;
    if (at < out.size() && out[at] == rows) continue;
    if (!out.push(0)) return false;
    for (size_t i = out.size() - 1; i > at; --i) out[i] = out[i - 1];
    out[at] = rows;
  }
  return true;
}

bool find_stages(Bundle& bundle, u32 height, u32 width, u32 rows, List<const Plan*>& out, Error& error) {
  const Manifest& manifest = bundle.manifest();
  const u32 decoder = manifest.pipeline.after[manifest.pipeline.after.count - 1].component;
  out.clear();
  for (u32 stage = 1;; ++stage) {
    Sizes sizes;
    sizes.set("batch", 1);
    sizes.set("height", height);
    sizes.set("width", width);
    sizes.set("stage", stage);
    sizes.set("rows", rows);
    if (!bundle.find(decoder, sizes)) break;
    const Plan* plan;
    if (!bundle.plan(decoder, sizes, plan, error)) return false;
    if (!out.push(plan)) return Pool::no_memory(error, sizeof plan);
  }
  return out.empty() || check_stages(out.span(), manifest, error);
}

u64 held_bytes(Span<const Plan* const> stages) {
  u64 most = 0;
  List<u32> heights;
  List<u64> sizes;  // 0 where it is gone
  for (size_t number = 0; number < stages.count; ++number) {
    const Plan& plan = *stages[number];
    const Operand& out = made_by(plan);
    u32 rows = out.shape.dims[1];
    if (number) {
      u32 height = 0;
      const auto rows_of = [&](Text name) {
        for (size_t i = 0; i < number; ++i) {
          if (made_by(*stages[i]).name == name) return heights[i];
        }
        return 0u;
      };
      const Operand* least = smallest(plan, rows_of, height);
      rows = height * (rows / least->shape.dims[1]);
    }
    const auto later = stages.slice(number + 1, stages.count);
    const bool kept = !number || later.empty() || read_later(out.name, later);
    const u64 own = kept ? out.bytes / out.shape.dims[1] * rows : 0;
    u64 all = own;
    bool reused = false;  // a picture's memory that is read for the last time
    for (size_t i = 0; i < number; ++i) {
      all += sizes[i];
      if (read_later(made_by(*stages[i]).name, later)) continue;
      reused = reused || (own && sizes[i] == own);
      sizes[i] = 0;
    }
    most = max(most, all - (reused ? own : 0));
    if (!heights.push(rows) || !sizes.push(own)) return kMaxBytes;
  }
  return most;
}

bool decode_in_bands(Session& session, Span<const Plan* const> stages, Span<const float> latents, List<float>& out,
                     Error& error) {
  Decoder decoder(session, stages);
  if (!decoder.first(latents, error)) return false;
  for (size_t number = 1; number < stages.count; ++number) {
    if (!decoder.stage(number, error)) return false;
  }
  const Held& last = decoder.last();  // f32, channels last
  const size_t plane = size_t(last.rows) * last.width;
  if (!out.resize(plane * last.channels)) return Pool::no_memory(error, plane * last.channels * sizeof(float));
  const auto* from = reinterpret_cast<const float*>(last.data.begin());
  for (size_t pixel = 0; pixel < plane; ++pixel) {
    for (u32 c = 0; c < last.channels; ++c) out[c * plane + pixel] = from[pixel * last.channels + c];
  }
  return true;
}

}  // namespace od
