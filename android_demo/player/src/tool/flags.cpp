#include "tool/flags.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"

namespace od {

bool Arguments::parse(Span<char*> arguments, Span<const Flag> known, Span<const char* const> words, Error& error) {
  for (size_t i = 0; i < arguments.count; ++i) {
    const char* argument = arguments[i];
    if (strncmp(argument, "--", 2) != 0) {
      if (words_.size() == words.count) {
        return fail(error, Code::usage, argument, "quote a text with spaces", "one word too many.");
      }
      if (!words_.push(argument)) return Pool::no_memory(error, sizeof argument);
      continue;
    }
    const char* equals = strchr(argument, '=');
    const Text name = equals ? Text(argument, static_cast<size_t>(equals - argument)) : Text(argument);
    const Flag* found = nullptr;
    for (const Flag& flag : known) {
      if (name == Text(flag.name)) found = &flag;
    }
    if (!found) return fail(error, Code::usage, argument, "od_player --help lists them", "there is no such flag.");
    const char* value = equals ? equals + 1 : "";
    const char* next = i + 1 < arguments.count ? arguments[i + 1] : "";
    const bool bare = found->may_lack_value && !equals && !(*next >= '0' && *next <= '9');
    if (found->takes_value && !equals && !bare) {
      if (i + 1 == arguments.count) return fail(error, Code::usage, argument, "give one", "it takes a value.");
      value = arguments[++i];
    } else if (!found->takes_value && equals) {
      return fail(error, Code::usage, argument, "leave it out", "it takes no value.");
    }
    if (has(found->name) && !found->may_repeat) {
      return fail(error, Code::usage, found->name, "give it once", "it is there twice.");
    }
    if (!given_.push({found->name, value})) return Pool::no_memory(error, sizeof value);
  }
  if (words_.size() < words.count && words[words_.size()][0] != '[') {  // those that may be missing come last
    return fail(error, Code::usage, words[words_.size()], "od_player --help shows how", "it is missing.");
  }
  return true;
}

bool number_of(const char* flag, const char* text, double& out, Error& error) {
  char* end;
  out = strtod(text, &end);
  return (end != text && !*end && isfinite(out)) ||
         fail(error, Code::usage, flag, "give a number such as 7.5", "is \"%.40s\".", text);
}

const char* Arguments::value(const char* flag) const {
  for (size_t i = given_.size(); i-- > 0;) {
    if (strcmp(given_[i].flag, flag) == 0) return given_[i].value;
  }
  return nullptr;
}

Span<const char* const> Arguments::values(const char* flag, List<const char*>& out) const {
  for (const Given& one : given_) {
    if (strcmp(one.flag, flag) == 0 && !out.push(one.value)) break;
  }
  return {out.begin(), out.size()};
}

bool Arguments::whole(const char* flag, i64 low, i64 high, i64 otherwise, i64& out, Error& error) const {
  out = otherwise;
  const char* text = value(flag);
  if (!text) return true;
  char* end;
  errno = 0;
  const long long read = strtoll(text, &end, 10);
  if (end == text || *end || errno || read < low || read > high) {
    return fail(error, Code::usage, flag, "give a whole number", "is \"%.40s\" (expected %lld to %lld).", text,
                static_cast<long long>(low), static_cast<long long>(high));
  }
  out = read;
  return true;
}

bool Arguments::number(const char* flag, double& out, bool& given, Error& error) const {
  const char* text = value(flag);
  given = text != nullptr;
  return !given || number_of(flag, text, out, error);
}

bool Arguments::size(const char* flag, u32& width, u32& height, Error& error) const {
  const char* text = value(flag);
  if (!text) return true;
  int used = 0;
  if (sscanf(text, "%5ux%5u%n", &width, &height, &used) != 2 || text[used] || !width || !height) {
    return fail(error, Code::usage, flag, "use 512x512", "is \"%.40s\" (expected WIDTHxHEIGHT in pixels).", text);
  }
  return true;
}

bool Arguments::memory(const char* flag, u64& bytes, Error& error) const {
  const char* text = value(flag);
  if (!text) return true;
  static constexpr struct {
    const char* name;
    double bytes;
  } kUnits[] = {{"", 1},
                {"B", 1},
                {"kB", 1e3},
                {"KB", 1e3},
                {"MB", 1e6},
                {"GB", 1e9},
                {"KiB", 1024},
                {"MiB", 1024.0 * 1024},
                {"GiB", 1024.0 * 1024 * 1024}};
  char* end;
  const double amount = strtod(text, &end);
  while (*end == ' ') ++end;
  for (const auto& unit : kUnits) {
    if (strcasecmp(end, unit.name) == 0 && amount > 0 && amount * unit.bytes < 1e15) {
      bytes = static_cast<u64>(amount * unit.bytes);
      return true;
    }
  }
  return fail(error, Code::usage, flag, "use such as 2GB or 800MB", "\"%.40s\" is not an amount of memory.", text);
}

}  // namespace od
