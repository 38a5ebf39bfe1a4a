#include "tool/previews.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json_writer.h"
#include "base/os.h"
#include "picture/png.h"

namespace od {

void Previews::begin(u32 number) {
  number_ = number;
  done_ = calls_ = 0;
  picture_[0] = 0;
  report(-1, nullptr);
}

void Previews::show(u32 done, Pixels pixels) {
  char name[sizeof picture_], number[16] = "";
  if (count_ > 1) snprintf(number, sizeof number, "%u-", number_);
  snprintf(name, sizeof name, "%sstep-%04u.png", number, done);
  List<u8> png;
  const size_t bytes = size_t(3) * pixels.width * pixels.height;
  if (failed_ || !encode_png({pixels.data, bytes}, pixels.width, pixels.height, {}, png, failed_)) return;
  const Bytes file = {png.begin(), png.size()};
  if (write(name, file) && write("latest.png", file)) snprintf(picture_, sizeof picture_, "%s", name);
}

void Previews::step(u32 done, u32 calls, double left) {
  calls_ = calls;
  if (done <= done_) return;
  done_ = done;
  report(done > 1 && done == calls ? 0 : left, nullptr);
}

void Previews::finish() { step(calls_, calls_, -1); }

void Previews::end(const char* out) { report(0, out); }

bool Previews::good(Error& error) const {
  if (failed_) error = failed_;
  return !failed_;
}

void Previews::report(double left, const char* out) {
  if (!folder_) return;
  char tenths[64];
  snprintf(tenths, sizeof tenths, "%.1f", left);
  const auto may = [](JsonWriter& json, const char* text) { text && text[0] ? json.text(text) : json.null(); };
  JsonWriter json;
  json.begin_object().member("step", done_).key("steps");
  calls_ && done_ ? json.whole(calls_) : json.null();
  json.key("seconds_left");
  left >= 0 ? json.number(strtod(tenths, nullptr)) : json.null();
  may(json.key("picture"), picture_);
  json.member("number", number_).member("count", count_);
  may(json.key("out"), out);
  const char* text = json.end_object().done();
  if (!json.ok()) {
    Pool::no_memory(failed_, json.size());
  } else {
    write("progress.json", {reinterpret_cast<const u8*>(text), json.size()});
  }
}

bool Previews::write(const char* name, Bytes data) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder_, name);
  return !failed_ && write_file(path, data, failed_);
}

}  // namespace od
