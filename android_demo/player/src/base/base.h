// Words that the whole player is written in: sizes, views, memory that is given back as a whole, and errors.
//
// The core is C++17 without exceptions, without RTTI and without the standard library's templates: it needs a C
// library, libm, threads and libdl, so that it builds with an NDK, without one, and for any Linux.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace od {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i32 = int32_t;
using i64 = int64_t;

// `count` elements that somebody else owns.
template <class T>
struct Span {
  T* data = nullptr;
  size_t count = 0;

  T& operator[](size_t index) const { return data[index]; }
  T* begin() const { return data; }
  T* end() const { return data + count; }
  bool empty() const { return count == 0; }
  Span slice(size_t from, size_t to) const { return {data + from, to - from}; }
  // The same to be read only.
  template <class U>
  operator Span<U>() const {  // NOLINT
    U* same = data;
    return {same, count};
  }
};

using Bytes = Span<const u8>;

// UTF-8 that somebody else owns; not ended by a zero unless whoever made it says so.
struct Text {
  const char* data = "";
  size_t size = 0;

  constexpr Text() = default;
  constexpr Text(const char* begin, size_t bytes) : data(begin), size(bytes) {}
  constexpr Text(const char* zero_ended)  // NOLINT: a literal is a text
      : data(zero_ended), size(__builtin_strlen(zero_ended)) {}

  bool operator==(Text other) const;
  bool operator!=(Text other) const { return !(*this == other); }
  bool starts_with(Text head) const;
  bool ends_with(Text tail) const;
  Text slice(size_t from, size_t to) const { return {data + from, to - from}; }
  Bytes bytes() const { return {reinterpret_cast<const u8*>(data), size}; }
};

// Bytewise order: below 0, 0 or above 0.
int compare(Text a, Text b);

// What went wrong. The numbers are the exit codes of the command line, the same as the Python package's (errors.py).
enum class Code : i32 {
  none = 0,
  internal = 1,  // our own fault, or no memory for the player's own tables
  usage = 2,
  bundle = 9,
  no_device = 10,
  kernel_build = 11,
  device = 12,
  numeric = 13,
  output = 16,
  cancelled = 130,
};

// One failure: `where: what. Fix: fix.` on one line (but for a driver's build log), control characters escaped.
struct Error {
  Code code = Code::none;
  char message[2048] = "";

  explicit operator bool() const { return code != Code::none; }
};

// Fill `error`. `what` is a printf format for the arguments after it; `where` and `fix` may be empty. Always false, so
// that `return fail(...)` ends a function that gives a bool.
bool fail(Error& error, Code code, Text where, const char* fix, const char* what, ...)
    __attribute__((format(printf, 5, 6)));

// `%.*s` of a Text.
#define OD_TEXT(text) static_cast<int>((text).size), (text).data

// Memory for what lives as long as one thing (a bundle, a picture). Nothing is given back alone. Every allocation is
// bounded: a pool that would pass `most` bytes gives null, as one does that the system has no memory for.
class Pool {
 public:
  explicit Pool(size_t most = size_t(1) << 40) : most_(most) {}
  ~Pool() { clear(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Zeroed bytes, aligned to 16; null where there are none.
  void* take(size_t bytes);
  void clear();
  size_t used() const { return used_; }

  // `count` zeroed values of a type that needs no destructor; empty, with `error` filled, where there is no memory.
  template <class T>
  bool array(Span<T>& out, size_t count, Error& error) {
    out = {};
    if (count == 0) return true;
    if (count > most_ / sizeof(T)) return no_memory(error, count);
    out.data = static_cast<T*>(take(count * sizeof(T)));
    if (!out.data) return no_memory(error, count * sizeof(T));
    out.count = count;
    return true;
  }
  template <class T>
  T* one() {
    return static_cast<T*>(take(sizeof(T)));
  }
  // A copy, ended by a zero that `size` does not count. Empty where there is no memory.
  Text copy(Text text);
  static bool no_memory(Error& error, size_t bytes);

 private:
  struct Chunk {
    Chunk* next;
    size_t size, used;
  };
  Chunk* chunks_ = nullptr;
  size_t most_, used_ = 0;
};

// A list that grows, of values that can be moved as bytes and need no destructor. Owned, and given back at the end.
template <class T>
class List {
 public:
  List() = default;
  ~List() { reset(); }
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  // Whether there was memory for it.
  bool push(const T& value) {
    if (count_ == room_ && !grow(count_ + 1)) return false;
    data_[count_++] = value;
    return true;
  }
  // `count` values in all; new ones are zero.
  bool resize(size_t count);
  void clear() { count_ = 0; }
  void reset();
  // What another holds, which is empty then.
  void take(List& other) {
    reset();
    data_ = other.data_;
    count_ = other.count_;
    room_ = other.room_;
    other.data_ = nullptr;
    other.count_ = other.room_ = 0;
  }
  size_t size() const { return count_; }
  bool empty() const { return count_ == 0; }
  T& operator[](size_t index) { return data_[index]; }
  const T& operator[](size_t index) const { return data_[index]; }
  T& back() { return data_[count_ - 1]; }
  void pop() { --count_; }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + count_; }
  Span<T> span() { return {data_, count_}; }
  Span<const T> span() const { return {data_, count_}; }

 private:
  bool grow(size_t least);
  T* data_ = nullptr;
  size_t count_ = 0, room_ = 0;
};

// realloc and free, for List alone.
void* resized(void* old, size_t bytes);
void released(void* data);
void zeroed(void* data, size_t bytes);

template <class T>
bool List<T>::grow(size_t least) {
  size_t room = room_ ? room_ * 2 : 8;
  if (room < least) room = least;
  if (room > SIZE_MAX / 2 / sizeof(T)) return false;
  void* data = resized(data_, room * sizeof(T));
  if (!data) return false;
  data_ = static_cast<T*>(data);
  room_ = room;
  return true;
}

template <class T>
bool List<T>::resize(size_t count) {
  if (count > room_ && !grow(count)) return false;
  if (count > count_) zeroed(data_ + count_, (count - count_) * sizeof(T));
  count_ = count;
  return true;
}

template <class T>
void List<T>::reset() {
  released(data_);
  data_ = nullptr;
  count_ = room_ = 0;
}

// One object of its own, for types that need a constructor; null where there is no memory.
struct InPlace {
  void* at;
};

template <class T>
T* construct();
template <class T>
void destroy(T* object) {
  if (!object) return;
  object->~T();
  released(object);
}

template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

extern const char* const kVersion;  // the Python package's, which the pictures' parameters name

// Lines for people, on stderr or wherever the embedding app wants them.
enum class Level : i32 { info = 0, warning = 1 };
using LogFunction = void (*)(void* user, Level level, const char* line);
void set_log(LogFunction function, void* user);
void log(Level level, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace od

inline void* operator new(size_t, od::InPlace place) noexcept { return place.at; }

namespace od {

template <class T>
T* construct() {
  void* at = resized(nullptr, sizeof(T));
  return at ? new (InPlace{at}) T() : nullptr;
}

}  // namespace od
