#include "text/unicode.h"

#include "base/json.h"

namespace od {
namespace {

struct ClassRange {
  u32 first, last;
  u8 value;
};

struct CaseRange {
  u32 first, last, step;
  i32 shift;
};

struct Pair {
  u32 letter, first, second;
};

#include "text/unicode_tables.inc"

// Hangul syllables are computed from their two or three parts.
constexpr u32 kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11a7;
constexpr u32 kLeadCount = 19, kVowelCount = 21, kTailCount = 28,
              kSyllableCount = kLeadCount * kVowelCount * kTailCount;
constexpr u32 kFirstMark = 0x300;  // below, no letter has a combining class or joins the one before

// The range that holds a letter, or null.
template <class Range, size_t count>
const Range* range_of(const Range (&ranges)[count], u32 letter) {
  size_t low = 0, high = count;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (ranges[middle].last < letter) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && ranges[low].first <= letter ? &ranges[low] : nullptr;
}

u8 mark_class(u32 letter) {
  if (letter < kFirstMark) return 0;
  const ClassRange* range = range_of(kMarks, letter);
  return range ? range->value : 0;
}

bool decompose(u32 letter, List<u32>& out) {
  if (letter < 0xc0) return out.push(letter);
  if (letter - kSyllables < kSyllableCount) {
    const u32 index = letter - kSyllables, tail = index % kTailCount;
    return out.push(kLeads + index / (kVowelCount * kTailCount)) &&
           out.push(kVowels + index / kTailCount % kVowelCount) && (!tail || out.push(kTails + tail));
  }
  size_t low = 0, high = sizeof kPairs / sizeof *kPairs;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    const Pair& pair = kPairs[middle];
    if (pair.letter == letter) return decompose(pair.first, out) && (!pair.second || decompose(pair.second, out));
    if (pair.letter < letter) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return out.push(letter);
}

// What two letters become, or 0.
u32 joined(u32 first, u32 second) {
  if (second < kFirstMark) return 0;
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTailCount;
  }
  if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTailCount == 0 &&
      second - kTails - 1 < kTailCount - 1) {
    return first + (second - kTails);
  }
  size_t low = 0, high = sizeof kJoins / sizeof *kJoins;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    const Pair& pair = kPairs[kJoins[middle]];
    if (pair.first == first && pair.second == second) return pair.letter;
    if (pair.first < first || (pair.first == first && pair.second < second)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return 0;
}

// Marks in a row, ordered by class; those of one class stay in order. By counting, as a text may be all marks.
bool order_marks(u32* marks, size_t count, List<u32>& copy) {
  bool ordered = true;
  for (size_t i = 1; i < count && ordered; ++i) ordered = mark_class(marks[i - 1]) <= mark_class(marks[i]);
  if (ordered) return true;
  copy.clear();
  if (!copy.resize(count)) return false;
  size_t begins[257] = {};
  for (size_t i = 0; i < count; ++i) ++begins[mark_class(marks[i]) + 1];
  for (size_t i = 1; i < 257; ++i) begins[i] += begins[i - 1];
  for (size_t i = 0; i < count; ++i) copy[begins[mark_class(marks[i])]++] = marks[i];
  for (size_t i = 0; i < count; ++i) marks[i] = copy[i];
  return true;
}

}  // namespace

u8 class_of(u32 letter) {
  const ClassRange* range = range_of(kClasses, letter);
  return range ? range->value : 0;
}

bool is_space(u32 letter) {
  return (letter >= 9 && letter <= 13) || letter == 32 || letter == 0x85 || letter == 0xa0 || letter == 0x1680 ||
         (letter >= 0x2000 && letter <= 0x200a) || letter == 0x2028 || letter == 0x2029 || letter == 0x202f ||
         letter == 0x205f || letter == 0x3000;
}

size_t lower_case(u32 letter, u32 out[2]) {
  if (letter == 0x130) {
    out[0] = 'i';
    out[1] = 0x307;
    return 2;
  }
  const CaseRange* range = range_of(kLower, letter);
  const bool changes = range && (letter - range->first) % range->step == 0;
  out[0] = changes ? letter + static_cast<u32>(range->shift) : letter;
  return 1;
}

bool compose(List<u32>& text) {
  bool plain = true;
  for (const u32 letter : text) plain = plain && letter < kFirstMark;
  if (plain) return true;
  List<u32> apart, copy;
  for (const u32 letter : text) {
    if (!decompose(letter, apart)) return false;
  }
  for (size_t i = 0; i < apart.size();) {
    size_t end = i;
    while (end < apart.size() && mark_class(apart[end])) ++end;
    if (end - i > 1 && !order_marks(apart.begin() + i, end - i, copy)) return false;
    i = end + 1;
  }
  text.clear();
  size_t starter = SIZE_MAX;
  u8 last = 0;  // class of the last letter that was kept behind the starter
  for (const u32 letter : apart) {
    const u8 own = mark_class(letter);
    if (starter != SIZE_MAX && (last == 0 || last < own)) {
      if (const u32 both = joined(text[starter], letter)) {
        text[starter] = both;
        continue;
      }
    }
    if (own == 0) starter = text.size();
    last = own;
    if (!text.push(letter)) return false;
  }
  return true;
}

bool normal_form(Text text, List<u32>& letters, List<char>& out) {
  letters.clear();
  out.clear();
  u32 letter;
  size_t size;
  for (; text.size; text = {text.data + size, text.size - size}) {
    size = decode_letter(text, letter);
    if (!letters.push(letter)) return false;
  }
  if (!compose(letters)) return false;
  bool space = false;
  for (const u32 one : letters) {
    if (is_space(one)) {
      if (!space && !out.push(' ')) return false;
      space = true;
      continue;
    }
    space = false;
    u32 lower[2];
    char bytes[4];
    for (size_t i = 0, count = lower_case(one, lower); i < count; ++i) {
      for (size_t k = 0, length = encode_letter(lower[i], bytes); k < length; ++k) {
        if (!out.push(bytes[k])) return false;
      }
    }
  }
  return true;
}

}  // namespace od
