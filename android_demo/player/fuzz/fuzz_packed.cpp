// A bundle in one file: its directory, then all of it by a descriptor, as an app opens one.
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bundle/bundle.h"
#include "support/fuzz.h"

namespace od::fuzz {
namespace {

// Change a number of one of the archive's records: everything else is bytes that nobody looks at.
size_t mutate_records(u8* data, size_t size, size_t most, u32 seed) {
  static constexpr u32 kMarks[] = {0x04034b50, 0x02014b50, 0x06054b50, 0x06064b50, 0x07064b50};
  static constexpr u64 kNumbers[] = {0, 1, 8, 0xffff, 0xfffe, 0x10000, 0xffffffff, 0xfffffffe, u64(1) << 40, ~u64(0)};
  Chance chance(seed);
  List<u32> records;
  for (u32 i = 0; i + 22 <= size; ++i) {
    u32 mark;
    memcpy(&mark, data + i, 4);
    for (const u32 known : kMarks) {
      if (mark == known && !records.push(i)) return size;
    }
  }
  if (records.empty() || !chance.below(8)) return LLVMFuzzerMutate(data, size, most);
  for (u32 count = 1 + chance.below(3); count; --count) {
    const u32 at = records[chance.below(records.size())] + 4 + chance.below(60);
    const u32 width = u32(1) << chance.below(4);
    if (at + width > size) continue;
    u64 number = 0;
    memcpy(&number, data + at, width);
    switch (chance.below(5)) {
      case 0:
        number += 1;
        break;
      case 1:
        number -= 1;
        break;
      case 2:
        number = chance.below(size + 2);
        break;
      case 3:
        number = kNumbers[chance.below(sizeof kNumbers / sizeof *kNumbers)];
        break;
      default:
        number ^= u64(1) << chance.below(8 * width);
    }
    memcpy(data + at, &number, width);
  }
  return size;
}

}  // namespace
}  // namespace od::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  Pool pool;
  Error error;
  Span<PackedEntry> entries;
  if (!read_directory({data, size}, "x.odpack", pool, entries, error)) {
    fuzz::check_error(error);
    return 0;
  }
  OD_HOLDS(!entries.empty());
  for (size_t i = 0; i < entries.count; ++i) {
    const PackedEntry& entry = entries[i];
    OD_HOLDS(entry.offset <= size && entry.bytes <= size - entry.offset && entry.offset % 64 == 0);
    OD_HOLDS(!i || compare(entries[i - 1].path, entry.path) < 0);
    for (const PackedEntry& other : entries.slice(0, i)) {
      OD_HOLDS(other.offset + other.bytes <= entry.offset || entry.offset + entry.bytes <= other.offset);
    }
  }
  const int file = memfd_create("fuzz", 0);
  OD_HOLDS(file >= 0 && write(file, data, size) == static_cast<ssize_t>(size));
  Bundle bundle;
  if (!bundle.open(file, "x.odpack", error) || !bundle.verify(nullptr, nullptr, error)) fuzz::check_error(error);
  close(file);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_records(data, size, most, seed);
}
