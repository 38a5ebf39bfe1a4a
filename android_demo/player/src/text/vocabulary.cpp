#include "text/vocabulary.h"

#include <string.h>

#include "base/os.h"
#include "bundle/checker.h"
#include "text/unicode.h"

namespace od {
namespace {

constexpr size_t kLarge = 1 << 24, kSmall = 1 << 20;  // bytes of a file
constexpr const char* kSuffix = "</w>";               // of a word's last piece
constexpr int kLongest = 1024;                        // ids of a text, start and end included
constexpr double kUnbounded = 1e9;                    // a length above is none

class Files {
 public:
  Files(Span<const NamedFile> files, Text where, Pool& pool, Error& error)
      : files_(files), where_(where), pool_(pool), error_(error) {}

  // "WHERE/NAME".
  Text place(Text name) {
    auto* text = static_cast<char*>(pool_.take(where_.size + 1 + name.size));
    if (!text) return name;
    memcpy(text, where_.data, where_.size);
    text[where_.size] = '/';
    memcpy(text + where_.size + 1, name.data, name.size);
    return {text, where_.size + 1 + name.size};
  }

  const NamedFile* find(Text name) const {
    for (const NamedFile& file : files_) {
      if (file.name == name) return &file;
    }
    return nullptr;
  }

  bool read(Text name, Bytes& out) {
    const NamedFile* file = find(name);
    if (!file) return fail(error_, Code::bundle, place(name), kDamaged, "is missing.");
    out = file->bytes;
    return out.count <= kLarge || fail(error_, Code::bundle, place(name), kDamaged,
                                       "is too large (got %zu bytes, expected at most %zu).", out.count, kLarge);
  }

  // The JSON object of a file; null where there is none and none is needed.
  bool object(Text name, bool needed, size_t most, const Json*& out) {
    out = nullptr;
    if (!needed && !find(name)) return true;
    Bytes bytes;
    JsonLimits limits;
    limits.bytes = most;
    auto* value = pool_.one<Json>();
    if (!value) return Pool::no_memory(error_, sizeof(Json));
    if (!read(name, bytes) || !parse_json(bytes, place(name), pool_, *value, error_, limits)) return false;
    if (!value->is(Json::Kind::object)) {
      return fail(error_, Code::bundle, place(name), kDamaged, "is %s (expected a JSON object).", shown(*value).text);
    }
    out = value;
    return true;
  }

 private:
  Span<const NamedFile> files_;
  Text where_;
  Pool& pool_;
  Error& error_;
};

// What Python's str.split parts words at.
bool parts_words(u32 letter) { return is_space(letter) || (letter >= 0x1c && letter <= 0x1f); }

class Lines {
 public:
  Lines(Bytes bytes, Text where, Error& error)
      : rest_(reinterpret_cast<const char*>(bytes.data), bytes.count), where_(where), error_(error) {}

  // Whether all of it is UTF-8; a byte order mark and the line of the version are passed over. `most`: lines at most.
  bool begin(size_t& most) {
    most = 1;
    u32 letter;
    size_t size;
    for (Text rest = rest_; rest.size; rest = {rest.data + size, rest.size - size}) {
      size = decode_letter(rest, letter);
      if (!size) {
        return fail(error_, Code::bundle, where_, kDamaged, "is no UTF-8 text (at byte %zu).", rest_.size - rest.size);
      }
      most += letter == '\n';
    }
    if (rest_.starts_with("\xef\xbb\xbf")) rest_ = {rest_.data + 3, rest_.size - 3};
    if (rest_.starts_with("#version")) take();
    return true;
  }

  // The next line that is not empty, as its two tokens; `last` where there is none.
  bool pair(Text& left, Text& right, bool& last) {
    while (!ended_) {
      const Text line = take();
      size_t words = 0, spaces = 0, from = 0, size;
      bool others = false, word = false;
      Text found[2];
      for (size_t at = 0; at < line.size; at += size) {
        u32 letter;
        size = decode_letter({line.data + at, line.size - at}, letter);
        if (parts_words(letter)) {
          spaces += letter == ' ';
          others = others || letter != ' ';
          word = false;
          continue;
        }
        if (!word) {
          ++words;
          from = at;
          word = true;
        }
        if (words <= 2) found[words - 1] = {line.data + from, at + size - from};
      }
      if (!words) continue;
      if (words != 2 || spaces != 1 || others) {
        return fail(error_, Code::bundle, where_, kDamaged,
                    "line %zu is no pair (got %s, expected two tokens and one space between).", number_,
                    shown(line).text);
      }
      left = found[0];
      right = found[1];
      last = false;
      return true;
    }
    last = true;
    return true;
  }
  size_t number() const { return number_; }

 private:
  Text take() {
    const auto* end = static_cast<const char*>(memchr(rest_.data, '\n', rest_.size));
    Text line(rest_.data, end ? static_cast<size_t>(end - rest_.data) : rest_.size);
    ended_ = !end;
    rest_ = {rest_.data + line.size + !ended_, rest_.size - line.size - !ended_};
    ++number_;
    if (!ended_ && line.size && line.data[line.size - 1] == '\r') --line.size;
    return line;
  }

  Text rest_, where_;
  Error& error_;
  size_t number_ = 0;
  bool ended_ = false;
};

bool read_merges(Bytes bytes, Text where, const TokenIds& ids, Pool& pool, Merges& out, Error& error) {
  Lines lines(bytes, where, error);
  size_t most;
  if (!lines.begin(most)) return false;
  if (!out.reserve(min(most, kMaxTokens), pool, error)) return false;
  Text left, right;
  bool last;
  for (u32 rank = 0; lines.pair(left, right, last); ++rank) {
    if (last) return true;
    if (rank == kMaxTokens) {
      return fail(error, Code::bundle, where, kDamaged, "has too many merges (expected at most %zu).", kMaxTokens);
    }
    const Merges::Merge merge{ids.find(left), ids.find(right), rank, ids.find(left, right)};
    if (merge.left < 0 || merge.right < 0 || merge.id < 0) {
      return fail(error, Code::bundle, where, "use vocabulary and merges of the same tokenizer",
                  "line %zu merges what vocab.json lacks (got %s and %s, expected tokens of the vocabulary).",
                  lines.number(), shown(left).text, shown(right).text);
    }
    out.add(merge);
  }
  return false;
}

// Settings that would give other ids than CLIP's.
bool check_settings(const Json& config, Text where, Error& error) {
  constexpr const char* fix = "use the tokenizer folder of a Stable Diffusion checkpoint, and convert again";
  const auto wrong = [&](Text name, const Json& value) {
    return fail(error, Code::bundle, where, fix, "%.*s is not CLIP's (got %s).", OD_TEXT(name), shown(value).text);
  };
  static constexpr const char* kClasses[] = {"CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend",
                                             "PreTrainedTokenizerFast", "PreTrainedTokenizer"};
  const Json* kind = config.find("tokenizer_class");
  if (kind && !kind->is(Json::Kind::null)) {
    bool known = false;
    for (const char* name : kClasses) known = known || (kind->is(Json::Kind::text) && kind->text == name);
    if (!known) {
      return fail(error, Code::bundle, where, fix, "is no CLIP tokenizer's (got %s, expected \"CLIPTokenizer\").",
                  shown(*kind).text);
    }
  }
  static constexpr const char* kSides[] = {"padding_side", "truncation_side"};
  for (const char* name : kSides) {
    const Json* side = config.find(name);
    if (side && !side->is(Json::Kind::null) && !(side->is(Json::Kind::text) && side->text == "right")) {
      return wrong(name, *side);
    }
  }
  const Json* split = config.find("split_special_tokens");
  if (split && !split->is(Json::Kind::null) && !(split->is(Json::Kind::boolean) && !split->boolean)) {
    return wrong("split_special_tokens", *split);
  }
  static constexpr const char* kLengths[] = {"model_max_length", "max_len"};
  for (const char* name : kLengths) {
    const Json* length = config.find(name);
    if (!length || length->is(Json::Kind::null)) continue;
    const double ids = length->number() ? length->real : 0;
    if (ids > kUnbounded) continue;
    if (!(ids >= 3 && ids <= kLongest && ids == static_cast<double>(static_cast<i32>(ids)))) {
      return fail(error, Code::bundle, where, fix, "%s is %s (expected a whole number from 3 to %d).", name,
                  shown(*length).text, kLongest);
    }
  }
  return true;
}

}  // namespace

bool read_vocabulary(Span<const NamedFile> files, Text where, Pool& pool, Vocabulary& out, Error& error) {
  Pool scratch;
  Files source(files, where, scratch, error);
  static constexpr const char* kOthers[] = {"tokenizer.json", "added_tokens.json"};
  for (const char* name : kOthers) {
    if (source.find(name)) {
      return fail(error, Code::bundle, source.place(name), "write the bundle again with `ondevice convert`",
                  "a bundle's tokenizer has no such file.");
    }
  }
  const Json *vocab, *config, *map;
  TokenIds ids;
  Bytes merges;
  i32 unknown;
  if (!source.object("vocab.json", true, kLarge, vocab)) return false;
  if (!source.object("tokenizer_config.json", false, kSmall, config)) return false;
  if (!source.object("special_tokens_map.json", false, kSmall, map)) return false;
  if (!ids.read(*vocab, source.place("vocab.json"), error)) return false;
  if (!source.read("merges.txt", merges)) return false;
  if (!read_merges(merges, source.place("merges.txt"), ids, pool, out.merges, error)) return false;
  const Text place = source.place(map ? "special_tokens_map.json" : "tokenizer_config.json");
  if (!read_added_tokens(config, map, place, ids, pool, out, unknown, error)) return false;
  if (config && !check_settings(*config, source.place("tokenizer_config.json"), error)) return false;
  u32 others = 256;
  for (u32 byte = 0; byte < 256; ++byte) {
    const bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    char text[4];
    const Text letter(text, encode_letter(plain ? byte : others++, text));
    out.letters[0][byte] = ids.find(letter);
    out.letters[1][byte] = ids.find(letter, kSuffix);
    for (auto& letters : out.letters) {
      if (letters[byte] < 0) letters[byte] = unknown;
    }
  }
  return true;
}

}  // namespace od
