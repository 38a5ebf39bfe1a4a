// Bundles as they are read, for tests/player/test_bundle.py.
//
//   open, verify      of each line of stdin, the path of a bundle: "ok", or the code and why it is refused
//   show BUNDLE       all that is read of it, as JSON
//   plans BUNDLE      of each line, a plan instead of the first: "ok", or why it is refused
//   target BUNDLE     of each line, a device ("name", "version", "needs", "limits"): the target that it takes
//   name BUNDLE NAME  whether it has plans for a target of that name
//   printable         ranges of letters that texts for people have none of
//   time BUNDLE       milliseconds to open it and to read each plan
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle/bundle.h"
#include "bundle/checker.h"

namespace {

bool cut = true;  // whether the next value needs no comma before it

void mark(const char* text, bool begins) {
  printf("%s%s", cut || !begins ? "" : ",", text);
  cut = begins;
}
void open(const char* text) { mark(text, true); }
void close(const char* text) { mark(text, false); }
void text(od::Text value) {
  od::List<char> json;
  od::append_json(json, value);
  printf("%s%.*s", cut ? "" : ",", static_cast<int>(json.size()), json.begin());
  cut = false;
}
void key(od::Text name) {
  text(name);
  printf(":");
  cut = true;
}
void number(od::u64 value) {
  printf("%s%llu", cut ? "" : ",", static_cast<unsigned long long>(value));
  cut = false;
}
void whole(od::i64 value) {
  printf("%s%lld", cut ? "" : ",", static_cast<long long>(value));
  cut = false;
}
template <class T>
void numbers(od::Span<T> values) {
  open("[");
  for (const auto value : values) number(value);
  close("]");
}
void texts(od::Span<od::Text> values) {
  open("[");
  for (const od::Text value : values) text(value);
  close("]");
}
void shape(od::Shape value) { numbers(od::Span<od::u32>{value.dims, value.rank}); }
void sizes(const od::Sizes& value) {
  open("{");
  for (od::u32 i = 0; i < value.count; ++i) {
    key(value.names[i]);
    number(value.values[i]);
  }
  close("}");
}
void refused(const od::Error& error) { printf("%d %s\n", static_cast<int>(error.code), error.message); }

void show_dispatch(const od::Plan& plan, const od::Dispatch& call) {
  open("[");
  number(call.kernel);
  numbers(call.operands);
  open("[");
  const od::Text letters = plan.kernels[call.kernel].scalars;
  for (size_t i = 0; i < call.scalars.count; ++i) {
    if (letters.data[i] == 'i') {
      whole(call.scalars[i].i);
      continue;
    }
    printf("%s%.9g", cut ? "" : ",", static_cast<double>(call.scalars[i].f));
    cut = false;
  }
  close("]");
  for (const od::u32 value : call.grid) number(value);
  for (const od::u32 value : call.group) number(value);
  text(call.node);
  text(call.op);
  number(call.flops);
  number(call.reads);
  number(call.writes);
  close("]");
}

void show_plan(const od::Manifest& manifest, const od::Plan& plan) {
  key("component");
  text(manifest.components[plan.component].name);
  key("sizes");
  sizes(plan.sizes);
  key("dtype");
  text(od::name_of(plan.dtype));
  key("needs");
  open("[");
  for (od::u32 need = 1; need; need <<= 1) {
    if (plan.needs & need) text(od::name_of(static_cast<od::Need>(need)));
  }
  close("]");
  key("arena");
  number(plan.arena);
  key("weight_bytes");
  number(plan.weight_bytes);
  key("inputs");
  numbers(plan.inputs);
  key("outputs");
  numbers(plan.outputs);
  key("kernels");
  open("[");
  for (const od::PlanKernel& kernel : plan.kernels) {
    open("[");
    text(manifest.kernels[kernel.file]);
    for (const od::Define& define : kernel.defines) {
      text(define.name);
      whole(define.value);
    }
    close("]");
  }
  close("]");
  key("operands");
  open("[");
  for (const od::Operand& operand : plan.operands) {
    open("[");
    text(operand.name);
    text(od::name_of(operand.dtype));
    shape(operand.shape);
    number(operand.bytes);
    number(operand.in_arena() ? operand.offset : 0);
    text(operand.weight == od::kNone ? od::Text() : manifest.weights[static_cast<od::u32>(operand.weight)].key);
    whole(operand.view);
    close("]");
  }
  close("]");
  key("dispatches");
  open("[");
  for (const od::Dispatch& call : plan.dispatches) show_dispatch(plan, call);
  close("]");
}

bool show_plans(od::Bundle& bundle, od::Error& error) {
  const od::Manifest& manifest = bundle.manifest();
  open("[");
  for (const od::PlanEntry& entry : manifest.plans) {
    const od::Plan* plan;
    if (!bundle.served(entry)) continue;
    if (!bundle.plan(entry.component, entry.sizes, plan, error)) return false;
    open("{");
    key("file");
    text(manifest.files[entry.file].path);
    show_plan(manifest, *plan);
    key("sources");
    open("{");
    for (const od::Text dialect : manifest.preludes) {
      key(dialect);
      open("[");
      for (const od::PlanKernel& kernel : plan->kernels) {
        od::List<char> source;
        if (!bundle.source(kernel, dialect, source, error)) return false;
        text({source.begin(), strlen(source.begin())});
      }
      close("]");
    }
    close("}");
    close("}");
  }
  close("]");
  return true;
}

bool show(od::Bundle& bundle, od::Error& error) {
  const od::Manifest& manifest = bundle.manifest();
  open("{");
  key("version");
  open("[");
  number(manifest.major);
  number(manifest.minor);
  close("]");
  key("texts");
  open("[");
  text(manifest.producer);
  text(manifest.family);
  text(manifest.source);
  close("]");
  key("components");
  open("{");
  for (const od::Component& component : manifest.components) {
    key(component.name);
    text(od::name_of(component.dtype));
  }
  close("}");
  key("kernels");
  texts(manifest.kernels);
  key("preludes");
  texts(manifest.preludes);
  key("samplers");
  texts(manifest.samplers);
  key("tokenizers");
  open("{");
  for (const od::TokenizerEntry& tokenizer : manifest.tokenizers) {
    key(tokenizer.name);
    open("[");
    text(tokenizer.kind == od::TokenizerKind::bpe ? "bpe" : "unigram");
    number(tokenizer.length);
    texts(tokenizer.files);
    close("]");
  }
  close("}");
  key("files");
  open("{");
  for (const od::FileEntry& file : manifest.files) {
    key(file.path);
    open("[");
    number(file.bytes);
    text(file.sha256);
    close("]");
  }
  close("}");
  key("weights");
  open("{");
  for (const od::WeightEntry& weight : manifest.weights) {
    od::Bytes data;
    if (!bundle.shard(weight.file, data, error)) return false;
    key(weight.key);
    open("[");
    text(od::name_of(weight.dtype));
    shape(weight.shape);
    text(manifest.files[weight.file].path);
    number(weight.offset);
    numbers(data.slice(weight.offset, weight.offset + weight.bytes));
    close("]");
  }
  close("}");
  key("plans");
  open("{");
  for (const od::TargetEntry& target : manifest.targets) {
    key(target.name);
    if (!bundle.for_target(target.name, error) || !show_plans(bundle, error)) return false;
  }
  if (manifest.targets.empty()) {
    key("");
    if (!show_plans(bundle, error)) return false;
  }
  close("}");
  close("}\n");
  return true;
}

// What `visit` makes of each line.
template <class Visit>
int lines(const Visit& visit) {
  static char line[1 << 22];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    od::Error error;
    if (!visit(line, error)) refused(error);
  }
  return 0;
}

od::u64 limit(const od::Json& device, const char* name) {
  return static_cast<od::u64>(device.find("limits")->find(name)->integer);
}

int run(const char* verb, const char* path, const char* name) {
  if (strcmp(verb, "open") == 0 || strcmp(verb, "verify") == 0) {
    return lines([&](const char* line, od::Error& error) {
      od::Bundle bundle;
      if (!bundle.open(line, error)) return false;
      if (verb[0] == 'v' && !bundle.verify(nullptr, nullptr, error)) return false;
      puts("ok");
      return true;
    });
  }
  if (strcmp(verb, "printable") == 0) {
    for (od::u32 letter = 0, last = 0x110000; letter < 0x110000; ++letter) {
      if (od::prints(letter)) continue;
      if (last + 1 != letter) printf("%s%u ", last == 0x110000 ? "" : "\n", letter);
      if (letter == 0x10ffff || od::prints(letter + 1)) printf("%u", letter);
      last = letter;
    }
    return 0;
  }
  od::Bundle bundle;
  od::Error error;
  const double begun = od::seconds();
  if (!bundle.open(path, error)) return refused(error), 1;
  if (strcmp(verb, "show") == 0) return show(bundle, error) ? 0 : (refused(error), 1);
  const od::Manifest& manifest = bundle.manifest();
  if (strcmp(verb, "name") == 0) {
    if (!bundle.for_target(name, error)) return refused(error), 0;
    printf("%u\n", bundle.target());
    return 0;
  }
  if (strcmp(verb, "target") == 0) {
    return lines([&](const char* line, od::Error& problem) {
      od::Pool pool;
      od::Json row;
      if (!od::parse_json(od::Text(line).bytes(), "device", pool, row, problem)) return false;
      od::DeviceLimits device = {row.find("name")->text, row.find("version")->text, 0, 0, 0, 0, 0, 0};
      for (const od::Json& need : row.find("needs")->list) device.capabilities |= od::need_of(need.text);
      device.work_group = limit(row, "work_group");
      device.local_memory = limit(row, "local_memory");
      device.allocation = limit(row, "allocation");
      device.image_width = limit(row, "image_width");
      device.image_height = limit(row, "image_height");
      if (!bundle.for_device(device, problem)) return false;
      printf("%.*s\n", OD_TEXT(manifest.targets[bundle.target()].name));
      return true;
    });
  }
  if (strcmp(verb, "plans") == 0) {
    return lines([&](const char* line, od::Error& problem) {
      od::Pool pool, tree;
      od::Json value;
      od::Plan plan;
      if (!od::parse_json(od::Text(line).bytes(), "plan", tree, value, problem) ||
          !od::parse_plan(value, "plan", pool, manifest, manifest.plans[0], plan, problem)) {
        return false;
      }
      puts("ok");
      return true;
    });
  }
  double before = od::seconds();
  printf("open %.2f ms\n", 1e3 * (before - begun));
  for (const od::PlanEntry& entry : manifest.plans) {
    const od::Plan* plan;
    if (!bundle.served(entry)) continue;
    if (!bundle.plan(entry.component, entry.sizes, plan, error)) return refused(error), 1;
    const double now = od::seconds();
    printf("%.*s %.2f ms, %zu dispatches\n", OD_TEXT(manifest.files[entry.file].path), 1e3 * (now - before),
           plan->dispatches.count);
    before = now;
  }
  printf("memory %.1f MB at most\n", static_cast<double>(od::memory_peak()) / 1e6);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  return run(count > 1 ? arguments[1] : "", count > 2 ? arguments[2] : "", count > 3 ? arguments[3] : "");
}
