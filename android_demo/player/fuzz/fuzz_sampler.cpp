// A sampler's table, and a replay of what is accepted.
#include "picture/sampler.h"
#include "support/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  Pool pool;
  Json value;
  Error error;
  SamplerTable table;
  if (!parse_json({data, size}, "samplers/x.json", pool, value, error) ||
      !parse_sampler(value, "samplers/x.json", pool, table, error)) {
    fuzz::check_error(error);
    return 0;
  }
  fuzz::remember({data, size});
  const float noise[3] = {1, -2, 0.5f}, image[3] = {0.25f, 0, -1}, output[3] = {0.5f, 1, 2};
  float given[3];
  for (u32 from_image = 0; from_image < 2; ++from_image) {
    u32 first = 0;
    if (from_image && !first_call(table, 0.6, size % 2, first, error)) return 0;
    Sampling sampling;
    OD_HOLDS(sampling.begin(table, first, {noise, 3}, from_image ? image : nullptr, false, error));
    for (u32 call = first; call < table.calls.count; ++call) {
      sampling.input(call, {given, 3});
      sampling.step(call, {output, 3}, table.calls[call].draws_noise ? noise : nullptr);
      OD_HOLDS(sampling.sample(call + 1).count == 3);
    }
    OD_HOLDS(sampling.result().count == 3);
  }
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_json(data, size, most, seed);
}
