// A golden file's launches on a device, for tests/player/test_doctor.py: BUNDLE GOLDEN DEVICE CACHE. What is found goes
// to stdout as JSON; an error to stderr.
#include <stdio.h>

#include "base/os.h"
#include "doctor/doctor.h"

int main(int count, char** arguments) {
  if (count != 5) return 2;
  od::Error error;
  od::Bundle bundle;
  od::Device device;
  od::Mapping golden;
  od::JsonWriter out;
  od::DoctorCounts counts;
  if (!bundle.open(arguments[1], error) || !device.open(arguments[3], arguments[4], error) ||
      !golden.open(arguments[2], error) ||
      !od::doctor(bundle, device, golden.bytes(), arguments[2], {}, out, counts, error)) {
    fprintf(stderr, "%s\n", error.message);
    return static_cast<int>(error.code);
  }
  puts(out.done());
  return 0;
}
