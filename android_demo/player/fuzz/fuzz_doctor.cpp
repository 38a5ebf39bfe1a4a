// Files that the doctor takes, beside a manifest: "MANIFEST\0GOLDEN\0LIST OF PROGRAMS TO AVOID".
#include "doctor/avoid.h"
#include "doctor/golden.h"
#include "support/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  Pool pool;
  Json value;
  Error error;
  Manifest manifest;
  if (!parse_json(fuzz::part({data, size}, 0), "bundle.json", pool, value, error) ||
      !parse_manifest(value, pool, manifest, error)) {
    return 0;
  }
  Golden golden;
  AvoidList list;
  const bool read = parse_golden(fuzz::part({data, size}, 1), "golden.json", manifest, "digest", pool, golden, error);
  if (!read) {
    OD_HOLDS(error.code == Code::usage);
    fuzz::check_error(error);
    error = Error();
  }
  const bool listed = parse_avoid(fuzz::part({data, size}, 2), "avoid.json", pool, list, error);
  if (!listed) {
    OD_HOLDS(error.code == Code::usage);
    fuzz::check_error(error);
  }
  if (!read || !listed) return 0;
  fuzz::remember({data, size});
  for (const GoldenLaunch& launch : golden.launches) {
    OD_HOLDS(launch.plan >= manifest.plans.begin() && launch.plan < manifest.plans.end() && launch.fill != Fill::none);
    for (const GoldenResult& result : launch.results) OD_HOLDS(result.block && result.sums.count && result.slack.count);
  }
  for (const AvoidedProgram& program : list.programs) OD_HOLDS(program.kernel.size && program.sha256.size == 64);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_json(data, size, most, seed);
}
