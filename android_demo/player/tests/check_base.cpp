// Numbers and JSON as the base has them, for tests/player/test_base.py: reads lines of stdin, writes one for each.
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/os.h"
#include "base/sha256.h"

namespace {

void print(const od::Json& value) {
  switch (value.kind) {
    case od::Json::Kind::null:
      printf("null");
      return;
    case od::Json::Kind::boolean:
      printf(value.boolean ? "true" : "false");
      return;
    case od::Json::Kind::integer:
    case od::Json::Kind::real: {
      char text[64];
      od::write_number(text, sizeof text, value.real);
      printf("%s", text);
      return;
    }
    case od::Json::Kind::text: {
      od::List<char> text;
      od::append_json(text, value.text);
      printf("%.*s", static_cast<int>(text.size()), text.begin());
      return;
    }
    case od::Json::Kind::list:
      printf("[");
      for (size_t i = 0; i < value.list.count; ++i) {
        if (i) printf(", ");
        print(value.list[i]);
      }
      printf("]");
      return;
    case od::Json::Kind::object:
      printf("{");
      for (size_t i = 0; i < value.members.count; ++i) {
        od::Json key;
        key.kind = od::Json::Kind::text;
        key.text = value.members[i].key;
        if (i) printf(", ");
        print(key);
        printf(": ");
        print(value.find(key.text) ? *value.find(key.text) : od::Json());
      }
      printf("}");
  }
}

}  // namespace

// json: a value for each line, written again, or the error. sha256: of each line.
int main(int count, char** arguments) {
  static char line[1 << 22];
  const bool hash = count > 1 && strcmp(arguments[1], "sha256") == 0;
  while (fgets(line, sizeof line, stdin)) {
    const od::Text text(line, strcspn(line, "\n"));
    if (hash) {
      char digest[65];
      od::sha256(text.bytes(), digest);
      puts(digest);
      continue;
    }
    od::Pool pool;
    od::Json value;
    od::Error error;
    if (od::parse_json(text.bytes(), "text", pool, value, error)) {
      print(value);
      puts("");
    } else {
      printf("refused: %s\n", error.message);
    }
  }
  return 0;
}
