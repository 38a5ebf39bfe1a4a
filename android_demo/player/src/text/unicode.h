// What CLIP's tokenizer must know of letters (docs/tokenizer.md, "Unicode"). A letter is a code point.
#pragma once

#include "base/base.h"

namespace od {

// A sum of these.
constexpr u8 kLetter = 1, kNumber = 2, kWord = 4;
u8 class_of(u32 letter);
bool is_space(u32 letter);

// Lower case by Unicode's full mapping: how many letters it is (1 or 2), into `out`.
size_t lower_case(u32 letter, u32 out[2]);

// Unicode's normal form C, in place. False where there is no memory. At most 4 letters come of each for a while.
bool compose(List<u32>& text);

// The normal form that words and some added tokens are looked for in: composed, each run of white space one space, each
// letter by itself in lower case. `text` is UTF-8, as is `out`; `letters` is scratch. False where there is no memory.
bool normal_form(Text text, List<u32>& letters, List<char>& out);

}  // namespace od
