// How a stored weight is made: {"dtype", "shape", "made"}, as in bundle.json. What is read of it is computed.
#include "adapt/expression.h"
#include "adapt/few_bits.h"
#include "bundle/made.h"
#include "support/fuzz.h"

namespace od::fuzz {
namespace {

constexpr u64 kMost = 1 << 16;  // elements of anything on the way

bool is_small(const Made& made) {
  bool small = made.shape.count() <= kMost;
  for (const Made& part : made.of) small = small && is_small(part);
  return small;
}

bool leaf(void*, const Made& made, List<float>& out, Error& error) {
  const size_t count = static_cast<size_t>(made.shape.count());
  if (!out.resize(count)) return Pool::no_memory(error, count * sizeof(float));
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(static_cast<i32>(i % 61) - 30) / 8;
  return true;
}

// What is stored can be had back.
template <class T>
void there_and_back(const Made& made, const Made* step, List<T>& numbers) {
  List<T> stored, again;
  Error error;
  OD_HOLDS(redo(made, step, numbers, stored, error));
  OD_HOLDS(undo(made, step, {stored.begin(), stored.size()}, again, error) && again.size() == numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) OD_HOLDS(again[i] == numbers[i]);
}

void compute(const Made& made, const WeightEntry& weight) {
  const Leaves leaves = {nullptr, leaf};
  const Made* step = number_step(made);
  List<float> values, scales;
  List<u8> numbers;
  Error error;
  OD_HOLDS(values_of(step ? step->of[0] : made, leaves, values, error));
  OD_HOLDS(values.size() == (step ? step->of[0] : made).shape.count());
  if (!step) {
    OD_HOLDS(values.size() * bytes_of(weight.dtype) == weight.bytes);
    return;
  }
  for (const float value : values) {
    if (!(value > -1e30f && value < 1e30f)) return;
  }
  const Matrix total = {values.begin(), step->of[0].shape.dims[0], step->of[0].shape.dims[1]};
  if (step->scales()) {
    OD_HOLDS(scales_of(step->op, total, scales, error));
    return there_and_back(made, step, scales);
  }
  OD_HOLDS(numbers_of(step->op, total, numbers, error) && numbers.size() == values.size());
  OD_HOLDS(scales_of(step->op == MadeOp::int8 ? MadeOp::int8_scales : MadeOp::int4_scales, total, scales, error));
  OD_HOLDS(from_few_bits(step->op, {numbers.begin(), numbers.size()}, scales.span(), total.columns, values, error));
  there_and_back(made, step, numbers);
}

}  // namespace
}  // namespace od::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  Pool pool;
  Json value;
  Error error;
  const Checker check("bundle.json", error);
  WeightEntry weight = {};
  const Json* rows[3];
  const Made* made = nullptr;
  if (!parse_json({data, size}, "bundle.json", pool, value, error) ||
      !check.record(value, {"dtype", "shape", "made"}, rows, {}) || !check.dtype(*rows[0], "dtype", weight.dtype) ||
      !check.shape(*rows[1], weight.dtype, "shape", weight.shape) ||
      !parse_made(check, *rows[2], "made", weight, pool, made)) {
    fuzz::check_error(error);
    return 0;
  }
  weight.bytes = weight.shape.count() * bytes_of(weight.dtype);
  if (fuzz::is_small(*made)) fuzz::compute(*made, weight);
  fuzz::remember({data, size});
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_json(data, size, most, seed);
}
