#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace od {

const char* const kVersion = "0.1.0";

bool Text::operator==(Text other) const { return size == other.size && memcmp(data, other.data, size) == 0; }

bool Text::starts_with(Text head) const { return size >= head.size && memcmp(data, head.data, head.size) == 0; }

bool Text::ends_with(Text tail) const {
  return size >= tail.size && memcmp(data + size - tail.size, tail.data, tail.size) == 0;
}

int compare(Text a, Text b) {
  const int order = memcmp(a.data, b.data, min(a.size, b.size));
  return order ? order : a.size < b.size ? -1 : a.size > b.size;
}

namespace {

// Text from files is in messages: what a terminal would obey is shown, not sent. A build log keeps its lines.
void append(char*& at, const char* end, const char* text, size_t size, bool lines) {
  for (size_t i = 0; i < size && at + 4 < end; ++i) {
    const auto byte = static_cast<u8>(text[i]);
    if (byte >= 0x20 ? byte != 0x7f : byte == '\n' && lines) {
      *at++ = text[i];
    } else {
      at += snprintf(at, static_cast<size_t>(end - at), "\\x%02x", byte);
    }
  }
  *at = 0;
}

LogFunction log_function = nullptr;
void* log_user = nullptr;

}  // namespace

bool fail(Error& error, Code code, Text where, const char* fix, const char* what, ...) {
  char text[1600];
  va_list arguments;
  va_start(arguments, what);
  vsnprintf(text, sizeof text, what, arguments);
  va_end(arguments);
  error.code = code;
  char* at = error.message;
  const char* end = error.message + sizeof error.message;
  const bool lines = code == Code::kernel_build;
  if (where.size) {
    append(at, end, where.data, min<size_t>(where.size, 200), false);
    append(at, end, ": ", 2, false);
  }
  append(at, end, text, strlen(text), lines);
  if (fix[0]) {
    append(at, end, " Fix: ", 6, false);
    append(at, end, fix, strlen(fix), false);
    append(at, end, ".", 1, false);
  }
  return false;
}

void* Pool::take(size_t bytes) {
  if (bytes > most_ - used_ || bytes > SIZE_MAX / 2) return nullptr;
  bytes = (max<size_t>(bytes, 1) + 15) & ~size_t(15);
  constexpr size_t head = (sizeof(Chunk) + 15) & ~size_t(15);
  if (!chunks_ || chunks_->size - chunks_->used < bytes) {
    const size_t size = max<size_t>(bytes, 64 << 10);
    auto* chunk = static_cast<Chunk*>(calloc(1, head + size));
    if (!chunk) return nullptr;
    // A large one goes behind the chunk in use, whose rest stays in use.
    if (chunks_ && bytes > (32 << 10)) {
      *chunk = {chunks_->next, size, size};
      chunks_->next = chunk;
      used_ += bytes;
      return reinterpret_cast<u8*>(chunk) + head;
    }
    *chunk = {chunks_, size, 0};
    chunks_ = chunk;
  }
  void* found = reinterpret_cast<u8*>(chunks_) + head + chunks_->used;
  chunks_->used += bytes;
  used_ += bytes;
  return found;
}

void Pool::clear() {
  while (chunks_) {
    Chunk* next = chunks_->next;
    free(chunks_);
    chunks_ = next;
  }
  used_ = 0;
}

Text Pool::copy(Text text) {
  auto* data = static_cast<char*>(take(text.size + 1));
  if (!data) return {};
  memcpy(data, text.data, text.size);
  return {data, text.size};
}

bool Pool::no_memory(Error& error, size_t bytes) {
  return fail(error, Code::internal, "", "close other apps", "no memory for %zu bytes of the player's own.", bytes);
}

void* resized(void* old, size_t bytes) { return realloc(old, bytes); }
void released(void* data) { free(data); }
void zeroed(void* data, size_t bytes) { memset(data, 0, bytes); }

void set_log(LogFunction function, void* user) {
  log_function = function;
  log_user = user;
}

void log(Level level, const char* format, ...) {
  if (!log_function) return;
  char line[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  log_function(log_user, level, line);
}

}  // namespace od
