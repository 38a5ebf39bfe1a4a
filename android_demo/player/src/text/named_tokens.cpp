#include "text/named_tokens.h"

#include "base/sort.h"
#include "text/vocabulary.h"

namespace od {
namespace {

// Settings that name a token, and what the four that a model needs are where no file says so.
constexpr struct {
  const char *name, *usual;
} kNamed[] = {
    {"bos_token", "<|startoftext|>"}, {"eos_token", "<|endoftext|>"}, {"unk_token", "<|endoftext|>"},
    {"sep_token", nullptr},           {"pad_token", "<|endoftext|>"}, {"cls_token", nullptr},
    {"mask_token", nullptr},
};
constexpr size_t kNamedCount = 7;

// Of JSON null, false, 0 and what is empty: Python takes it for nothing.
bool is_nothing(const Json* value) {
  if (!value) return true;
  switch (value->kind) {
    case Json::Kind::null:
      return true;
    case Json::Kind::boolean:
      return !value->boolean;
    case Json::Kind::integer:
    case Json::Kind::real:
      return value->real == 0;
    case Json::Kind::text:
      return !value->text.size;
    case Json::Kind::list:
      return value->list.empty();
    case Json::Kind::object:
      return value->members.empty();
  }
  return true;
}

bool names_a_token(const Member& member) {
  for (const auto& named : kNamed) {
    if (member.key == named.name) return true;
  }
  const bool fits = member.value.is(Json::Kind::text) || member.value.is(Json::Kind::object);
  return member.key.ends_with("_token") && fits;
}

size_t letters_of(Text text) {
  size_t count = 0;
  for (const u8 byte : text.bytes()) count += (byte & 0xc0) != 0x80;
  return count;
}

class Reader {
 public:
  Reader(const Json* config, const Json* map, const Checker& check, List<TokenEntry>& entries)
      : config_(config), map_(map), check_(check), entries_(entries) {}

  bool read(TokenRoles& roles) {
    const Json* decoder = config_ ? config_->find("added_tokens_decoder") : nullptr;
    if (decoder) map_ = nullptr;  // transformers then looks into no other file
    if ((decoder && !stated(*decoder)) || !named() || !extra()) return false;
    if (entries_.size() > kMaxAdded) {
      return check_.fail({}, "has too many added tokens (got %zu, expected at most %zu)", entries_.size(), kMaxAdded);
    }
    roles = {roles_[0], roles_[1], roles_[2], roles_[4]};  // as in kNamed
    return true;
  }

 private:
  // `value` is the token, or an object with it and its flags; `special` is what it is where no flag says so.
  bool token_of(const Json& value, bool special, bool of_map, const Place& at, NamedToken& out) const {
    const Json* content = value.is(Json::Kind::object) ? value.find("content") : &value;
    if (!content || !content->is(Json::Kind::text) || !content->text.size ||
        letters_of(content->text) > kLongestAdded) {
      return check_.fail(at, "is %s (expected an added token, a text of 1..%zu letters)", shown(value).text,
                         kLongestAdded);
    }
    out = {};
    out.content = content->text;
    out.special = special;
    struct {
      const char* name;
      bool* value;
    } const flags[] = {{"single_word", &out.single_word},
                       {"lstrip", &out.lstrip},
                       {"rstrip", &out.rstrip},
                       {"special", &out.special},
                       {"normalized", &out.normalized}};
    for (const Member& member : value.members) {
      if (member.key == "content" || member.key == "__type" || (of_map && member.key == "special")) continue;
      bool known = false;
      for (const auto& flag : flags) {
        if (member.key != flag.name || !member.value.is(Json::Kind::boolean)) continue;
        *flag.value = member.value.boolean;
        known = true;
        out.says_normalized = out.says_normalized || flag.value == &out.normalized;
      }
      if (!known) {
        return check_.fail(at,
                           "has %s %s (expected single_word, lstrip, rstrip, normalized and special, true or false)",
                           shown(member.key).text, shown(member.value).text);
      }
    }
    return true;
  }

  bool add(const NamedToken& token, TokenEntry::Kind kind, i32 id = -1) {
    return entries_.push({token, kind, id}) || Pool::no_memory(check_.error(), sizeof(TokenEntry));
  }

  // `added_tokens_decoder`, in the order of its ids.
  bool stated(const Json& decoder) {
    const Place at = "added_tokens_decoder";
    if (!check_.table(decoder, kMaxAdded, at)) return false;
    for (const Member& member : decoder.members) {
      i32 id = 0;
      bool digits = member.key.size > 0 && member.key.size < 10;
      for (const u8 c : member.key.bytes()) {
        digits = digits && c >= '0' && c <= '9';
        if (digits) id = id * 10 + (c - '0');
      }
      if (!digits || id >= i32(kMaxTokens)) {
        return check_.fail(at, "has the key %s (expected an id of 0..%zu)", shown(member.key).text, kMaxTokens - 1);
      }
      NamedToken token;
      if (!token_of(member.value, false, false, at.key(member.key), token)) return false;
      if (!add(token, TokenEntry::Kind::stated, id)) return false;
    }
    sort(entries_.span(), [](const TokenEntry& a, const TokenEntry& b) { return a.stated < b.stated; });
    for (size_t i = 1; i < entries_.size(); ++i) {
      if (entries_[i - 1].stated == entries_[i].stated) {
        return check_.fail(at, "has two tokens with the id %d", entries_[i].stated);
      }
    }
    return true;
  }

  // A setting of the map, else of the config.
  const Json* setting(Text name, bool& of_map) const {
    const Json* found = map_ ? map_->find(name) : nullptr;
    of_map = found != nullptr;
    return found || !config_ ? found : config_->find(name);
  }

  bool add_named(Text name, const Json& value, bool of_map) {
    const bool whole = value.is(Json::Kind::object);
    NamedToken token;
    const Place root;
    if (!token_of(value, of_map || !whole, of_map, root.field(name), token)) return false;
    token.special = true;
    return add(token, TokenEntry::Kind::named);
  }

  // Tokens that settings name: the seven, then a model's own.
  bool named() {
    bool of_map;
    for (size_t i = 0; i < kNamedCount; ++i) {
      const Json* value = setting(kNamed[i].name, of_map);
      if (!is_nothing(value)) {
        if (!add_named(kNamed[i].name, *value, of_map)) return false;
        roles_[i] = entries_.back().token.content;
      } else if (kNamed[i].usual) {
        NamedToken token;
        token.content = roles_[i] = kNamed[i].usual;
        token.special = true;
        if (!add(token, TokenEntry::Kind::named)) return false;
      }
    }
    const auto others = [&](const Json* file, bool skip_of_map) {
      for (const Member& member : file ? file->members : Span<Member>()) {
        bool seven = false;
        for (const auto& one : kNamed) seven = seven || member.key == one.name;
        if (seven || !names_a_token(member)) continue;
        if (skip_of_map && file == map_ && config_ && config_->find(member.key)) continue;
        const Json* value = setting(member.key, of_map);
        if (!is_nothing(value) && !add_named(member.key, *value, of_map)) return false;
      }
      return true;
    };
    return others(config_, false) && others(map_, true);
  }

  bool add_extra(const Json* file, Text name, bool of_map) {
    const Json* value = file ? file->find(name) : nullptr;
    if (is_nothing(value)) return true;
    const Place root;
    const Place at = root.field(name);
    const auto one = [&](const Json& item) {
      NamedToken token;
      return token_of(item, of_map || item.is(Json::Kind::text), false, at, token) &&
             add(token, TokenEntry::Kind::extra);
    };
    for (const Json& item : value->list) {
      if (!one(item)) return false;
    }
    for (const Member& member : value->members) {
      if (!one(member.value)) return false;
    }
    const bool list = value->is(Json::Kind::list) || value->is(Json::Kind::object);
    return list || check_.fail(at, "is %s (expected a list)", shown(*value).text);
  }

  // Special tokens without a name, as transformers 5 and 4 call them.
  bool extra() {
    const char* const now = "extra_special_tokens";
    const char* const before = "additional_special_tokens";
    const size_t first = entries_.size();
    const bool has_now = config_ && !is_nothing(config_->find(now));
    if (!add_extra(config_, has_now ? now : before, false) || !add_extra(map_, now, true)) return false;
    return entries_.size() > first || add_extra(map_, before, true);
  }

  const Json* config_;
  const Json* map_;
  const Checker& check_;
  List<TokenEntry>& entries_;
  Text roles_[kNamedCount];
};

}  // namespace

bool read_named_tokens(const Json* config, const Json* map, const Checker& check, List<TokenEntry>& out,
                       TokenRoles& roles) {
  out.clear();
  return Reader(config, map, check, out).read(roles);
}

}  // namespace od
