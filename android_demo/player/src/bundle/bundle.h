// Open a bundle, a folder or one file that `ondevice pack` wrote. Everything is checked before it is given out: a
// bundle is untrusted input.
#pragma once

#include "base/base.h"
#include "base/os.h"
#include "bundle/manifest.h"
#include "bundle/plan.h"
#include "bundle/ports.h"

namespace od {

// Where a bundle's files are: in a folder, or in one file (docs/bundle.md, "One file").
class Files {
 public:
  // A folder, or a packed file.
  bool open(const char* path, Error& error);
  // A packed file by a descriptor, which stays the caller's.
  bool open(int descriptor, const char* name, Error& error);
  void close();
  // Bytes of a file of the bundle by its path; of `bundle.json` and of what the manifest lists. Mapped for as long as
  // this is open: nothing is copied. Code::bundle where it is missing or of another size than `expected` (0: any).
  bool map(Text path, u64 expected, Bytes& out, Error& error);
  // The pages of a file may leave memory.
  void forget(Text path);
  Text name() const { return name_; }
  ~Files() { close(); }

 private:
  struct Entry {
    Text path;
    Mapping* mapping;
    Bytes bytes;
  };
  bool add_packed(Error& error);
  Pool pool_;
  List<Entry> entries_;
  Text folder_, name_;
  Mapping packed_;
};

class Bundle {
 public:
  // Reads and checks the manifest, and that each file is there with its size. Code::bundle.
  bool open(const char* path, Error& error);
  bool open(int descriptor, const char* name, Error& error);

  const Manifest& manifest() const { return manifest_; }
  Text name() const { return files_.name(); }

  // Choose the plans of one target: by a device, or by name (Code::usage where there is none of it). Where neither is
  // called, the last that the bundle names.
  bool for_device(const DeviceLimits& device, Error& error);
  bool for_target(Text name, Error& error);
  u32 target() const { return target_; }

  // The plan of a component at exactly these sizes, read, checked and kept. Code::bundle, listing what there is.
  bool plan(u32 component, const Sizes& sizes, const Plan*& out, Error& error);
  // The entry of a plan of the chosen target, or null.
  const PlanEntry* find(u32 component, const Sizes& sizes) const;
  // Whether an entry is of the chosen target.
  bool served(const PlanEntry& entry) const { return entry.targets >> target_ & 1; }

  // A small file, whose sha256 is checked. Code::bundle.
  bool read(Text path, size_t most, Bytes& out, Error& error);
  // A file of weights by its index into Manifest::files; mapped, and not checked.
  bool shard(u32 file, Bytes& out, Error& error);
  void forget(u32 file);
  // Text of a program (docs/bundle.md, "Source of a program"), ended by a zero, into `out`.
  bool source(const PlanKernel& kernel, Text dialect, List<char>& out, Error& error);
  // The sha256 of every file, weights too. Code::bundle, naming the first that is damaged. `progress` may be null.
  bool verify(bool (*progress)(void* user, u64 done, u64 total), void* user, Error& error);

 private:
  bool read_manifest(Error& error);
  struct Known {
    const PlanEntry* entry;
    Plan* plan;
  };
  Files files_;
  Pool pool_;
  Manifest manifest_;
  List<Known> plans_;
  Seen seen_;
  u32 target_ = 0;
};

}  // namespace od
