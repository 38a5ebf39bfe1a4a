// Open a bundle, a folder or one file that `ondevice pack` wrote. Everything is checked before it is given out: a
// bundle is untrusted input.
#pragma once

#include "base/base.h"
#include "base/os.h"
#include "bundle/manifest.h"
#include "bundle/packed.h"
#include "bundle/plan.h"
#include "bundle/ports.h"

namespace od {

// Where a bundle's files are: in a folder, or in one file (docs/bundle.md, "One file"). Paths are those of files of the
// bundle, whose names were checked. Each method that can fail does so with Code::bundle.
class Files {
 public:
  Files() = default;
  ~Files() { close(); }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  // A folder that has a bundle.json, or a packed file.
  bool open(const char* path, Error& error);
  // A packed file by a descriptor, which stays the caller's.
  bool open(int descriptor, const char* name, Error& error);
  void close();
  Text name() const { return name_; }

  // Of a regular file that is inside.
  bool size(Text path, u64& bytes, Error& error);
  // A copy, which nobody else can change. For small files.
  bool read(Text path, Pool& pool, Bytes& out, Error& error);
  // Mapped for as long as this is open: nothing is copied.
  bool map(Text path, Bytes& out, Error& error);
  // These pages of a file that was mapped may leave memory; who touches them reads them again.
  void forget(Text path, u64 from, u64 bytes);
  // Begin to read these from the disk.
  void expect(Text path, u64 from, u64 bytes);
  // Have these in memory now. Code::bundle, too, where the file is not what it was when it was mapped.
  bool fetch(Text path, u64 from, u64 bytes, Error& error);

 private:
  struct Mapped {
    Text path;
    Mapping* mapping;
  };
  bool open_packed(Text path, Error& error);
  const Mapping* mapping(Text path, u64& offset) const;  // and where the file begins in it; null where it is not mapped
  bool find(Text path, PackedEntry& out, Error& error) const;
  bool locate(Text path, char (&whole)[4096], Error& error) const;

  Pool pool_;
  Text name_;
  Text folder_;          // without links; empty of a packed file
  List<Mapped> mapped_;  // of a folder
  Mapping packed_;
  Span<PackedEntry> entries_;
};

class Bundle {
 public:
  // Reads and checks the manifest, and that each file is there with its size. Code::bundle.
  bool open(const char* path, Error& error);
  bool open(int descriptor, const char* name, Error& error);

  const Manifest& manifest() const { return manifest_; }
  Text name() const { return files_.name(); }
  // The sha256 of bundle.json, which tells this bundle from every other.
  Text digest() const { return {digest_, 64}; }

  // Choose the plans of one target: by a device, or by name (Code::usage where there is none of it). Where neither is
  // called, the last that the bundle names. Plans that were read of another are gone.
  bool for_device(const DeviceLimits& device, Error& error);
  bool for_target(Text name, Error& error);
  u32 target() const { return target_; }

  // The plan of a component at exactly these sizes, read, checked and kept. Code::bundle, listing what there is.
  bool plan(u32 component, const Sizes& sizes, const Plan*& out, Error& error);
  // The entry of a plan of the chosen target, or null.
  const PlanEntry* find(u32 component, const Sizes& sizes) const;
  // Whether an entry is of the chosen target.
  bool served(const PlanEntry& entry) const { return entry.targets >> target_ & 1; }
  // The plans of a decoder in bands of `rows` rows for latents of this size, in order; none where it has none.
  // Code::bundle where they do not fit each other.
  bool stages(u32 height, u32 width, u32 rows, List<const Plan*>& out, Error& error);

  // A small file, whose sha256 is checked; kept until the bundle is closed. Code::bundle.
  bool read(Text path, size_t most, Bytes& out, Error& error);
  // A file of weights by its index into Manifest::files; mapped, and not checked.
  bool shard(u32 file, Bytes& out, Error& error);
  void forget(u32 file);
  // The same of a part of it; of one that is to be read soon; and of one that must be in memory now, with Code::bundle
  // where the file is not what it was when it was mapped.
  void forget(u32 file, u64 from, u64 bytes);
  void expect(u32 file, u64 from, u64 bytes);
  bool fetch(u32 file, u64 from, u64 bytes, Error& error);
  // Text of a program (docs/bundle.md, "Source of a program"), ended by a zero that its size does not count.
  bool source(const PlanKernel& kernel, Text dialect, List<char>& out, Error& error);
  // The sha256 of every file, weights too, and every plan of every target, kernel and table. Code::bundle, naming the
  // first that is damaged. `progress` of the bytes may be null; where it says false, Code::cancelled.
  bool verify(bool (*progress)(void* user, u64 done, u64 total), void* user, Error& error);

 private:
  struct Known {
    u32 file;
    const Plan* plan;
  };
  // Plans of one target, and what they have settled.
  struct Plans {
    Pool pool;
    List<Known> known;
    Seen seen;
  };
  struct Small {
    Bytes bytes;
    bool known, is_text;
  };
  bool read_manifest(Error& error);
  bool check_size(const FileEntry& file, Error& error);
  bool load(const PlanEntry& entry, Plans& plans, const Plan*& out, Error& error);
  bool stages_of(u32 target, u32 height, u32 width, u32 rows, Plans& plans, List<const Plan*>& out, Error& error);
  const PlanEntry* find_of(u32 target, u32 component, const Sizes& sizes) const;
  bool verify_target(u32 target, Error& error);
  bool verify_digest(const FileEntry& file, bool (*progress)(void* user, u64 done, u64 total), void* user, u64& done,
                     u64 total, Error& error);
  bool choose(u32 target);
  bool text(Text path, Text& out, Error& error);
  bool table(Text path, Error& error);

  Files files_;
  Pool pool_;
  char digest_[65] = "";
  Manifest manifest_;
  Span<Small> small_;  // by file
  Plans plans_;
  u32 target_ = 0;
};

}  // namespace od
