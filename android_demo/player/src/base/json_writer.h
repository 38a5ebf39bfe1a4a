// JSON that the player writes: for people's tools, apps and the desktop.
#pragma once

#include "base/base.h"

namespace od {

// Texts, numbers, lists and objects in the order in which they are said; commas come by themselves. Where there is no
// memory left, `ok` is false and the text ends.
class JsonWriter {
 public:
  JsonWriter& begin_object();
  JsonWriter& end_object();
  JsonWriter& begin_list();
  JsonWriter& end_list();
  JsonWriter& key(Text name);
  JsonWriter& text(Text value);
  JsonWriter& number(double value);  // as Python writes it; null where it is not finite
  JsonWriter& whole(i64 value);
  JsonWriter& whole(u64 value) { return whole(static_cast<i64>(value)); }
  JsonWriter& whole(u32 value) { return whole(static_cast<i64>(value)); }
  JsonWriter& boolean(bool value);
  JsonWriter& null();

  // A member in one word.
  JsonWriter& member(Text name, Text value) { return key(name).text(value); }
  JsonWriter& member(Text name, double value) { return key(name).number(value); }
  JsonWriter& member(Text name, u64 value) { return key(name).whole(value); }
  JsonWriter& member(Text name, u32 value) { return key(name).whole(value); }

  // Ended by a zero.
  const char* done();
  size_t size() const { return out_.size(); }
  bool ok() const { return ok_; }

 private:
  void add(Text text);
  void next();
  List<char> out_;
  bool ok_ = true, comma_ = false;
};

}  // namespace od
