#include "base/os.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace od {
namespace {

constexpr const char* kCopyAgain = "copy the bundle again";
constexpr const char* kChanged =
    "draw again, and leave the bundle alone meanwhile; convert the checkpoint again if that does not help";
constexpr size_t kAround = size_t(2) << 20;  // bytes that Linux maps at most around a page that is touched
constexpr int kPopulateRead = 22;  // of Linux 5.14 and later, which not every system's headers name

// From the first page of some bytes to the end of their last.
struct Pages {
  size_t first, size;

  Pages(size_t offset, size_t bytes) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    first = offset / page * page;
    size = bytes ? (offset + bytes + page - 1) / page * page - first : 0;
  }
};

bool map(int descriptor, const char* name, const u8*& data, size_t& size, Error& error) {
  struct stat facts;
  if (fstat(descriptor, &facts) != 0) {
    return fail(error, Code::bundle, name, kCopyAgain, "cannot be read (%s).", strerror(errno));
  }
  if (!S_ISREG(facts.st_mode)) return fail(error, Code::bundle, name, kCopyAgain, "is not a regular file.");
  size = static_cast<size_t>(facts.st_size);
  data = reinterpret_cast<const u8*>("");
  if (!size) return true;  // nothing can be mapped of an empty file
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (mapped == MAP_FAILED) {
    return fail(error, Code::bundle, name, kCopyAgain, "cannot be mapped (%s).", strerror(errno));
  }
  data = static_cast<const u8*>(mapped);
  return true;
}

bool write_all(int descriptor, Bytes data) {
  while (data.count) {
    const auto written = write(descriptor, data.data, data.count);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data = data.slice(static_cast<size_t>(written), data.count);
  }
  return fsync(descriptor) == 0 || errno == EINVAL;  // not every file system syncs
}

u64 status_line(const char* key) {
  FILE* file = fopen("/proc/self/status", "re");
  if (!file) return 0;
  char line[256];
  u64 kilobytes = 0;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, key, strlen(key)) == 0) kilobytes = strtoull(line + strlen(key), nullptr, 10);
  }
  fclose(file);
  return kilobytes * 1024;
}

}  // namespace

bool Mapping::open(const char* path, Error& error) {
  const int descriptor = ::open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return fail(error, Code::bundle, path, kCopyAgain, "cannot be opened (%s).", strerror(errno));
  const bool done = open(descriptor, path, error);
  ::close(descriptor);
  return done;
}

bool Mapping::open(int descriptor, const char* name, Error& error) {
  close();
  if (!map(descriptor, name, data_, size_, error)) return false;
  descriptor_ = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
  now(state_);
  return true;
}

void Mapping::close() {
  if (size_) munmap(const_cast<u8*>(data_), size_);
  if (descriptor_ > 0) ::close(descriptor_);
  data_ = nullptr;
  size_ = 0;
  descriptor_ = 0;
}

void Mapping::forget(size_t offset, size_t size) const {
  const size_t first = offset / kAround * kAround, end = min(offset + size, size_);
  const Pages pages(first, end > first ? end - first : 0);
  if (pages.size) madvise(const_cast<u8*>(data_) + pages.first, pages.size, MADV_DONTNEED);
}

void Mapping::expect(size_t offset, size_t size) const {
  const Pages pages(offset, size);
  if (pages.size) madvise(const_cast<u8*>(data_) + pages.first, pages.size, MADV_WILLNEED);
}

bool Mapping::fetch(size_t offset, size_t size, Text where, Error& error) const {
  State found;
  if (now(found) && (found.bytes != state_.bytes || found.seconds != state_.seconds ||
                     found.nanoseconds != state_.nanoseconds)) {
    char cut[64] = "was changed";
    if (found.bytes < state_.bytes) {
      snprintf(cut, sizeof cut, "was cut to %llu bytes", static_cast<unsigned long long>(found.bytes));
    }
    return fail(error, Code::bundle, where, kChanged, "%s while it was drawn with.", cut);
  }
  const Pages pages(offset, size);
  if (!pages.size || madvise(const_cast<u8*>(data_) + pages.first, pages.size, kPopulateRead) == 0) return true;
  if (errno != EFAULT && errno != EIO) return true;  // a system that knows no such thing reads pages as they are touched
  return fail(error, Code::bundle, where, kCopyAgain, "cannot be read (it was cut, or the disk failed).");
}

bool Mapping::now(State& out) const {
  struct stat facts;
  if (descriptor_ <= 0 || fstat(descriptor_, &facts) != 0) return false;
  out = {static_cast<u64>(facts.st_size), facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec};
  return true;
}

void give_back_freed() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

FileKind kind_of(const char* path) {
  struct stat facts;
  if (stat(path, &facts) != 0) return FileKind::missing;
  return S_ISREG(facts.st_mode) ? FileKind::file : S_ISDIR(facts.st_mode) ? FileKind::folder : FileKind::other;
}

bool file_size(const char* path, u64& bytes, Error& error) {
  struct stat facts;
  if (stat(path, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return fail(error, Code::bundle, path, kCopyAgain, "is missing, or no regular file.");
  }
  bytes = static_cast<u64>(facts.st_size);
  return true;
}

bool real_path(const char* path, char* out, size_t room) {
  char* found = realpath(path, nullptr);
  if (!found) return false;
  const size_t size = strlen(found);
  if (size < room) memcpy(out, found, size + 1);
  free(found);
  return size < room;
}

bool read_file(const char* path, size_t most, Pool& pool, Bytes& out, Error& error) {
  Mapping file;
  if (!file.open(path, error)) return false;
  if (file.bytes().count > most) {
    return fail(error, Code::bundle, path, kCopyAgain, "is too large (got %zu bytes, expected at most %zu).",
                file.bytes().count, most);
  }
  auto* data = static_cast<u8*>(pool.take(file.bytes().count));
  if (!data) return Pool::no_memory(error, file.bytes().count);
  memcpy(data, file.bytes().data, file.bytes().count);
  out = {data, file.bytes().count};
  return true;
}

bool write_file(const char* path, Bytes data, Error& error) {
  char beside[4096];
  const int size = snprintf(beside, sizeof beside, "%s.partial-%d", path, static_cast<int>(getpid()));
  if (size < 0 || static_cast<size_t>(size) >= sizeof beside) {
    return fail(error, Code::output, path, "choose a shorter name", "the name is too long.");
  }
  const int descriptor = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    return fail(error, Code::output, path, "choose another folder", "cannot be written (%s).", strerror(errno));
  }
  bool done = write_all(descriptor, data);
  int why = errno;
  if (close(descriptor) != 0 && done) {
    done = false;
    why = errno;
  }
  if (done && rename(beside, path) != 0) {
    done = false;
    why = errno;
  }
  if (done) return true;
  unlink(beside);
  return fail(error, Code::output, path, why == ENOSPC ? "make room on the disk" : "choose another folder",
              "cannot be written (%s).", strerror(why));
}

bool read_system_file(const char* path, size_t most, List<char>& out) {
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  char part[4096];
  bool done = false;
  while (!done) {
    const auto size = read(descriptor, part, sizeof part);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) {
      done = size == 0;
      break;
    }
    const size_t old = out.size();
    if (static_cast<size_t>(size) > most - old || !out.resize(old + static_cast<size_t>(size))) break;
    memcpy(out.begin() + old, part, static_cast<size_t>(size));
  }
  ::close(descriptor);
  return done;
}

bool make_folders(const char* path) {
  char part[4096];
  const size_t size = strlen(path);
  if (!size || size >= sizeof part) return false;
  memcpy(part, path, size + 1);
  for (size_t i = 1; i <= size; ++i) {
    if (i < size && part[i] != '/') continue;
    part[i] = 0;
    if (mkdir(part, 0700) != 0 && errno != EEXIST) return false;
    if (i < size) part[i] = '/';
  }
  return kind_of(path) == FileKind::folder;
}

bool remove_file(const char* path) { return unlink(path) == 0; }

bool list_folder(const char* path, Found found, void* user) {
  DIR* folder = opendir(path);
  if (!folder) return false;
  while (const dirent* entry = readdir(folder)) {
    char whole[4096];
    struct stat facts;
    snprintf(whole, sizeof whole, "%s/%s", path, entry->d_name);
    if (stat(whole, &facts) == 0 && S_ISREG(facts.st_mode)) {
      found(user, entry->d_name, static_cast<u64>(facts.st_size), facts.st_mtime);
    }
  }
  closedir(folder);
  return true;
}

void touch(const char* path) { utimensat(AT_FDCWD, path, nullptr, 0); }

double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

u64 memory_peak() { return status_line("VmHWM:"); }
u64 memory_now() { return status_line("VmRSS:"); }

double read_number(Text text) {
  // strtod reads the locale's decimal mark, which an app may have changed; the text is JSON's, so a point.
  char copy[512];
  char mark[8];
  snprintf(mark, sizeof mark, "%.1f", 0.5);
  const size_t size = min(text.size, sizeof copy - 1);
  memcpy(copy, text.data, size);
  copy[size] = 0;
  if (mark[1] != '.') {
    if (char* point = strchr(copy, '.')) *point = mark[1];
  }
  return strtod(copy, nullptr);
}

void write_number(char* out, size_t room, double value) {
  if (value < 1e16 && value > -1e16 && value == static_cast<double>(static_cast<i64>(value))) {
    snprintf(out, room, "%s%lld.0", value == 0 && 1 / value < 0 ? "-" : "", static_cast<long long>(value));
    return;
  }
  // As few digits as are read back as the same number.
  char digits[64];
  for (int precision = 0; precision < 17; ++precision) {
    snprintf(digits, sizeof digits, "%.*e", precision, value);
    for (char* c = digits; *c; ++c) {
      if (*c == ',') *c = '.';
    }
    if (read_number(digits) == value) break;
  }
  const char* e = strchr(digits, 'e');
  if (!e) {  // infinite, or no number
    snprintf(out, room, "%s", value != value ? "NaN" : value < 0 ? "-Infinity" : "Infinity");
    return;
  }
  const int exponent = atoi(e + 1);
  const bool negative = digits[0] == '-';
  char plain[32];
  int count = 0;
  for (const char* c = digits; c < e; ++c) {
    if (*c >= '0' && *c <= '9') plain[count++] = *c;
  }
  plain[count] = 0;
  const char* sign = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    snprintf(out, room, "%s%c%s%se%s%02d", sign, plain[0], count > 1 ? "." : "", plain + 1, exponent < 0 ? "-" : "+",
             abs(exponent));
  } else if (exponent < 0) {
    snprintf(out, room, "%s0.%.*s%s", sign, -exponent - 1, "0000", plain);
  } else if (count <= exponent + 1) {
    snprintf(out, room, "%s%s%.*s.0", sign, plain, exponent + 1 - count, "0000000000000000");
  } else {
    snprintf(out, room, "%s%.*s.%s", sign, exponent + 1, plain, plain + exponent + 1);
  }
}

void* open_library(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
const char* library_error() {
  const char* why = dlerror();
  return why ? why : "no reason is known";
}
void* find_symbol(void* library, const char* name) { return dlsym(library, name); }
const char* variable(const char* name) { return getenv(name); }

}  // namespace od
