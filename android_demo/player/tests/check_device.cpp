// The verbs of a device, for tests/player/test_device.py. Each line of stdin is a command, each answer a line; what
// fails is answered by its code and message.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "device/device.h"

namespace {

void print_log(void*, od::Level, const char* line) { printf("log: %s\n", line); }

int failed(const od::Error& error) {
  printf("%d %s\n", static_cast<int>(error.code), error.message);
  return 0;
}

// Facts of each device, or why there is none.
int list() {
  od::List<od::Facts> found;
  char remarks[512];
  od::Error error;
  if (!od::Device::list(nullptr, found, remarks, sizeof remarks, error)) return failed(error);
  for (const od::Facts& facts : found) {
    printf("%s|%s|%s|%s|%s|%s|%s|%u|%llu|%llu|%llu|%llu|%llu|%llu|%u|%u|", facts.index, od::name_of(facts.kind),
           facts.name, facts.platform, facts.vendor, facts.version, facts.driver, facts.compute_units,
           static_cast<unsigned long long>(facts.global_memory), static_cast<unsigned long long>(facts.allocation),
           static_cast<unsigned long long>(facts.work_group), static_cast<unsigned long long>(facts.local_memory),
           static_cast<unsigned long long>(facts.image_width), static_cast<unsigned long long>(facts.image_height),
           facts.alignment, facts.pitch_alignment);
    for (unsigned bit = 1; bit < od::kUnknownNeed; bit <<= 1) {
      if (facts.capabilities & bit) printf("%s ", od::name_of(static_cast<od::Need>(bit)));
    }
    printf("|%s\n", facts.refused);
  }
  printf("remarks: %s\n", remarks);
  return 0;
}

// Lines `save KEY TEXT` and `load KEY` on a folder of at most `limit` bytes.
int keep(const char* folder, const char* limit) {
  od::KernelCache cache;
  cache.open(folder, strtoull(limit, nullptr, 0));
  char line[4096], verb[8], key[80], text[4000];
  while (fgets(line, sizeof line, stdin)) {
    text[0] = 0;
    if (sscanf(line, "%7s %79s %3999s", verb, key, text) < 2) continue;
    if (strcmp(verb, "save") == 0) {
      od::List<od::u8> file;
      if (!file.resize(od::KernelCache::kHead + strlen(text))) return 1;
      memcpy(file.begin() + od::KernelCache::kHead, text, strlen(text));
      cache.save(key, file.span());
      continue;
    }
    od::Mapping file;
    od::Bytes binary;
    if (cache.load(key, file, binary)) {
      printf("%.*s\n", static_cast<int>(binary.count), reinterpret_cast<const char*>(binary.data));
    } else {
      puts("missing");
    }
  }
  return 0;
}

struct Tool {
  od::Device device;
  od::Program program;
  od::Error error;

  bool build(const char* source, const char* entry) {
    device.release(program);
    return device.build(source, entry, "twice.cl WIDTH=4", program, error);
  }

  // x -> 2 x + plus, in a part of an arena whose rest stays as it was.
  bool twice(float plus) {
    constexpr od::u32 count = 256;
    float x[count], y[count];
    for (od::u32 i = 0; i < count; ++i) x[i] = static_cast<float>(i);
    od::Buffer arena, in, out, copied;
    const od::Bytes bytes = {reinterpret_cast<const od::u8*>(x), sizeof x};
    bool done = device.allocate(8192, "arena", arena, error) && device.part(arena, 512, sizeof x, in, error) &&
                device.part(arena, 4096, sizeof y, out, error) && device.allocate(2048, "copy", copied, error) &&
                device.write(in, 0, bytes, error);
    od::Scalar scalars[2];
    scalars[0].i = count;
    scalars[1].f = plus;
    const od::Buffer* buffers[] = {&in, &out};
    const od::u32 grid[] = {count, 1, 1}, group[] = {4, 1, 1};
    od::cl_event event = nullptr;
    done = done &&
           device.launch(program, {buffers, 2}, {scalars, 2}, grid, group, {"plan", "/node", "Mul"}, &event, error) &&
           device.wait(event, error) && device.copy(out, copied, sizeof y, 1024, error) &&
           device.read(copied, 1024, {reinterpret_cast<od::u8*>(y), sizeof y}, error);
    od::Timespan span;
    done = done && device.span(event, span, error);
    device.release(event);
    device.release(copied);
    device.release(out);
    device.release(in);
    device.release(arena);
    for (od::u32 i = 0; done && i < count; ++i) {
      if (y[i] != 2 * x[i] + plus || !(span.end >= span.begin)) return printf("wrong at %u: %g\n", i, y[i]) < 0;
    }
    return done;
  }

  // Texels of an image over a part of a buffer, row after row.
  bool fetch(od::u32 width, od::u32 height) {
    const od::u32 count = width * height * 4;
    od::List<float> x, y;
    if (!x.resize(count) || !y.resize(count)) return false;
    for (od::u32 i = 0; i < count; ++i) x[i] = static_cast<float>(i);
    const od::u64 bytes = count * sizeof(float);
    od::Buffer whole, part, image, out;
    bool done = device.allocate(512 + bytes, "whole", whole, error) && device.part(whole, 512, bytes, part, error) &&
                device.image(part, width, height, od::Dtype::f32, "plan: x", image, error) &&
                device.allocate(bytes, "out", out, error) &&
                device.write(part, 0, {reinterpret_cast<const od::u8*>(x.begin()), bytes}, error);
    od::Scalar scalar;
    scalar.i = static_cast<od::i32>(width);
    const od::Buffer* buffers[] = {&image, &out};
    const od::u32 grid[] = {width, height, 1}, group[] = {1, 1, 1};
    done =
        done &&
        device.launch(program, {buffers, 2}, {&scalar, 1}, grid, group, {"plan", "/node", "Fetch"}, nullptr, error) &&
        device.read(out, 0, {reinterpret_cast<od::u8*>(y.begin()), bytes}, error);
    device.release(image);
    device.release(out);
    device.release(part);
    device.release(whole);
    return done && memcmp(x.begin(), y.begin(), bytes) == 0;
  }

  // A file's bytes on the device, whether they are a copy, and how often it was asked to forget them.
  bool upload(const char* path, size_t from) {
    od::Mapping file;
    int moved = 0;
    if (!file.open(path, error)) return false;
    const od::Bytes data = file.bytes().slice(from, file.bytes().count);
    od::Buffer buffer;
    od::List<od::u8> back;
    if (!device.upload(
            data, "weights.bin", buffer, error, [](void* count) { ++*static_cast<int*>(count); }, &moved)) {
      return false;
    }
    const bool same = back.resize(data.count) && device.read(buffer, 0, back.span(), error) &&
                      memcmp(back.begin(), data.data, data.count) == 0;
    printf("%s %d ", device.maps(data) ? "mapped" : "copied", moved);
    device.release(buffer);
    return same;
  }

  bool allocate(od::u64 bytes) {
    od::Buffer buffer;
    if (!device.allocate(bytes, "unet: arena", buffer, error)) return false;
    device.release(buffer);
    return true;
  }
};

}  // namespace

int main(int count, char** arguments) {
  od::set_log(print_log, nullptr);
  if (count > 1 && strcmp(arguments[1], "list") == 0) return list();
  if (count > 3 && strcmp(arguments[1], "cache") == 0) return keep(arguments[2], arguments[3]);
  Tool tool;
  const char* spec = count > 1 && arguments[1][0] ? arguments[1] : nullptr;
  if (!tool.device.open(spec, count > 2 ? arguments[2] : nullptr, tool.error)) return failed(tool.error);
  printf("%s [%s]\n", tool.device.facts().name, tool.device.facts().platform);
  char line[65536];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    tool.error = {};
    char* value = strchr(line, ' ');
    if (value) *value++ = 0;
    const od::u64 number = value ? strtoull(value, nullptr, 0) : 0;
    bool done = false;
    for (char* c = value; c && *c; ++c) {
      if (*c == '~') *c = '\n';  // of a source
    }
    if (strcmp(line, "twice.cl") == 0) done = tool.build(value, "twice");
    if (strcmp(line, "fetch.cl") == 0) done = tool.build(value, "fetch");
    if (strcmp(line, "twice") == 0) done = tool.twice(1.5f);
    if (strcmp(line, "fetch") == 0) done = tool.fetch(static_cast<od::u32>(number), 3);
    if (strcmp(line, "upload") == 0) done = tool.upload(value, 0);
    if (strcmp(line, "upload-odd") == 0) done = tool.upload(value, 4);
    if (strcmp(line, "allocate") == 0) done = tool.allocate(number);
    if (!done) {
      failed(tool.error);
      continue;
    }
    printf("ok, %u hits, %u misses\n", tool.device.cache().hits, tool.device.cache().misses);
  }
  tool.device.release(tool.program);
  return 0;
}
