#include "bundle/packed.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/sort.h"
#include "bundle/checker.h"

namespace od {
namespace {

constexpr const char* kFix = "copy the file again, or write it again with `ondevice pack`";
constexpr u64 kLocal = 30, kEntry = 46, kWideEnd = 56, kLocator = 20, kEnd = 22;  // bytes of each record
constexpr u32 kLocalMark = 0x04034b50, kEntryMark = 0x02014b50, kWideEndMark = 0x06064b50, kLocatorMark = 0x07064b50,
              kEndMark = 0x06054b50;
constexpr u32 kFull = 0xffffffff;  // a value that ZIP64 holds
constexpr u32 kMaxEntries = 16385;
constexpr u16 kWide = 1;  // id of ZIP64's extra field

using Long = unsigned long long;  // for printf

// Little-endian numbers of a file, one after the other. What is read was checked to be within it.
class Cursor {
 public:
  Cursor(Bytes data, u64 at) : at_(data.data + at) {}

  u16 two() { return static_cast<u16>(next(2)); }
  u32 four() { return static_cast<u32>(next(4)); }
  u64 eight() { return next(8); }

 private:
  u64 next(u32 bytes) {
    u64 value = 0;
    for (u32 i = 0; i < bytes; ++i) value |= u64(at_[i]) << 8 * i;
    at_ += bytes;
    return value;
  }
  const u8* at_;
};

// What the directory says of an entry.
struct Stated {
  u16 flags, method;
  u32 crc;
  u64 packed, size, offset;
  u64 extras, end;  // where its extra fields are
  Text path;        // in the pool
};

class Directory {
 public:
  Directory(Bytes data, Text file, Pool& pool, Error& error) : data_(data), file_(file), pool_(pool), error_(error) {}

  bool all(Span<PackedEntry>& out) {
    if (!read_end()) return false;
    // Names first, so that one that is there twice is called that.
    List<Stated> entries;
    u64 at = begin_;
    for (u32 number = 0; number < count_; ++number) {
      Stated entry = {};
      if (!read_entry(number, at, entry)) return false;
      if (!entries.push(entry)) return Pool::no_memory(error_, sizeof entry);
    }
    if (!no_repeats(entries) || !pool_.array(out, count_, error_)) return false;
    u64 free = 0;  // the first byte that no entry before has
    for (u32 number = 0; number < count_; ++number) {
      if (!place(entries[number], free, out[number])) return false;
    }
    if (at != end_ || free != begin_) {
      return refuse(file_, "has bytes of no entry (got %llu before the directory, %llu after it)", Long(begin_ - free),
                    Long(end_ - at));
    }
    sort(out, [](const PackedEntry& a, const PackedEntry& b) { return compare(a.path, b.path) < 0; });
    return true;
  }

 private:
  __attribute__((format(printf, 3, 4))) bool refuse(Text where, const char* what, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(text, sizeof text, what, arguments);
    va_end(arguments);
    return fail(error_, Code::bundle, where, kFix, "%s.", text);
  }

  // Where the directory is: from begin_ to end_, of count_ entries.
  bool read_end() {
    if (data_.count < kEnd || Cursor(data_, data_.count - kEnd).four() != kEndMark) {
      return refuse(file_,
                    "is cut, or was not packed by `ondevice pack` (expected an end record in its last 22 bytes)");
    }
    end_ = data_.count - kEnd;
    Cursor record(data_, end_ + 4);
    const u32 disk = record.two(), other = record.two(), here = record.two();
    count_ = record.two();
    u64 size = record.four();
    begin_ = record.four();
    if (disk || other || here != count_ || record.two()) {
      return refuse(file_, "has an end record of several disks, of two counts, or with a comment");
    }
    if (!count_ || count_ > kMaxEntries) {
      return refuse(file_, "has %u entries (expected 1..%u)", count_, kMaxEntries);
    }
    if ((size == kFull || begin_ == kFull) && !read_wide_end(size)) return false;
    if (begin_ > end_ || size != end_ - begin_) {
      return refuse(file_, "has a directory of %llu bytes at %llu (expected its end at %llu)", Long(size), Long(begin_),
                    Long(end_));
    }
    return true;
  }

  bool read_wide_end(u64& size) {
    if (end_ < kWideEnd + kLocator) return refuse(file_, "has no record of ZIP64 before its end record");
    end_ -= kWideEnd + kLocator;
    Cursor record(data_, end_);
    const bool marked = record.four() == kWideEndMark && record.eight() == kWideEnd - 12;
    record.four();  // versions
    const bool one_disk = record.eight() == 0;
    const u64 here = record.eight(), all = record.eight();
    if (!marked || !one_disk || here != count_ || all != count_) {
      return refuse(file_, "has a damaged record of ZIP64");
    }
    size = record.eight();
    begin_ = record.eight();
    const bool located = record.four() == kLocatorMark && record.four() == 0 && record.eight() == end_;
    return (located && record.four() == 1) || refuse(file_, "has a damaged locator of ZIP64");
  }

  bool read_entry(u32 number, u64& at, Stated& out) {
    char where[300];
    snprintf(where, sizeof where, "entry %u of %.*s", number, OD_TEXT(file_));
    if (end_ - at < kEntry) return refuse(where, "the directory ends within it");
    Cursor entry(data_, at);
    const u32 mark = entry.four();
    entry.four();  // versions
    out.flags = entry.two();
    out.method = entry.two();
    entry.four();  // time
    out.crc = entry.four();
    out.packed = entry.four();
    out.size = entry.four();
    const u64 name = entry.two(), extras = entry.two();
    const u32 comment = entry.two(), disk = entry.two();
    entry.two();  // attributes
    entry.four();
    out.offset = entry.four();
    if (mark != kEntryMark || comment || disk) {
      return refuse(where, "is no entry of the directory, or has a comment or another disk");
    }
    if (end_ - at < kEntry + name + extras) return refuse(where, "the directory ends within it");
    const Text path = pool_.copy({reinterpret_cast<const char*>(data_.data + at + kEntry), name});
    if (path.size != name) return Pool::no_memory(error_, name);
    const bool manifest = path == "bundle.json";
    if (!is_path(path) && !manifest) {
      return refuse(where, "is called %s (expected one to three names joined by /)", shown(path).text);
    }
    if ((number == 0) != manifest) {
      return refuse(where, "is called %s (expected bundle.json first, and once)", shown(path).text);
    }
    out.path = path;
    out.extras = at + kEntry + name;
    at = out.end = out.extras + extras;
    return true;
  }

  bool no_repeats(const List<Stated>& entries) {
    List<u32> order;
    if (!order.resize(entries.size())) return Pool::no_memory(error_, entries.size() * sizeof(u32));
    for (u32 i = 0; i < order.size(); ++i) order[i] = i;
    sort(order.span(), [&](u32 i, u32 j) {
      const int found = compare_folded(entries[i].path, entries[j].path);
      return found ? found < 0 : i < j;
    });
    for (size_t i = 1; i < order.size(); ++i) {
      const Text path = entries[order[i]].path;
      if (compare_folded(entries[order[i - 1]].path, path) == 0) return refuse(path, "is there twice");
    }
    return true;
  }

  // Values that are full, from the extra field of ZIP64, in their order.
  template <size_t N>
  bool widen(u64 at, u64 end, u64* const (&values)[N], Text path) {
    u64 found = 0, length = 0;
    while (at < end) {
      if (end - at < 4) return refuse(path, "has a damaged extra field");
      Cursor extra(data_, at);
      const u32 id = extra.two();
      const u64 size = extra.two();
      at += 4;
      if (end - at < size) return refuse(path, "has a damaged extra field");
      if (id == kWide && !found) {
        found = at;
        length = size;
      }
      at += size;
    }
    u32 full = 0;
    for (const u64* value : values) full += *value == kFull;
    if (!full) return true;
    if (!found || length != 8 * full) return refuse(path, "has no %u values of ZIP64", full);
    Cursor held(data_, found);
    for (u64* value : values) {
      if (*value == kFull) *value = held.eight();
    }
    return true;
  }

  bool place(Stated& entry, u64& free, PackedEntry& out) {
    const Text path = entry.path;
    if (!widen(entry.extras, entry.end, {&entry.size, &entry.packed, &entry.offset}, path)) return false;
    if (entry.method) return refuse(path, "is compressed (got method %u, expected 0)", entry.method);
    if (entry.flags) return refuse(path, "is encrypted or of unknown size (got flags %u, expected 0)", entry.flags);
    if (entry.packed != entry.size || entry.size > kMaxBytes) {
      return refuse(path, "has %llu bytes packed and %llu unpacked (expected the same, at most %llu)",
                    Long(entry.packed), Long(entry.size), Long(kMaxBytes));
    }
    if (entry.offset != free) {
      return refuse(path, "begins at %llu (expected %llu, where the entry before it ends)", Long(entry.offset),
                    Long(free));
    }
    if (begin_ - free < kLocal) return refuse(path, "lies outside of the file");
    Cursor local(data_, free);
    const u32 mark = local.four();
    local.two();  // version
    const u32 flags = local.two(), method = local.two();
    local.four();  // time
    const u32 crc = local.four();
    u64 packed = local.four(), size = local.four();
    const u64 name = local.two(), extras = local.two();
    if (begin_ - free < kLocal + name + extras) return refuse(path, "lies outside of the file");
    const Text called(reinterpret_cast<const char*>(data_.data + free + kLocal), name);
    const u64 start = free + kLocal + name + extras;
    if (!widen(start - extras, start, {&size, &packed}, path)) return false;
    if (mark != kLocalMark || flags != entry.flags || method != entry.method || crc != entry.crc ||
        size != entry.size || packed != size || called != path) {
      return refuse(path, "has another local header than the directory says");
    }
    if (begin_ - start < size) return refuse(path, "lies outside of the file");
    const u64 alignment = path.starts_with("weights/") ? 16384 : 64;
    if (start % alignment) {
      return refuse(path, "has its bytes at %llu (expected a multiple of %llu)", Long(start), Long(alignment));
    }
    out = {path, start, size};
    free = start + size;
    return true;
  }

  Bytes data_;
  Text file_;
  Pool& pool_;
  Error& error_;
  u32 count_ = 0;
  u64 begin_ = 0, end_ = 0;
};

}  // namespace

bool is_packed(Bytes data) { return data.count >= 4 && Cursor(data, 0).four() == kLocalMark; }

bool read_directory(Bytes data, Text file, Pool& pool, Span<PackedEntry>& out, Error& error) {
  return Directory(data, file, pool, error).all(out);
}

}  // namespace od
