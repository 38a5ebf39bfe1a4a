#include "device/cache.h"

#include <stdio.h>
#include <string.h>

#include "base/sha256.h"
#include "base/sort.h"

namespace od {
namespace {

constexpr char kMagic[] = "ondevice kernel 1\n";
constexpr size_t kMagicSize = sizeof kMagic - 1;
static_assert(kMagicSize + 32 == KernelCache::kHead, "a file's head");
constexpr i64 kStale = 3600;  // seconds after which a half-written file belongs to a process that died

void digest(Bytes data, u8 out[32]) {
  char text[65];
  sha256(data, text);
  const auto digit = [](char c) { return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10); };
  for (size_t i = 0; i < 32; ++i) out[i] = static_cast<u8>(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
}

// The same folder as `cache_dir` of the package, without its last part. False where there is no home.
bool usual_folder(char* out, size_t room) {
  const char* home = variable("HOME");
  const char* given = variable("ONDEVICE_CACHE");
  int size = -1;
  if (given && given[0]) {
    size = given[0] == '~' && given[1] == '/' && home ? snprintf(out, room, "%s%s", home, given + 1)
                                                      : snprintf(out, room, "%s", given);
  } else if (const char* base = variable("XDG_CACHE_HOME"); base && base[0] == '/') {
    size = snprintf(out, room, "%s/ondevice", base);
  } else if (home && home[0] == '/') {
    size = snprintf(out, room, "%s/.cache/ondevice", home);
  }
  return size > 0 && static_cast<size_t>(size) < room;
}

struct Entry {
  char name[112];  // longer ones are not ours
  u64 bytes;
  i64 used;
  bool whole;
};

void note(void* user, const char* name, u64 bytes, i64 used) {
  const Text text(name);
  const bool whole = text.ends_with(".bin");
  Entry entry = {{}, bytes, used, whole};
  if (text.size >= sizeof entry.name || !(whole || strstr(name, ".partial-"))) return;
  memcpy(entry.name, name, text.size);
  static_cast<List<Entry>*>(user)->push(entry);
}

}  // namespace

void KernelCache::open(const char* folder, u64 limit) {
  hits = misses = 0;
  limit_ = limit;
  writable_ = true;
  if (folder) {
    const int size = snprintf(folder_, sizeof folder_, "%s", folder);
    writable_ = size > 0 && static_cast<size_t>(size) < sizeof folder_;
  } else if (char base[900]; usual_folder(base, sizeof base)) {
    snprintf(folder_, sizeof folder_, "%s/kernels", base);
  } else {
    writable_ = false;
    log(Level::warning, "compiled kernels are not kept: there is no home folder; set ONDEVICE_CACHE to a folder");
  }
  if (!writable_) folder_[0] = 0;
}

void KernelCache::key(Span<const Text> parts, char out[65]) {
  Sha256 hash;
  for (const Text& part : parts) {
    u8 size[8];
    for (size_t i = 0; i < 8; ++i) size[i] = static_cast<u8>(u64(part.size) >> 8 * i);
    hash.add({size, 8});
    hash.add(part.bytes());
  }
  hash.finish(out);
}

bool KernelCache::path_of(const char* key, char* out, size_t room) const {
  return folder_[0] && static_cast<size_t>(snprintf(out, room, "%s/%s.bin", folder_, key)) < room;
}

bool KernelCache::load(const char* key, Mapping& file, Bytes& binary) {
  char path[1200];
  Error unread;
  if (!path_of(key, path, sizeof path) || !file.open(path, unread)) {
    ++misses;
    return false;
  }
  const Bytes whole = file.bytes();
  u8 expected[32];
  bool sound = whole.count >= kHead && memcmp(whole.data, kMagic, kMagicSize) == 0;
  if (sound) {
    binary = whole.slice(kHead, whole.count);
    digest(binary, expected);
    sound = memcmp(whole.data + kMagicSize, expected, sizeof expected) == 0;
  }
  if (!sound) {
    log(Level::warning, "cached kernel %s.bin is damaged; it is built again", key);
    ++misses;
    file.close();
    drop(key);
    return false;
  }
  ++hits;
  touch(path);  // the trim goes by time of last use
  return true;
}

void KernelCache::save(const char* key, Span<u8> file) {
  char path[1200];
  if (!writable_ || file.count < kHead || !path_of(key, path, sizeof path)) return;
  memcpy(file.data, kMagic, kMagicSize);
  digest({file.data + kHead, file.count - kHead}, file.data + kMagicSize);
  Error why;
  if (!make_folders(folder_)) {
    fail(why, Code::output, folder_, "", "the folder cannot be made.");
  } else {
    write_file(path, {file.data, file.count}, why);
  }
  if (!why) return trim();
  writable_ = false;
  log(Level::warning, "compiled kernels are not kept: %s; set ONDEVICE_CACHE to a folder that can be written",
      why.message);
}

void KernelCache::drop(const char* key) {
  char path[1200];
  if (path_of(key, path, sizeof path)) remove_file(path);
}

// Remove the least recently used files over the limit, and what dead processes left half-written.
void KernelCache::trim() const {
  List<Entry> entries;
  list_folder(folder_, note, &entries);
  sort(entries.span(), [](const Entry& a, const Entry& b) { return a.used > b.used; });
  u64 kept = 0;
  for (const Entry& entry : entries) {
    if (entry.whole) kept += entry.bytes;
    // The newest entry is the one that was just written: its time is now.
    if (entry.whole ? kept <= limit_ : entries[0].used - entry.used <= kStale) continue;
    char path[1200];
    if (static_cast<size_t>(snprintf(path, sizeof path, "%s/%s", folder_, entry.name)) < sizeof path) remove_file(path);
  }
}

}  // namespace od
