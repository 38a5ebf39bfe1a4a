#include "base/json_writer.h"

#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "base/os.h"

namespace od {

void JsonWriter::add(Text text) {
  for (size_t i = 0; i < text.size; ++i) ok_ = ok_ && out_.push(text.data[i]);
}

void JsonWriter::next() {
  if (comma_) add(", ");
  comma_ = true;
}

JsonWriter& JsonWriter::begin_object() {
  next();
  add("{");
  comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::end_object() {
  add("}");
  comma_ = true;
  return *this;
}

JsonWriter& JsonWriter::begin_list() {
  next();
  add("[");
  comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::end_list() {
  add("]");
  comma_ = true;
  return *this;
}

JsonWriter& JsonWriter::key(Text name) {
  text(name);
  add(": ");
  comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::text(Text value) {
  next();
  ok_ = ok_ && append_json(out_, value);
  return *this;
}

JsonWriter& JsonWriter::number(double value) {
  if (!isfinite(value)) return null();
  char digits[64];
  write_number(digits, sizeof digits, value);
  next();
  add(digits);
  return *this;
}

JsonWriter& JsonWriter::whole(i64 value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%lld", static_cast<long long>(value));
  next();
  add(digits);
  return *this;
}

JsonWriter& JsonWriter::boolean(bool value) {
  next();
  add(value ? "true" : "false");
  return *this;
}

JsonWriter& JsonWriter::null() {
  next();
  add("null");
  return *this;
}

const char* JsonWriter::done() {
  ok_ = ok_ && out_.push(0);
  if (!ok_) return "{}";
  out_.pop();
  return out_.begin();
}

}  // namespace od
