#include "device/machine.h"

#include <string.h>

#include "base/os.h"
#include "base/sort.h"

namespace od {
namespace {

bool append(List<char>& out, Text text) {
  const size_t old = out.size();
  if (!out.resize(old + text.size)) return false;
  memcpy(out.begin() + old, text.data, text.size);
  return true;
}

// The parts of `text` between bytes of `marks`, sorted, with `between` between them; with `once` none of them twice.
bool sorted(Text text, const char* marks, Text between, bool once, List<char>& out) {
  List<Text> parts;
  for (size_t from = 0, until; from < text.size; from = until + 1) {
    for (until = from; until < text.size && !strchr(marks, text.data[until]); ++until) {
    }
    if (until > from && !parts.push({text.data + from, until - from})) return false;
  }
  sort(parts.span(), [](Text a, Text b) { return compare(a, b) < 0; });
  bool first = true;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (once && i && parts[i] == parts[i - 1]) continue;
    if (!(first || append(out, between)) || !append(out, parts[i])) return false;
    first = false;
  }
  return true;
}

}  // namespace

// Linux lists for each processor its `flags`, or on Arm its `Features`. Alike ones count once.
bool cpu_features(List<char>& out) {
  List<char> listed, sets;
  if (!read_system_file("/proc/cpuinfo", size_t(16) << 20, listed)) return true;
  const Text all(listed.begin(), listed.size());
  for (size_t from = 0, until; from < all.size; from = until + 1) {
    const char* end = static_cast<const char*>(memchr(all.data + from, '\n', all.size - from));
    until = end ? static_cast<size_t>(end - all.data) : all.size;
    const Text line(all.data + from, until - from);
    const char* mark = static_cast<const char*>(memchr(line.data, ':', line.size));
    if (!mark || !(line.starts_with("flags") || line.starts_with("Features"))) continue;
    size_t name = static_cast<size_t>(mark - line.data);
    const Text words(mark + 1, line.size - name - 1);
    while (name && strchr(" \t", line.data[name - 1])) --name;
    if (Text(line.data, name) != "flags" && Text(line.data, name) != "Features") continue;
    List<char> set;
    if (!sorted(words, " \t", " ", false, set) || !append(sets, {set.begin(), set.size()}) || !sets.push('\n'))
      return false;
  }
  return sorted({sets.begin(), sets.size()}, "\n", "; ", true, out);
}

}  // namespace od
