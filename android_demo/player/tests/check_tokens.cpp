// The tokenizer on files in memory, for tests/player/test_words.py:
//
//   check_tokens open NAME=PATH...           whether it opens: what is wrong, or nothing
//   check_tokens encode LENGTH NAME=PATH...  ids of texts on stdin
//   check_tokens time NAME=PATH...           milliseconds to open it, the best of ten
//   check_tokens bundle PATH                 ids of texts on stdin by a bundle's first tokenizer
//   check_tokens prompts NAME=PATH...        a line of JSON per text on stdin: its parts, as tests/golden/prompts has them
//
// Texts come as their size in bytes (uint32) and UTF-8; for each go out how many ids found no room, or -1 and no more
// where it was refused, and `LENGTH` ids (int32).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_writer.h"
#include "base/os.h"
#include "text/chunks.h"
#include "text/tokenizer.h"

namespace {

int encode(const od::Tokenizer& tokenizer) {
  od::Error error;
  od::List<char> text;
  od::List<od::i32> ids;
  for (od::u32 size; fread(&size, sizeof size, 1, stdin) == 1;) {
    if (!text.resize(size) || (size && fread(text.begin(), 1, size, stdin) != size)) return 1;
    size_t cut = 0;
    const bool taken = tokenizer.encode({text.begin(), size}, ids, &cut, error);
    if (!taken) fprintf(stderr, "%s\n", error.message);
    const od::i32 left = taken ? static_cast<od::i32>(cut) : -1;
    fwrite(&left, sizeof left, 1, stdout);
    if (taken) fwrite(ids.begin(), sizeof(od::i32), ids.size(), stdout);
  }
  return 0;
}

void write_chunk(const od::Span<const od::Token>& tokens, od::JsonWriter& out) {
  out.begin_object().key("ids").begin_list();
  for (const od::Token& token : tokens) out.whole(od::i64(token.id));
  out.end_list().key("weights").begin_list();
  for (const od::Token& token : tokens) out.number(token.weight);
  out.end_list().end_object();
}

int prompts(const od::Tokenizer& tokenizer) {
  od::List<char> text;
  for (od::u32 size; fread(&size, sizeof size, 1, stdin) == 1;) {
    if (!text.resize(size) || (size && fread(text.begin(), 1, size, stdin) != size)) return 1;
    od::Pool pool;
    od::Error error;
    od::Span<od::PromptPart> parts;
    od::JsonWriter out;
    if (!od::read_prompt({text.begin(), size}, true, true, pool, parts, error)) return 1;
    out.begin_list();
    for (const od::PromptPart& part : parts) {
      out.begin_object().member("weight", part.weight).key("sections").begin_list();
      for (const od::Section& section : part.sections) {
        out.begin_list();
        for (const od::Piece& piece : section.pieces) {
          out.begin_list();
          out.text(piece.text);
          out.number(piece.weight);
          out.end_list();
        }
        out.end_list();
      }
      out.end_list().key("chunks").begin_list();
      od::Chunks chunks, straight;
      if (!chunks.read(part.sections, tokenizer, false, error) ||
          !straight.read(part.sections, tokenizer, true, error)) {
        fprintf(stderr, "%s\n", error.message);
        return static_cast<int>(error.code);
      }
      for (size_t i = 0; i < chunks.count(); ++i) write_chunk(chunks[i], out);
      out.end_list().key("truncated");
      write_chunk(straight[0], out);
      out.end_object();
    }
    out.end_list();
    puts(out.done());
  }
  return 0;
}

int of_bundle(const char* path) {
  od::Bundle bundle;
  od::Tokenizer tokenizer;
  od::Error error;
  if (!bundle.open(path, error) || !tokenizer.open(bundle, bundle.manifest().tokenizers[0], error)) {
    fprintf(stderr, "%s\n", error.message);
    return static_cast<int>(error.code);
  }
  return encode(tokenizer);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return 2;
  const char* what = arguments[1];
  if (strcmp(what, "bundle") == 0) return of_bundle(arguments[2]);
  const bool encodes = strcmp(what, "encode") == 0;
  const od::u32 length = encodes ? static_cast<od::u32>(atoi(arguments[2])) : 77;
  od::Pool pool;
  od::Error error;
  od::List<od::NamedFile> files;
  for (int i = encodes ? 3 : 2; i < count; ++i) {
    const char* path = strchr(arguments[i], '=') + 1;
    od::NamedFile file{{arguments[i], static_cast<size_t>(path - 1 - arguments[i])}, {}};
    if (!od::read_file(path, 1 << 26, pool, file.bytes, error) || !files.push(file)) return 1;
  }
  od::Tokenizer tokenizer;
  double best = 1e9;
  for (int i = 0; i < (strcmp(what, "time") == 0 ? 10 : 1); ++i) {
    const double begin = od::seconds();
    const od::Span<const od::NamedFile> all = {files.begin(), files.size()};
    const bool unigram = all.count && all[0].name == "unigram.json";
    if (!(unigram ? tokenizer.open_unigram(all, "tokenizers/tokenizer", length, error)
                  : tokenizer.open(all, "tokenizers/tokenizer", length, error))) {
      fprintf(stderr, "%s\n", error.message);
      return static_cast<int>(error.code);
    }
    best = od::min(best, (od::seconds() - begin) * 1e3);
  }
  if (strcmp(what, "time") == 0) printf("%.1f\n", best);
  if (strcmp(what, "prompts") == 0) return prompts(tokenizer);
  return encodes ? encode(tokenizer) : 0;
}
