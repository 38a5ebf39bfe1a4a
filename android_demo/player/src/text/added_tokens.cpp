// Which tokens are added, with which ids and flags, follows transformers 5's CLIPTokenizer, step by step, as in Python
// (ondevice/vocabulary/added_tokens.py).
#include <stdio.h>
#include <string.h>

#include "base/sort.h"
#include "bundle/checker.h"
#include "text/named_tokens.h"
#include "text/unicode.h"
#include "text/vocabulary.h"

namespace od {
namespace {

class Reader {
 public:
  Reader(const TokenIds& ids, Pool& pool, const Checker& check) : ids_(ids), pool_(pool), check_(check) {}

  bool read(const Json* config, const Json* map, Vocabulary& out, i32& unknown) {
    if (!read_named_tokens(config, map, check_, entries_, roles_)) return false;
    if (!in_vocabulary() || !merge() || !numbered() || !looked_for(out)) return false;
    out.start = id_of(roles_.start);
    out.end = id_of(roles_.end);
    out.pad = id_of(roles_.pad);
    unknown = ids_.find(roles_.unknown);
    return true;
  }

 private:
  // Each of the four must be a token.
  bool in_vocabulary() const {
    const struct {
      const char* name;
      Text token;
    } roles[] = {{"bos_token", roles_.start},
                 {"eos_token", roles_.end},
                 {"unk_token", roles_.unknown},
                 {"pad_token", roles_.pad}};
    for (const auto& role : roles) {
      bool found = ids_.find(role.token) >= 0;
      for (const TokenEntry& entry : entries_) {
        found = found || (entry.stated >= 0 && entry.token.content == role.token && role.token != roles_.unknown);
      }
      if (!found) {
        return check_.fail(role.name, "is not in the vocabulary (got %s, expected a token of vocab.json)",
                           shown(role.token).text);
      }
    }
    return true;
  }

  // One token for all entries of the same content.
  struct Group {
    size_t first;      // entry, which says when it is added
    NamedToken token;  // flags of the last entry
    bool any_normal;   // whether an entry of it is looked for in the normal form
    i32 stated, id;
  };

  bool merge() {
    List<u32> order;
    if (!order.resize(entries_.size())) return Pool::no_memory(check_.error(), entries_.size() * sizeof(u32));
    for (u32 i = 0; i < order.size(); ++i) order[i] = i;
    sort(order.span(), [&](u32 i, u32 j) {
      const int contents = compare(entries_[i].token.content, entries_[j].token.content);
      return contents ? contents < 0 : i < j;
    });
    for (size_t begin = 0, end; begin < order.size(); begin = end) {
      end = begin + 1;
      const Text content = entries_[order[begin]].token.content;
      while (end < order.size() && entries_[order[end]].token.content == content) ++end;
      Group group{order[begin], {}, false, -1, -1};
      for (size_t i = begin; i < end; ++i) {
        const TokenEntry& entry = entries_[order[i]];
        if (group.stated >= 0) {
          if (entry.kind == TokenEntry::Kind::stated) return wrong_id(entry, group.stated);
          continue;
        }
        if (entry.kind == TokenEntry::Kind::extra && i + 1 < end) continue;  // the last of the same name counts
        NamedToken token = entry.token;
        // Where a file states a token's id, settings that name it only make it special.
        token.special = token.special || (entry.stated >= 0 && named(order.span().slice(i + 1, end)));
        group.any_normal = group.any_normal || token.is_normalized();
        group.token = token;
        group.stated = entry.stated;
      }
      if (!groups_.push(group)) return Pool::no_memory(check_.error(), sizeof group);
    }
    return true;
  }

  // Whether a setting that names one token is among the entries.
  bool named(Span<u32> some) const {
    for (const u32 i : some) {
      if (entries_[i].kind == TokenEntry::Kind::named) return true;
    }
    return false;
  }

  bool wrong_id(const TokenEntry& entry, i32 got) const {
    return check_.fail("added_tokens_decoder", "gives the added token %s the id %d (expected %d, as transformers does)",
                       shown(entry.token.content).text, entry.stated, got);
  }

  // Ids: the vocabulary's, else the next after its count.
  bool numbered() {
    sort(groups_.span(), [](const Group& a, const Group& b) { return a.first < b.first; });
    const auto count = static_cast<i32>(ids_.count());
    i32 highest = -1;
    for (Group& group : groups_) {
      const i32 known = ids_.find(group.token.content);
      group.id = known >= 0 ? known : highest >= count ? highest + 1 : count;
      highest = max(highest, group.id);
      if (group.stated >= 0 && group.stated != group.id) return wrong_id(entries_[group.first], group.id);
      if (known < 0 && ids_.given(group.id)) {
        return check_.fail({},
                           "the added token %s gets the id %d, which vocab.json has given away (its ids leave gaps)",
                           shown(group.token.content).text, group.id);
      }
    }
    return true;
  }

  // What each is looked for by, and how many vectors its name stands for.
  bool looked_for(Vocabulary& out) {
    List<AddedToken> all;
    List<u32> letters;
    List<char> normal;
    sort(groups_.span(), [](const Group& a, const Group& b) { return compare(a.token.content, b.token.content) < 0; });
    List<Text> forms;  // of those that any file wants in the normal form
    size_t counts[2] = {}, several = 0;
    for (const Group& group : groups_) {
      const NamedToken& token = group.token;
      AddedToken one{pool_.copy(token.content), {}, group.id, token.single_word, token.lstrip, token.rstrip,
                     token.is_normalized(),     1};
      if (!normal_form(one.content, letters, normal)) return Pool::no_memory(check_.error(), normal.size());
      const Text form = pool_.copy({normal.begin(), normal.size()});
      if (one.content.size != token.content.size || form.size != normal.size()) {
        return Pool::no_memory(check_.error(), normal.size());
      }
      one.sought = one.normal ? form : one.content;
      // transformers 5 tells a name in lower case, by which diffusers does not know it.
      if (!token.is_normalized() || form == one.content) one.vectors = vectors_of(one.content);
      ++counts[one.normal];
      several += one.vectors > 1;
      if (!all.push(one) || (group.any_normal && !forms.push(form))) return Pool::no_memory(check_.error(), sizeof one);
    }
    if (!distinct(forms)) return false;
    AddedTokens* const kinds[] = {&out.plain, &out.normal};
    for (size_t i = 0; i < 2; ++i) {
      if (!pool_.array(kinds[i]->tokens, counts[i], check_.error())) return false;
    }
    if (!pool_.array(out.several, several, check_.error())) return false;
    size_t at[3] = {};
    for (const AddedToken& one : all) {
      AddedTokens& kind = *kinds[one.normal];
      kind.tokens[at[one.normal]++] = one;
      kind.begins[static_cast<u8>(one.sought.data[0])] = true;
      if (one.vectors > 1) out.several[at[2]++] = one;
    }
    sort(out.normal.tokens, [](const AddedToken& a, const AddedToken& b) { return compare(a.sought, b.sought) < 0; });
    sort(out.several, [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
    return true;
  }

  // NAME, NAME_1, NAME_2... as far as they are there.
  u32 vectors_of(Text name) {
    char text[kLongestAdded * 4 + 16];
    memcpy(text, name.data, name.size);
    for (u32 count = 1;; ++count) {
      const int digits = snprintf(text + name.size, 16, "_%u", count);
      const Text next(text, name.size + static_cast<size_t>(digits));
      if (!find_sorted(groups_.span(), [&](const Group& group) { return compare(group.token.content, next); })) {
        return count;
      }
    }
  }

  // Which of two that are the same a text gets would be chance, in transformers as well.
  bool distinct(List<Text>& forms) const {
    sort(forms.span(), [](Text a, Text b) { return compare(a, b) < 0; });
    for (size_t i = 1; i < forms.size(); ++i) {
      if (forms[i - 1] == forms[i]) {
        return check_.fail({}, "has two added tokens that are %s in lower case", shown(forms[i]).text);
      }
    }
    return true;
  }

  i32 id_of(Text role) const {
    const Group* found =
        find_sorted(groups_.span(), [&](const Group& group) { return compare(group.token.content, role); });
    return found ? found->id : ids_.find(role);
  }

  const TokenIds& ids_;
  Pool& pool_;
  const Checker& check_;
  List<TokenEntry> entries_;
  List<Group> groups_;
  TokenRoles roles_;
};

}  // namespace

bool read_added_tokens(const Json* config, const Json* map, Text where, const TokenIds& ids, Pool& pool,
                       Vocabulary& out, i32& unknown, Error& error) {
  return Reader(ids, pool, Checker(where, error)).read(config, map, out, unknown);
}

}  // namespace od
