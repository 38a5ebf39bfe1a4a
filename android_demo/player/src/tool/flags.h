// The command line's words: what stands alone, and flags with or without a value.
#pragma once

#include "base/base.h"

namespace od {

struct Flag {
  const char* name;  // "--steps"
  bool takes_value;
  bool may_repeat = false;
  bool may_lack_value = false;  // of one that takes a number: it is one by itself, too
};

// A finite number that a flag was given. Code::usage.
bool number_of(const char* flag, const char* text, double& out, Error& error);

class Arguments {
 public:
  // Code::usage for a flag that is not among `known`, one that lacks its value, and too many or too few words.
  bool parse(Span<char*> arguments, Span<const Flag> known, Span<const char* const> words, Error& error);
  // Null where one that may be missing, "[WORD]", is.
  const char* word(size_t index) const { return index < words_.size() ? words_[index] : nullptr; }
  // The value of a flag, the last that was given; null where it was not.
  const char* value(const char* flag) const;
  bool has(const char* flag) const { return value(flag) != nullptr; }
  // Each value of a flag that may repeat, in order.
  Span<const char* const> values(const char* flag, List<const char*>& out) const;

  // Numbers, checked. `otherwise` where the flag was not given.
  bool whole(const char* flag, i64 low, i64 high, i64 otherwise, i64& out, Error& error) const;
  bool number(const char* flag, double& out, bool& given, Error& error) const;
  // "512x768".
  bool size(const char* flag, u32& width, u32& height, Error& error) const;
  // "2GB", "800MB", "1.5GiB" or plain bytes.
  bool memory(const char* flag, u64& bytes, Error& error) const;

 private:
  struct Given {
    const char* flag;
    const char* value;
  };
  List<const char*> words_;
  List<Given> given_;
};

}  // namespace od
