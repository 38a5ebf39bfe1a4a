#include "adapt/changed.h"

#include <math.h>
#include <string.h>

#include "adapt/few_bits.h"
#include "base/half.h"

namespace od {
namespace {

constexpr size_t kBlock = 1024;  // columns that are summed at once

// scale * up [rows, rank] @ down [rank, columns]; of a whole difference up [rows, columns].
struct Term {
  double scale;
  Span<float> up, down;
  size_t rank;
};

// A row's columns from `first` on, in double precision.
void add(const Term& term, size_t row, size_t columns, size_t first, size_t count, double* sum) {
  if (!term.rank) {
    const float* from = term.up.data + row * columns + first;
    for (size_t i = 0; i < count; ++i) sum[i] += term.scale * static_cast<double>(from[i]);
    return;
  }
  double product[kBlock];
  for (size_t i = 0; i < count; ++i) product[i] = 0;
  for (size_t r = 0; r < term.rank; ++r) {
    const auto up = static_cast<double>(term.up[row * term.rank + r]);
    const float* down = term.down.data + r * columns + first;
    for (size_t i = 0; i < count; ++i) product[i] += up * static_cast<double>(down[i]);
  }
  for (size_t i = 0; i < count; ++i) sum[i] += term.scale * product[i];
}

bool refuse(const WeightEntry& weight, Error& error) {
  return fail(error, Code::numeric, weight.key, "use another adapter, or a smaller scale",
              "with its adapters it holds NaN, infinity, or what is too large for %s.", name_of(weight.dtype));
}

u64 largest(const Made& made) {
  u64 most = made.shape.count();
  for (const Made& part : made.of) most = max(most, largest(part));
  return most;
}

}  // namespace

bool Changed::open(Span<const ActiveAdapter> adapters) {
  const Span<WeightEntry> weights = bundle_.manifest().weights;
  for (const ActiveAdapter& one : adapters) {
    if (!adapters_.push(one)) return false;
  }
  if (!has_.resize(weights.count)) return false;
  for (size_t i = 0; i < weights.count; ++i) {
    if (!weights[i].made || !reads_changed(*weights[i].made)) continue;
    has_[i] = true;
    temporary_ = max<u64>(temporary_, 3 * sizeof(float) * largest(*weights[i].made));
  }
  return true;
}

bool Changed::reads_changed(const Made& made) const {
  if (made.op == MadeOp::leaf) {
    for (const ActiveAdapter& one : adapters_) {
      if (bundle_.manifest().adapters[one.adapter].change(made.weight)) return true;
    }
  }
  for (const Made& part : made.of) {
    if (reads_changed(part)) return true;
  }
  return false;
}

bool Changed::bytes(u32 weight, Bytes& out, Error& error) {
  const WeightEntry& entry = bundle_.manifest().weights[weight];
  Bytes file;
  if (!bundle_.shard(entry.file, file, error)) return false;
  out = file.slice(entry.offset, entry.offset + entry.bytes);
  return true;
}

bool Changed::floats(u32 weight, List<float>& out, Error& error) {
  const WeightEntry& entry = bundle_.manifest().weights[weight];
  const size_t count = static_cast<size_t>(entry.shape.count());
  Bytes data;
  if (!bytes(weight, data, error)) return false;
  if (!out.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  if (entry.dtype == Dtype::f32) {
    memcpy(out.begin(), data.data, data.count);
    return true;
  }
  for (size_t i = 0; i < count; ++i) {
    u16 half;
    memcpy(&half, data.data + i * sizeof half, sizeof half);
    out[i] = from_half(half);
  }
  return true;
}

bool Changed::factor(u32 weight, Pool& pool, Span<float>& out, Error& error) {
  List<float> values;
  if (!floats(weight, values, error) || !pool.array(out, values.size(), error)) return false;
  memcpy(out.data, values.begin(), values.size() * sizeof(float));
  return true;
}

// What is added to a weight of the checkpoint: summed in double precision, each term times both scales, rounded once.
bool Changed::delta(const Made& leaf, List<float>& out, Error& error) {
  const Manifest& manifest = bundle_.manifest();
  const size_t count = static_cast<size_t>(leaf.shape.count()), rows = leaf.shape.rank ? leaf.shape.dims[0] : 1;
  const size_t columns = count / rows;
  Pool pool;
  List<Term> terms;
  for (const ActiveAdapter& one : adapters_) {
    const AdapterChange* change = manifest.adapters[one.adapter].change(leaf.weight);
    for (const AdapterTerm& term : change ? change->terms : Span<AdapterTerm>()) {
      const auto up = static_cast<u32>(term.up), down = static_cast<u32>(term.down);
      Term read = {one.scale * term.scale, {}, {}, term.down == kNone ? 0 : manifest.weights[down].shape.dims[0]};
      if (!factor(up, pool, read.up, error) || (read.rank && !factor(down, pool, read.down, error))) return false;
      if (!terms.push(read)) return Pool::no_memory(error, sizeof read);
    }
  }
  out.clear();
  if (!out.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  double total[kBlock];
  for (size_t row = 0; row < (terms.empty() ? 0 : rows); ++row) {
    for (size_t first = 0; first < columns; first += kBlock) {
      const size_t size = min(kBlock, columns - first);
      for (size_t i = 0; i < size; ++i) total[i] = 0;
      for (const Term& term : terms) add(term, row, columns, first, size, total);
      for (size_t i = 0; i < size; ++i) out[row * columns + first + i] = static_cast<float>(total[i]);
    }
  }
  return true;
}

Leaves Changed::leaves() {
  return {this, [](void* user, const Made& leaf, List<float>& out, Error& error) {
            return static_cast<Changed*>(user)->delta(leaf, out, error);
          }};
}

// float32 [k, n] in `summed_`: what is stored in few bits, and what is added to that.
bool Changed::sum(const Made& step, const WeightEntry& weight, Error& error) {
  if (summed_by_ == &step.of[0]) return true;
  const Manifest& manifest = bundle_.manifest();
  const WeightEntry& other = *manifest.weight(weight.other);
  const WeightEntry &numbers = step.numbers() ? weight : other, &scales = step.numbers() ? other : weight;
  const Made &numbers_step = *number_step(*numbers.made), &scales_step = *number_step(*scales.made);
  const size_t columns = step.of[0].shape.dims[1];
  List<float> read, unpacked, delta;
  List<u8> whole;
  Bytes data;
  summed_by_ = nullptr;  // until all of it is there
  if (!floats(static_cast<u32>(&scales - manifest.weights.data), read, error) ||
      !undo(*scales.made, &scales_step, read.span(), unpacked, error) ||
      !bytes(static_cast<u32>(&numbers - manifest.weights.data), data, error) ||
      !undo(*numbers.made, &numbers_step, data, whole, error) ||
      !from_few_bits(numbers_step.op, {whole.begin(), whole.size()}, unpacked.span(), columns, summed_, error) ||
      !values_of(step.of[0], leaves(), delta, error)) {
    return false;
  }
  for (size_t i = 0; i < summed_.size(); ++i) summed_[i] += delta[i];
  return true;
}

bool Changed::store(const WeightEntry& weight, const List<float>& values, List<u8>& out, Error& error) {
  const size_t count = values.size(), size = bytes_of(weight.dtype);
  bool finite = true;
  if (!out.resize(count * size)) return Pool::no_memory(error, count * size);
  for (size_t i = 0; i < count; ++i) {
    if (weight.dtype == Dtype::f16) {
      const u16 half = to_half(values[i]);
      finite = finite && (half & 0x7c00) != 0x7c00;
      memcpy(out.begin() + i * sizeof half, &half, sizeof half);
    } else {
      finite = finite && isfinite(values[i]);
      memcpy(out.begin() + i * sizeof(float), &values[i], sizeof(float));
    }
  }
  return finite || refuse(weight, error);
}

bool Changed::values(u32 index, List<u8>& out, Error& error) {
  const WeightEntry& weight = bundle_.manifest().weights[index];
  const Made* step = number_step(*weight.made);
  List<float> values, added;
  if (!step) {
    if (!values_of(*weight.made, leaves(), added, error) || !floats(index, values, error)) return false;
    for (size_t i = 0; i < values.size(); ++i) values[i] += added[i];
    return store(weight, values, out, error);
  }
  if (!sum(*step, weight, error)) return false;
  for (const float value : summed_) {
    if (!isfinite(value)) return refuse(weight, error);
  }
  const Matrix total = {summed_.begin(), step->of[0].shape.dims[0], step->of[0].shape.dims[1]};
  if (step->numbers()) {
    List<u8> numbers;
    if (!numbers_of(step->op, total, numbers, error) || !redo(*weight.made, step, numbers, out, error)) return false;
  } else if (!scales_of(step->op, total, values, error) || !redo(*weight.made, step, values, added, error) ||
             !store(weight, added, out, error)) {
    return false;
  }
  // The other one of the two is made of the same sum, and comes next.
  const bool done = summed_by_ != nullptr;
  summed_by_ = done ? nullptr : &number_step(*bundle_.manifest().weight(weight.other)->made)->of[0];
  if (done) summed_.reset();
  return true;
}

}  // namespace od
