// `bundle.json` as data (docs/bundle.md, "Manifest"): what is in a bundle and where. All of it was checked.
#pragma once

#include "base/base.h"
#include "base/json.h"
#include "bundle/pipeline.h"

namespace od {

struct Made;

constexpr u64 kAlign = 512;  // bytes; of every tensor's place
constexpr u64 kMaxBytes = u64(1) << 40;
constexpr size_t kMaxJson = 64 << 20, kMaxText = 4 << 20;
constexpr size_t kMaxRank = 8, kMaxNeeds = 16, kMaxTargets = 64, kMaxArguments = 64;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"  // GCC: of the type i32, though these are in a scope of their own
enum class Dtype : u8 { f32, f16, i32, i8, u4x2 };
#pragma GCC diagnostic pop
u32 bytes_of(Dtype dtype);
const char* name_of(Dtype dtype);

// Dimensions, none of them 0.
struct Shape {
  u32 rank = 0;
  u32 dims[kMaxRank] = {};

  u64 count() const;
  const char* shown(char* out, size_t room) const;  // "[2, 64]", into `out`
  bool operator==(const Shape& other) const;
  bool operator!=(const Shape& other) const { return !(*this == other); }
};

// What a plan relies on of a device (docs/bundle.md, "Needs"), one bit each.
enum Need : u32 {
  kHalf = 1,
  kSubgroups = 2,
  kImage2d = 4,
  kMatrixUnit = 8,
  kWaveConstants = 16,
  kUnknownNeed = u32(1) << 31,  // a word of a later version, which no device has
};
u32 need_of(Text word);
const char* name_of(Need need);

// A plan's or a request's sizes: at most eight names, each with 1..65,536.
struct Sizes {
  u32 count = 0;
  Text names[kMaxRank];
  u32 values[kMaxRank] = {};

  u32 get(Text name, u32 otherwise = 0) const;
  bool has(Text name) const;
  bool set(Text name, u32 value);  // false where there is no room
  bool operator==(const Sizes& other) const;
  // "batch=2 height=64 width=64", into `out`.
  const char* shown(char* out, size_t room) const;
};

struct FileEntry {
  Text path;
  u64 bytes;
  Text sha256;
};

struct WeightEntry {
  Text key;
  Dtype dtype;
  Shape shape;
  u32 file;  // index into Manifest::files
  u64 offset, bytes;
  const Made* made;  // how it comes from the checkpoint's; null: it is not said
  Text other;        // of numbers in few bits the key of their scales, of scales that of their numbers
};

// A part of what is added to a weight of the checkpoint: scale * (up [out, r] @ down [r, ...]), or scale * up where
// there is no down. Indices into Manifest::weights.
struct AdapterTerm {
  i32 up = kNone, down = kNone;
  double scale = 1;
};

struct AdapterChange {
  Text leaf;  // "unet/conv_in.weight"
  Span<AdapterTerm> terms;
};

struct AdapterEntry {
  Text name;
  double scale;                 // where the user says none
  Span<AdapterChange> changes;  // sorted by leaf

  const AdapterChange* change(Text leaf) const;  // null: none
};

struct Component {
  Text name;
  Dtype dtype;
};

struct TargetEntry {
  Text name;
  Span<Text> devices;
  u32 needs;              // Need
  Span<Text> need_names;  // as written, for messages
  u64 work_group, local_memory, allocation, image_width, image_height;
};

struct PlanEntry {
  u32 component;  // index
  Sizes sizes;
  u32 file;  // index
  u64 arena, weight_bytes;
  u64 targets;  // one bit for each target that it serves; all bits where the bundle has none
};

enum class TokenizerKind : u8 { bpe, unigram };

struct TokenizerEntry {
  Text name;
  TokenizerKind kind;
  u32 length;
  Span<Text> files;  // names under tokenizers/NAME/
};

struct Manifest {
  u32 major = 0, minor = 0;
  Text producer, family, source;
  Json model;
  Span<Component> components;
  Span<PlanEntry> plans;
  Span<TargetEntry> targets;
  Span<Text> kernels, preludes, samplers;
  Span<TokenizerEntry> tokenizers;
  Span<WeightEntry> weights;  // sorted by key
  Span<AdapterEntry> adapters;
  Span<FileEntry> files;      // sorted by path
  bool draws = false;         // whether there is a pipeline
  Pipeline pipeline;

  const WeightEntry* weight(Text key) const;
  const FileEntry* file(Text path) const;
  const Component* component(Text name) const;
};

// Check all that the manifest alone can show. Code::bundle with the field that is wrong. What is found lives in `pool`,
// its texts where those of `value` do.
bool parse_manifest(const Json& value, Pool& pool, Manifest& out, Error& error);

// What a device has, for `target_for`.
struct DeviceLimits {
  Text name, version;
  u32 capabilities;                                                     // Need
  u64 work_group, local_memory, allocation, image_width, image_height;  // 0: not known, and in no way
};

// The target that a device takes (docs/bundle.md, "Several GPUs"): index, or Code::device where it can run none.
bool target_for(const Manifest& manifest, const DeviceLimits& device, u32& target, Error& error);

}  // namespace od
