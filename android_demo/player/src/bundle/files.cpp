#include <stdio.h>
#include <string.h>

#include "base/sort.h"
#include "bundle/bundle.h"
#include "bundle/checker.h"

namespace od {
namespace {

constexpr char kNoManifest[] = "no bundle.json in it";

Text last_part(Text path) {
  while (path.size > 1 && path.data[path.size - 1] == '/') --path.size;
  size_t begin = path.size;
  while (begin > 0 && path.data[begin - 1] != '/') --begin;
  return path.slice(begin, path.size);
}

bool no_bundle(const char* path, const char* why, Error& error) {
  return fail(error, Code::bundle, path, "give the folder that `ondevice convert` wrote", "is not a bundle (%s).", why);
}

}  // namespace

bool Files::open(const char* path, Error& error) {
  close();
  char whole[4096];
  if (!real_path(path, whole, sizeof whole)) return no_bundle(path, "there is no such file or folder", error);
  name_ = pool_.copy(last_part(whole));
  const FileKind kind = kind_of(whole);
  if (kind == FileKind::file) return packed_.open(whole, error) && open_packed(path, error);
  if (kind != FileKind::folder) return no_bundle(path, kNoManifest, error);
  char manifest[4096];
  const int size = snprintf(manifest, sizeof manifest, "%s/bundle.json", whole);
  if (size >= static_cast<int>(sizeof manifest) || kind_of(manifest) == FileKind::missing)
    return no_bundle(path, kNoManifest, error);
  folder_ = pool_.copy(whole);
  return folder_.size || Pool::no_memory(error, strlen(whole));
}

bool Files::open(int descriptor, const char* name, Error& error) {
  close();
  name_ = pool_.copy(last_part(name));
  return packed_.open(descriptor, name, error) && open_packed(name, error);
}

bool Files::open_packed(Text path, Error& error) {
  if (!is_packed(packed_.bytes())) {
    return fail(error, Code::bundle, path,
                "give a folder that `ondevice convert` wrote, or a file that `ondevice pack` wrote",
                "is not a bundle (its first bytes are others).");
  }
  return read_directory(packed_.bytes(), name_, pool_, entries_, error);
}

void Files::close() {
  for (const Mapped& mapped : mapped_) mapped.mapping->close();
  mapped_.clear();
  packed_.close();
  entries_ = {};
  folder_ = name_ = {};
  pool_.clear();
}

bool Files::find(Text path, PackedEntry& out, Error& error) const {
  const PackedEntry* found = find_sorted(entries_, [&](const PackedEntry& entry) { return compare(entry.path, path); });
  if (!found) {
    return fail(error, Code::bundle, path, "copy the file again, or write it again with `ondevice pack`",
                "is missing from %.*s.", OD_TEXT(name_));
  }
  out = *found;
  return true;
}

// The real path of a file of a folder.
bool Files::locate(Text path, char (&whole)[4096], Error& error) const {
  char linked[4096];
  const int size = snprintf(linked, sizeof linked, "%.*s/%.*s", OD_TEXT(folder_), OD_TEXT(path));
  if (size >= static_cast<int>(sizeof linked) || !real_path(linked, whole, sizeof whole)) {
    return fail(error, Code::bundle, path, kDamaged, "is missing from %.*s.", OD_TEXT(name_));
  }
  const Text real(whole);
  const size_t root = folder_.size == 1 ? 0 : folder_.size;  // "/" ends in the mark itself
  const bool inside = real.starts_with(folder_) && real.size > root && real.data[root] == '/';
  if (inside && kind_of(whole) == FileKind::file) return true;
  return fail(error, Code::bundle, path, kDamaged, "is a link out of %.*s or not a regular file.", OD_TEXT(name_));
}

bool Files::size(Text path, u64& bytes, Error& error) {
  if (!folder_.size) {
    PackedEntry entry = {};
    if (!find(path, entry, error)) return false;
    bytes = entry.bytes;
    return true;
  }
  char whole[4096];
  return locate(path, whole, error) && file_size(whole, bytes, error);
}

bool Files::read(Text path, Pool& pool, Bytes& out, Error& error) {
  if (!folder_.size) {
    Bytes mapped;
    if (!map(path, mapped, error)) return false;
    const Text copy = pool.copy({reinterpret_cast<const char*>(mapped.data), mapped.count});
    out = copy.bytes();
    return copy.size == mapped.count || Pool::no_memory(error, mapped.count);
  }
  char whole[4096];
  return locate(path, whole, error) && read_file(whole, kMaxJson, pool, out, error);
}

bool Files::map(Text path, Bytes& out, Error& error) {
  if (!folder_.size) {
    PackedEntry entry = {};
    if (!find(path, entry, error)) return false;
    out = packed_.bytes().slice(entry.offset, entry.offset + entry.bytes);
    return true;
  }
  for (const Mapped& mapped : mapped_) {
    if (mapped.path == path) {
      out = mapped.mapping->bytes();
      return true;
    }
  }
  char whole[4096];
  if (!locate(path, whole, error)) return false;
  // A zeroed mapping is one that is closed.
  const Mapped mapped = {pool_.copy(path), pool_.one<Mapping>()};
  if (!mapped.mapping || !mapped_.push(mapped)) return Pool::no_memory(error, sizeof(Mapping));
  if (!mapped.mapping->open(whole, error)) {
    mapped_.pop();
    return false;
  }
  out = mapped.mapping->bytes();
  return true;
}

const Mapping* Files::mapping(Text path, u64& offset) const {
  Error error;
  PackedEntry entry = {};
  offset = 0;
  if (!folder_.size) {
    if (!find(path, entry, error)) return nullptr;
    offset = entry.offset;
    return &packed_;
  }
  for (const Mapped& mapped : mapped_) {
    if (mapped.path == path) return mapped.mapping;
  }
  return nullptr;
}

void Files::forget(Text path, u64 from, u64 bytes) {
  u64 offset;
  if (const Mapping* found = mapping(path, offset)) found->forget(offset + from, bytes);
}

void Files::expect(Text path, u64 from, u64 bytes) {
  u64 offset;
  if (const Mapping* found = mapping(path, offset)) found->expect(offset + from, bytes);
}

bool Files::fetch(Text path, u64 from, u64 bytes, Error& error) {
  Bytes data;
  u64 offset;
  if (!map(path, data, error)) return false;
  const Mapping* found = mapping(path, offset);
  return !found || found->fetch(offset + from, bytes, path, error);
}

}  // namespace od
