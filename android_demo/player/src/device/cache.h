// Compiled kernels between processes: one file per program, keyed by everything that could change it. The Python
// package (ondevice/run/cache.py) has the same files under the same keys, and shares its folder.
#pragma once

#include "base/base.h"
#include "base/os.h"

namespace od {

// Never fails a run: what cannot be read is a miss, what cannot be written is logged once.
class KernelCache {
 public:
  static constexpr u64 kLimit = u64(512) << 20;  // bytes kept; the least recently used go first
  static constexpr size_t kHead = 18 + 32;       // bytes of a file before the binary: what it is, and its sha256

  // `folder`: null: `kernels` in ONDEVICE_CACHE, else in `ondevice` of XDG_CACHE_HOME or ~/.cache; "": nothing is kept.
  void open(const char* folder, u64 limit = kLimit);
  // Hash of `parts`; their lengths keep two splits of one text apart.
  static void key(Span<const Text> parts, char out[65]);
  // The binary, in `file` for as long as that is open. A file that is not what was written is removed.
  bool load(const char* key, Mapping& file, Bytes& binary);
  // Keep a binary, which begins at kHead of `file`; its head is filled here. Another process sees all of it or nothing.
  void save(const char* key, Span<u8> file);
  // Forget a binary that is damaged or that the driver refused.
  void drop(const char* key);

  u32 hits = 0, misses = 0;

 private:
  bool path_of(const char* key, char* out, size_t room) const;
  void trim() const;
  char folder_[1024] = "";
  u64 limit_ = kLimit;
  bool writable_ = false;
};

}  // namespace od
