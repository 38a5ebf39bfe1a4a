// Replay of a bundle's plans, for tests/player/test_session.py: `check_session BUNDLE [DEVICE [CACHE]]`. Each line of
// stdin is a command in JSON, each answer a line: JSON, or the exit code and the message of what went wrong.
//
//   {"run": COMPONENT, "sizes": {}, "inputs": {PORT: numbers, or a kept value, or several}, "keep": {PORT: VALUE}}
//   {"put": VALUE, "dtype": "f32", "shape": [], "data": numbers}    {"read": VALUE}    {"drop": VALUE}
//   {"release": COMPONENT}    {"set": "check" | "profile" | "cancel", "to": true}    {"limit": bytes}    {"facts":
//   true}    {"stream": bytes, 0: as many as it takes, or a negative number: not}
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/os.h"
#include "device/session.h"

namespace {

using namespace od;  // NOLINT: a tool

struct Kept {
  Text name;
  DeviceValue value;
};

struct Tool {
  Bundle bundle;
  Device device;
  Session session{bundle, device};
  Error error;
  Pool pool, names;  // of a line; of all kept values
  Kept kept[16];
  size_t kept_count = 0;
  volatile bool cancel = false, cancel_when_building = false;
  double cancel_after = 0;
  pthread_t timer;
  bool timed = false;

  ~Tool() {
    if (timed) pthread_join(timer, nullptr);
  }

  static void* wait_and_cancel(void* user) {
    auto& tool = *static_cast<Tool*>(user);
    const timespec pause = {0, static_cast<long>(tool.cancel_after * 1e9)};
    nanosleep(&pause, nullptr);
    tool.cancel = true;
    return nullptr;
  }

  bool wrong(const char* what) { return fail(error, Code::internal, "check_session", "", "%s", what); }

  Kept* find(Text name) {
    for (size_t i = 0; i < kept_count; ++i) {
      if (kept[i].name == name) return &kept[i];
    }
    return nullptr;
  }

  bool numbers(const Json& list, Dtype dtype, Bytes& out) {
    Span<u32> words;
    if (!pool.array(words, list.list.count, error)) return false;
    for (size_t i = 0; i < words.count; ++i) {
      const float real = static_cast<float>(list.list[i].real);
      const i32 whole = static_cast<i32>(list.list[i].integer);
      memcpy(&words[i], dtype == Dtype::i32 ? static_cast<const void*>(&whole) : &real, 4);
    }
    out = {reinterpret_cast<const u8*>(words.data), 4 * words.count};
    return true;
  }

  void print(Dtype dtype, Span<u8> data) {
    printf("[");
    for (size_t i = 0; i < data.count / 4; ++i) {
      float real;
      i32 whole;
      memcpy(&real, &data[4 * i], 4);
      memcpy(&whole, &data[4 * i], 4);
      char text[64];
      write_number(text, sizeof text, dtype == Dtype::i32 ? whole : static_cast<double>(real));
      printf("%s%s", i ? ", " : "", text);
    }
    printf("]");
  }

  bool run(const Json& line) {
    const Component* component = bundle.manifest().component(line.find("run")->text);
    if (!component) return wrong("no such component");
    Sizes sizes;
    if (const Json* given = line.find("sizes")) {
      for (const Member& size : given->members) sizes.set(size.key, static_cast<u32>(size.value.integer));
    }
    const Plan* plan = nullptr;
    const auto index = static_cast<u32>(component - bundle.manifest().components.data);
    if (!bundle.plan(index, sizes, plan, error)) return false;
    const Json *inputs = line.find("inputs"), *keep = line.find("keep");
    Span<Input> ready;
    Span<Output> wanted;
    if (!pool.array(ready, inputs->members.count, error)) return false;
    if (!pool.array(wanted, keep ? keep->members.count : plan->outputs.count, error)) return false;
    for (size_t i = 0; i < ready.count; ++i) {
      const Member& given = inputs->members[i];
      ready[i].port = given.key;
      const i32 port = plan->input(given.key);
      const bool values = given.value.list.count && given.value.list[0].is(Json::Kind::text);
      if (!values) {
        if (!numbers(given.value, port < 0 ? Dtype::f32 : plan->operands[port].dtype, ready[i].host)) return false;
        continue;
      }
      Span<const DeviceValue*> parts;
      if (!pool.array(parts, given.value.list.count, error)) return false;
      for (size_t k = 0; k < parts.count; ++k) {
        Kept* value = find(given.value.list[k].text);
        if (!value) return wrong("no such value");
        parts[k] = &value->value;
      }
      ready[i].parts = {parts.data, parts.count};
    }
    for (size_t i = 0; i < wanted.count; ++i) {
      if (keep) {
        wanted[i].port = keep->members[i].key;
        kept[kept_count].name = names.copy(keep->members[i].value.text);
        wanted[i].value = &kept[kept_count++].value;
        continue;
      }
      const Operand& operand = plan->operands[plan->outputs[i]];
      wanted[i].port = operand.name;
      if (!pool.array(wanted[i].host, operand.bytes, error)) return false;
    }
    if (!session.run(*plan, {ready.data, ready.count}, wanted, error)) {
      if (keep) kept_count -= wanted.count;
      return false;
    }
    printf("{");
    for (size_t i = 0; !keep && i < wanted.count; ++i) {
      printf("%s\"%.*s\": ", i ? ", " : "", OD_TEXT(wanted[i].port));
      print(plan->operands[plan->outputs[i]].dtype, wanted[i].host);
    }
    printf("}\n");
    return true;
  }

  bool put(const Json& line) {
    Kept& made = kept[kept_count];
    const Dtype dtype = line.find("dtype")->text == "i32" ? Dtype::i32 : Dtype::f32;
    Shape shape;
    for (const Json& size : line.find("shape")->list) shape.dims[shape.rank++] = static_cast<u32>(size.integer);
    Bytes data;
    if (!numbers(*line.find("data"), dtype, data) || !session.put(data, dtype, shape, made.value, error)) return false;
    made.name = names.copy(line.find("put")->text);
    ++kept_count;
    puts("{}");
    return true;
  }

  bool read(Text name) {
    Kept* value = find(name);
    Span<u8> out;
    if (!value) return wrong("no such value");
    if (!pool.array(out, value->value.buffer.bytes, error) || !session.read(value->value, out, error)) return false;
    print(value->value.dtype, out);
    puts("");
    return true;
  }

  bool obey(const Json& line) {
    if (line.find("run")) return run(line);
    if (line.find("put")) return put(line);
    if (const Json* name = line.find("read")) return read(name->text);
    if (const Json* name = line.find("drop")) {
      if (Kept* value = find(name->text)) {
        session.drop(value->value);
        value->name = {};
      }
    } else if (const Json* part = line.find("release")) {
      session.release(static_cast<u32>(bundle.manifest().component(part->text) - bundle.manifest().components.data));
    } else if (const Json* limit = line.find("limit")) {
      session.memory_limit = static_cast<u64>(limit->integer);
    } else if (const Json* bytes = line.find("stream")) {
      const bool on = bytes->integer >= 0;
      session.stream({on, on ? static_cast<u64>(bytes->integer) : 0, session.maps_weights()});
    } else if (const Json* what = line.find("set")) {
      const bool to = line.find("to")->boolean;
      if (what->text == "check") session.check = to;
      if (what->text == "profile") session.profile = to;
      if (what->text == "cancel") cancel = to;
      if (what->text == "cancel when building") cancel_when_building = to;
    } else if (const Json* pause = line.find("cancel_after")) {
      cancel_after = pause->real;
      if (pthread_create(&timer, nullptr, wait_and_cancel, this)) return wrong("no thread");
      timed = true;
    } else if (line.find("facts")) {
      u64 runs = 0;
      double seconds = 0;
      for (const Launched& row : session.launched) {
        runs += row.runs;
        seconds += row.seconds;
      }
      printf("{\"arena\": %llu, \"weights\": %llu, \"values\": %llu, \"streamed\": %llu, \"hits\": %u, \"misses\": %u, ",
             static_cast<unsigned long long>(session.arena_bytes()),
             static_cast<unsigned long long>(session.weight_bytes()),
             static_cast<unsigned long long>(session.value_bytes()),
             static_cast<unsigned long long>(session.streamed_bytes()), device.cache().hits, device.cache().misses);
      printf("\"rows\": %zu, \"runs\": %llu, \"took\": %s, \"peak\": %llu, \"now\": %llu}\n", session.launched.size(),
             static_cast<unsigned long long>(runs), seconds > 0 ? "true" : "false",
             static_cast<unsigned long long>(memory_peak()), static_cast<unsigned long long>(memory_now()));
      return true;
    }
    puts("{}");
    return true;
  }
};

}  // namespace

int main(int count, char** arguments) {
  static char text[1 << 22];
  Tool tool;
  const auto refused = [&tool] { return printf("%d %s\n", static_cast<int>(tool.error.code), tool.error.message) < 0; };
  if (count < 2 ||
      !tool.device.open(count > 2 ? arguments[2] : nullptr, count > 3 ? arguments[3] : nullptr, tool.error) ||
      !tool.bundle.open(arguments[1], tool.error)) {
    return refused();
  }
  tool.session.cancel = &tool.cancel;
  tool.session.building_user = &tool;
  tool.session.building = [](void* user, u32 built, u32) {
    auto& owner = *static_cast<Tool*>(user);
    if (owner.cancel_when_building && built) owner.cancel = true;
  };
  while (fgets(text, sizeof text, stdin)) {
    Json line;
    tool.error = {};
    tool.pool.clear();
    if (!parse_json(Text(text, strcspn(text, "\n")).bytes(), "stdin", tool.pool, line, tool.error) ||
        !tool.obey(line)) {
      refused();
    }
    fflush(stdout);  // who asks may wait for it
  }
  for (size_t i = 0; i < tool.kept_count; ++i) tool.session.drop(tool.kept[i].value);
  return 0;
}
