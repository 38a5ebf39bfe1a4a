// All that the player asks of the system, in one file: files, time, memory, threads and libraries.
#pragma once

#include "base/base.h"

namespace od {

// A file's bytes, mapped read-only; pages are read when they are touched.
class Mapping {
 public:
  Mapping() = default;
  ~Mapping() { close(); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // A regular file. Code::bundle where it cannot be opened.
  bool open(const char* path, Error& error);
  // The same of a descriptor that stays the caller's (Android's file picker gives one).
  bool open(int descriptor, const char* name, Error& error);
  void close();
  Bytes bytes() const { return {data_, size_}; }
  // Tell the system that these pages may leave memory, and those before that came with the first: who touches them
  // reads them again.
  void forget(size_t offset, size_t size) const;
  // Have it begin to read these bytes from the disk.
  void expect(size_t offset, size_t size) const;
  // Have these bytes in memory now. Code::bundle, naming `where`, for a file that is not what it was when it was mapped
  // (a page behind the end of one that was cut would end the process), or that cannot be read.
  bool fetch(size_t offset, size_t size, Text where, Error& error) const;

 private:
  struct State {
    u64 bytes;
    i64 seconds, nanoseconds;  // of the last write
  };
  bool now(State& out) const;

  const u8* data_ = nullptr;
  size_t size_ = 0;
  int descriptor_ = 0;  // of its own, never one of the first three; 0: none
  State state_ = {};
};

enum class FileKind : i32 { missing, file, folder, other };
FileKind kind_of(const char* path);
// Of a regular file, links followed; false with Code::bundle where there is none.
bool file_size(const char* path, u64& bytes, Error& error);
// The path with no link, "." or ".." in it, into `out`; false where it is not there.
bool real_path(const char* path, char* out, size_t room);
// The whole of a regular file of at most `most` bytes, which a pool then holds.
bool read_file(const char* path, size_t most, Pool& pool, Bytes& out, Error& error);
// Written beside and renamed, so that the file appears whole or not at all. Code::output.
bool write_file(const char* path, Bytes data, Error& error);
// Adds what a file of the system says, of a size that nobody knows before (/proc/cpuinfo); at most `most` bytes of it.
bool read_system_file(const char* path, size_t most, List<char>& out);
bool make_folders(const char* path);
bool remove_file(const char* path);
// Calls `found` with the name of each entry of a folder, its size and the time of its last use (seconds).
using Found = void (*)(void* user, const char* name, u64 bytes, i64 used);
bool list_folder(const char* path, Found found, void* user);
void touch(const char* path);

double seconds();   // a clock that only goes forward
u64 memory_peak();  // bytes of this process in memory at most, until now; 0 where the system does not say
u64 memory_now();   // and now

// From now on every freed piece of memory of 1 MB or more goes back to the system at once. glibc keeps pieces of up to
// 32 MB otherwise, and as much as it once had of them; others than glibc do as they do.
void give_back_freed();

// A number's shortest text that is read back as itself, as Python and JSON write one ("7.5", "1e-05", "20.0").
void write_number(char* out, size_t room, double value);
// A decimal number, whatever the locale; the text is JSON's.
double read_number(Text text);

void* open_library(const char* name);
const char* library_error();  // why the last one was not opened
void* find_symbol(void* library, const char* name);
const char* variable(const char* name);  // of the environment; null where it is not set

}  // namespace od
