// A bundle as one file (docs/bundle.md, "One file"): a ZIP archive of stored entries, whose directory is checked as a
// whole before anything of it is used.
#pragma once

#include "base/base.h"

namespace od {

struct PackedEntry {
  Text path;
  u64 offset, bytes;
};

// Whether a file begins as one that `ondevice pack` wrote.
bool is_packed(Bytes data);

// Its entries, sorted by path, into `pool`. Code::bundle, naming `file` or the entry that is wrong.
bool read_directory(Bytes data, Text file, Pool& pool, Span<PackedEntry>& out, Error& error);

}  // namespace od
