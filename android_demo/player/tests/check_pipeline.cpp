// Pipelines as they are read, for tests/player/test_pipeline.py. Of each line of stdin, a whole golden file
// ({"components", "tokenizers", "samplers", "pipeline"}): what Python's PipelineSpec is as JSON, or why it is refused.
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "bundle/manifest.h"
#include "bundle/pipeline.h"

namespace {

const char* const kRates[] = {"bundle", "picture", "text", "call"};
const char* const kPrepare[] = {"fit", "mask", "masked", "clip_vision", "edges", "unit"};
const char* const kKinds[] = {"value", "tokens", "picture", "numbers"};

struct Printer {
  const od::Manifest& manifest;
  const od::Pipeline& pipeline;
  bool first = true;

  void next() {
    if (!first) printf(",");
    first = false;
  }
  void open(const char* mark) {
    next();
    printf("%s", mark);
    first = true;
  }
  void close(const char* mark) {
    printf("%s", mark);
    first = false;
  }
  void key(od::Text name) {
    text(name);
    printf(":");
    first = true;
  }
  void text(od::Text value) {
    next();
    od::List<char> json;
    od::append_json(json, value);
    printf("%.*s", static_cast<int>(json.size()), json.begin());
  }
  void number(double value) {
    next();
    char shown[64];
    od::write_number(shown, sizeof shown, value);
    printf("%s", shown);
  }
  void boolean(bool value) {
    next();
    printf(value ? "true" : "false");
  }
  // The name of one of `rows`, or null.
  template <class T>
  void named(od::Span<T> rows, od::i32 index) {
    if (index == od::kNone) {
      next();
      printf("null");
    } else {
      text(rows[static_cast<size_t>(index)].name);
    }
  }
  void amount(const od::Amount& value) {
    if (value.number == od::kNone) return number(value.constant);
    if (value.number == od::kWidth || value.number == od::kHeight) {
      return text(value.number == od::kWidth ? "width" : "height");
    }
    named(pipeline.numbers, value.number);
  }
  void pair(od::i32 from, od::i32 until) {
    if (from == od::kNone) return named(pipeline.numbers, od::kNone);
    open("[");
    named(pipeline.numbers, from);
    named(pipeline.numbers, until);
    close("]");
  }

  void feed(const od::Feed& value) {
    open("{");
    key("kind");
    text(kKinds[static_cast<int>(value.kind)]);
    key("name");
    if (value.kind == od::Feed::Kind::value) named(pipeline.values, value.index);
    if (value.kind == od::Feed::Kind::tokens) named(manifest.tokenizers, value.index);
    if (value.kind == od::Feed::Kind::picture) named(pipeline.pictures, value.index);
    if (value.kind == od::Feed::Kind::numbers) text("");
    key("absent");
    if (value.absent_zeros) {
      text("zeros");
    } else {
      named(pipeline.values, od::kNone);
    }
    key("noise");
    if (value.noisy) {
      amount(value.noise);
    } else {
      named(pipeline.values, od::kNone);
    }
    key("numbers");
    open("[");
    for (const od::Feed::PerText& one : value.numbers) {
      if (one.same) {
        amount(one.amounts[0]);
        continue;
      }
      open("{");
      for (size_t i = 0; i < one.amounts.count; ++i) {
        key(pipeline.texts[i].name);
        amount(one.amounts[i]);
      }
      close("}");
    }
    close("]");
    close("}");
  }
  void below(od::i32 name, double limit) {
    key("below");
    if (name == od::kNone) return named(pipeline.numbers, name);
    open("{");
    key("number");
    named(pipeline.numbers, name);
    key("limit");
    number(limit);
    close("}");
  }
  void role(const od::Role& value, od::i32 below_name = od::kNone, double limit = 0) {
    open("{");
    key("component");
    named(manifest.components, static_cast<od::i32>(value.component));
    key("every");
    text(value.chunks ? "chunk" : kRates[static_cast<int>(value.every)]);
    key("feed");
    open("{");
    for (const od::Feed& one : value.feeds) {
      key(one.port);
      feed(one);
    }
    close("}");
    key("keep");
    open("{");
    for (const od::Keep& one : value.keeps) {
      key(one.port);
      named(pipeline.values, one.value);
    }
    close("}");
    below(below_name, limit);
    close("}");
  }
  void step(const od::Step& value) {
    if (value.kind == od::Step::Kind::run) return role(value.role, value.below, value.limit);
    open("{");
    if (value.kind == od::Step::Kind::sample) {
      key("moments");
      named(pipeline.values, value.moments);
      key("draw");
      boolean(value.draw);
      key("scaled");
      boolean(value.scaled);
      key("keep");
      named(pipeline.values, value.keep);
      below(value.below, value.limit);
    }
    close("}");
  }
  void loop(const od::Loop& value) {
    open("{");
    key("start");
    amount(value.from);
    key("end");
    amount(value.until);
    key("roles");
    open("[");
    for (const od::Role& one : value.roles) role(one);
    close("]");
    key("prediction");
    named(pipeline.values, value.prediction);
    key("passes");
    open("[");
    for (const od::Pass& pass : value.passes) {
      open("{");
      key("text");
      named(pipeline.texts, pass.text);
      key("zeros");
      open("[");
      for (const od::i32 zero : pass.zeros) named(pipeline.values, zero);
      close("]");
      close("}");
    }
    close("]");
    key("combine");
    open("{");
    key("first");
    number(value.first);
    key("add");
    open("[");
    for (const od::Add& add : value.add) {
      open("[");
      named(pipeline.numbers, add.number);
      number(add.plus);
      number(add.minus);
      close("]");
    }
    close("]");
    close("}");
    key("guided");
    if (value.guided) {
      open("{");
      key("number");
      named(pipeline.numbers, value.guided_number);
      key("above");
      number(value.guided_above);
      key("alone");
      number(value.guided_alone);
      close("}");
    } else {
      named(pipeline.numbers, od::kNone);
    }
    key("rescale");
    named(pipeline.numbers, value.rescale);
    close("}");
  }
  void all() {
    open("{");
    key("needs");
    open("[");
    close("]");
    key("gives");
    named(pipeline.values, pipeline.gives);
    key("numbers");
    open("{");
    for (const od::Number& one : pipeline.numbers) {
      key(one.name);
      open("{");
      key("default");
      if (one.has_default) {
        amount(one.usual);
      } else {
        named(pipeline.numbers, od::kNone);
      }
      key("low");
      number(one.low);
      key("high");
      number(one.high);
      key("window");
      pair(one.window_from, one.window_until);
      key("ramp");
      pair(one.ramp_from, one.ramp_until);
      close("}");
    }
    close("}");
    key("texts");
    open("{");
    for (const od::NamedText& one : pipeline.texts) {
      key(one.name);
      boolean(one.optional);
    }
    close("}");
    key("pictures");
    open("{");
    for (const od::Given& one : pipeline.pictures) {
      key(one.name);
      open("{");
      key("prepare");
      text(kPrepare[static_cast<int>(one.prepare)]);
      key("optional");
      boolean(one.optional);
      key("of");
      open("[");
      for (const od::i32 of : one.of) {
        if (of != od::kNone) named(pipeline.pictures, of);
      }
      close("]");
      close("}");
    }
    close("}");
    key("latents");
    open("{");
    key("channels");
    number(pipeline.latents.channels);
    key("scale");
    number(pipeline.latents.scale);
    key("scaling");
    number(pipeline.latents.scaling);
    key("shift");
    number(pipeline.latents.shift);
    key("frames");
    named(pipeline.numbers, pipeline.latents.frames);
    key("begin");
    named(pipeline.values, pipeline.latents.begin);
    key("strength");
    named(pipeline.numbers, pipeline.latents.strength);
    key("rounds");
    text(pipeline.latents.rounds_up ? "up" : "down");
    key("preview");
    open("[");
    for (size_t colour = 0; colour < 3 && !pipeline.latents.preview.empty(); ++colour) {
      open("[");
      for (size_t i = 0; i <= pipeline.latents.channels; ++i) number(pipeline.latents.preview[3 * i + colour]);
      close("]");
    }
    close("]");
    key("mask");
    if (pipeline.latents.mask == od::kNone) {
      named(pipeline.pictures, od::kNone);
    } else {
      open("{");
      key("picture");
      named(pipeline.pictures, pipeline.latents.mask);
      key("strength");
      number(pipeline.latents.mask_strength);
      close("}");
    }
    close("}");
    key("outside");
    if (pipeline.outside.picture == od::kNone) {
      named(pipeline.pictures, od::kNone);
    } else {
      open("{");
      key("picture");
      named(pipeline.pictures, pipeline.outside.picture);
      key("mask");
      named(pipeline.pictures, pipeline.outside.mask);
      close("}");
    }
    key("sampler");
    text(pipeline.sampler);
    key("steps");
    number(pipeline.steps);
    key("before");
    open("[");
    for (const od::Step& one : pipeline.before) step(one);
    close("]");
    key("denoise");
    open("[");
    for (const od::Loop& one : pipeline.denoise) loop(one);
    close("]");
    key("after");
    open("[");
    for (const od::Role& one : pipeline.after) role(one);
    close("]");
    key("fast");
    open("[");
    for (const od::Role& one : pipeline.fast) role(one);
    close("]");
    key("rates");
    open("{");
    for (const od::ValueEntry& one : pipeline.values) {
      key(one.name);
      text(kRates[static_cast<int>(one.rate)]);
    }
    close("}");
    close("}");
  }
};

// The keys of an object, or the texts of a list.
template <class T, class Set>
void fill(od::Pool& pool, const od::Json* rows, od::Span<T>& out, od::Error& error, Set set) {
  const bool list = rows->is(od::Json::Kind::list);
  const size_t count = list ? rows->list.count : rows->members.count;
  if (!pool.array(out, count, error)) return;
  for (size_t i = 0; i < count; ++i) set(out[i], list ? rows->list[i].text : rows->members[i].key);
}

}  // namespace

int main() {
  static char line[1 << 20];
  while (fgets(line, sizeof line, stdin)) {
    od::Pool pool;
    od::Json whole;
    od::Error error;
    od::Manifest manifest;
    const od::Text text(line, strcspn(line, "\n"));
    if (od::parse_json(text.bytes(), "golden", pool, whole, error)) {
      fill(pool, whole.find("components"), manifest.components, error,
           [](auto& row, od::Text name) { row.name = name; });
      fill(pool, whole.find("tokenizers"), manifest.tokenizers, error,
           [](auto& row, od::Text name) { row.name = name; });
      fill(pool, whole.find("samplers"), manifest.samplers, error, [](auto& row, od::Text name) { row = name; });
    }
    if (!error && od::parse_pipeline(*whole.find("pipeline"), pool, manifest, manifest.pipeline, error)) {
      Printer{manifest, manifest.pipeline}.all();
      puts("");
    } else {
      printf("refused: %s\n", error.message);
    }
  }
  return 0;
}
