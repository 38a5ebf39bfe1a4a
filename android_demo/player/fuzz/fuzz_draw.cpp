// A picture by any pipeline: "REQUEST\0PIPELINE", in a bundle that is `fuzz_draw.odpack` beside the program and ends in
// `"pipeline":null}`. The session is a stand-in: it takes and gives what a device's would, and computes nothing.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "draw/draw.h"
#include "picture/zlib.h"
#include "support/fuzz.h"

namespace od {
namespace {

constexpr Text kManifest("bundle.json", 11), kNone_("null}", 5);

u8* memory_of(const Buffer& buffer) { return reinterpret_cast<u8*>(buffer.handle); }

bool allocate(u64 bytes, Buffer& out, Error& error) {
  auto* data = static_cast<u8*>(malloc(bytes ? bytes : 1));
  if (!data) return Pool::no_memory(error, bytes);
  out.handle = reinterpret_cast<cl_mem>(data);
  out.bytes = bytes;
  for (u64 i = 0; i < bytes; ++i) data[i] = static_cast<u8>(i % 61);
  return true;
}

u64 sum_of(Bytes data) {
  u64 sum = 0;
  for (const u8 byte : data) sum += byte;  // each byte is there
  return sum;
}

bool refuse(Error& error) { return fail(error, Code::usage, "session", "", "a port is missing or of another size."); }

}  // namespace

bool Session::bind(const Plan&, Error&) { return true; }

void Session::stream(const Streaming&) {}

bool Session::run(const Plan& plan, Span<const Input> inputs, Span<Output> outputs, Error& error) {
  static volatile u64 sink;
  for (const u32 index : plan.inputs) {
    const Operand& operand = plan.operands[index];
    u64 times = 0, bytes = 0;
    for (const Input& input : inputs) {
      if (input.port != operand.name) continue;
      ++times;
      bytes += input.host.count;
      sink += sum_of(input.host);
      for (const DeviceValue* part : input.parts) {
        bytes += part->buffer.bytes;
        sink += sum_of({memory_of(part->buffer), part->buffer.bytes});
      }
    }
    if (times != 1 || bytes != operand.bytes) return refuse(error);
  }
  for (Output& output : outputs) {
    const i32 index = plan.output(output.port);
    if (index == kNone) return refuse(error);
    const Operand& operand = plan.operands[static_cast<size_t>(index)];
    if (output.value) {
      if (!allocate(operand.bytes, output.value->buffer, error)) return false;
      output.value->dtype = operand.dtype;
      output.value->shape = operand.shape;
      value_bytes_ += operand.bytes;
      continue;
    }
    if (output.host.count != operand.bytes) return refuse(error);
    for (size_t i = 0; i < output.host.count; ++i) output.host[i] = static_cast<u8>(i % 61);
  }
  return true;
}

bool Session::put(Bytes data, Dtype dtype, const Shape& shape, DeviceValue& out, Error& error) {
  OD_HOLDS(data.count == shape.count() * bytes_of(dtype));
  if (!allocate(data.count, out.buffer, error)) return false;
  if (data.count) memcpy(memory_of(out.buffer), data.data, data.count);
  out.dtype = dtype;
  out.shape = shape;
  value_bytes_ += data.count;
  return true;
}

bool Session::part(const DeviceValue& value, u32 first, u32 count, DeviceValue& out, Error& error) {
  out = {{}, value.dtype, value.shape};
  OD_HOLDS(count && first + count <= out.shape.dims[0]);
  out.shape.dims[0] = count;
  const u64 bytes = out.shape.count() * bytes_of(out.dtype);
  OD_HOLDS(bytes / count * (first + count) <= value.buffer.bytes);
  if (!allocate(bytes, out.buffer, error)) return false;
  value_bytes_ += bytes;
  return true;
}

bool Session::read(const DeviceValue& value, Span<u8> out, Error&) {
  OD_HOLDS(out.count <= value.buffer.bytes);
  if (out.count) memcpy(out.data, memory_of(value.buffer), out.count);
  return true;
}

void Session::drop(DeviceValue& value) {
  value_bytes_ -= value.buffer.bytes;
  free(memory_of(value.buffer));
  value.buffer = Buffer();
}

bool Session::adapt(Span<const ActiveAdapter> adapters, Error&) {
  OD_HOLDS(adapters.empty());  // the bundle has none
  return true;
}
void Session::release(u32) {}
void Session::close() { OD_HOLDS(!value_bytes_); }

namespace fuzz {
namespace {

List<u8> base;
Span<PackedEntry> files;
Pool base_pool;

void put_number(List<u8>& out, u64 value, u32 bytes) {
  for (u32 i = 0; i < bytes; ++i) out.push(static_cast<u8>(value >> 8 * i));
}
void put_bytes(List<u8>& out, Bytes data) {
  const size_t size = out.size();
  OD_HOLDS(out.resize(size + data.count));
  if (data.count) memcpy(out.begin() + size, data.data, data.count);
}

// What a local header and the directory say alike.
void put_head(List<u8>& out, const char* versions, Bytes data) {
  put_bytes(out, {reinterpret_cast<const u8*>(versions), 2});
  put_number(out, 0, 8);
  put_number(out, crc32(data), 4);
  put_number(out, data.count, 4);
  put_number(out, data.count, 4);
}

// The base bundle with another manifest (docs/bundle.md, "One file").
void pack(Bytes manifest, List<u8>& out) {
  List<u8> directory;
  u32 count = 0;
  const auto add = [&](Text path, Bytes data) {
    const u64 offset = out.size(), extra = 4 + (64 - (offset + 30 + path.size + 4) % 64) % 64;
    put_number(out, 0x04034b50, 4);
    put_head(out, "\x14", data);
    put_number(out, path.size, 2);
    put_number(out, extra, 2);
    put_bytes(out, path.bytes());
    put_number(out, 0xd935, 2);
    put_number(out, extra - 4, 2);
    while (out.size() < offset + 30 + path.size + extra) out.push(0);
    put_bytes(out, data);
    put_number(directory, 0x02014b50, 4);
    put_number(directory, 20, 2);
    put_head(directory, "\x14", data);
    put_number(directory, path.size, 2);
    for (u32 i = 0; i < 12; ++i) directory.push(0);
    put_number(directory, offset, 4);
    put_bytes(directory, path.bytes());
    ++count;
  };
  add(kManifest, manifest);
  for (const PackedEntry& file : files) {
    if (file.path != kManifest) add(file.path, {base.begin() + file.offset, file.bytes});
  }
  const size_t begin = out.size();
  put_bytes(out, {directory.begin(), directory.size()});
  put_number(out, 0x06054b50, 4);
  put_number(out, 0, 4);
  put_number(out, count, 2);
  put_number(out, count, 2);
  put_number(out, directory.size(), 4);
  put_number(out, begin, 4);
  put_number(out, 0, 2);
}

u32 number(const Json& request, const char* key, u32 most) {
  const Json* value = request.find(key);
  return value && value->integer > 0 ? static_cast<u32>(min<i64>(value->integer, most)) : 0;
}

void draw(Bundle& bundle, const Json& wanted, Bytes whole) {
  Error error;
  Device device;
  Session session(bundle, device);
  Drawing drawing;
  if (!drawing.open(bundle, session, error)) return check_error(error);
  List<GivenText> texts;
  List<NamedNumber> numbers;
  List<GivenPicture> pictures;
  List<u8> pixels;
  const u32 side = number(wanted, "side", 40);
  for (u32 i = 0; i < side * side * 3; ++i) pixels.push(static_cast<u8>(i * 7));
  for (const Member& one : wanted.members) {
    if (one.value.is(Json::Kind::text)) texts.push({one.key, one.value.text});
    if (one.value.is(Json::Kind::real)) numbers.push({one.key, one.value.real});
    if (one.value.is(Json::Kind::list)) {
      GivenPicture given = {one.key, {pixels.begin(), side, side}, !one.value.list.empty(), {}};
      if (given.traced) given.thresholds = thresholds_of(one.value.list[0].real, one.value.list[0].real * 2);
      pictures.push(given);
    }
  }
  Request request;
  request.texts = {texts.begin(), texts.size()};
  request.numbers = {numbers.begin(), numbers.size()};
  request.pictures = {pictures.begin(), pictures.size()};
  request.steps = number(wanted, "steps", 5);
  request.width = number(wanted, "width", 64);
  request.height = number(wanted, "height", 64);
  request.bands = number(wanted, "bands", 1);
  request.one_pass_at_a_time = number(wanted, "alone", 1);
  request.unload = number(wanted, "unload", 1);
  request.emphasis = static_cast<Emphasis>(number(wanted, "emphasis", 2));
  request.long_texts = static_cast<Long>(number(wanted, "long", 2));
  request.seeds.mode = static_cast<SeedMode>(number(wanted, "mode", 2));
  request.seeds.variation_strength = number(wanted, "varied", 10) / 10.0;
  request.seeds.delta = number(wanted, "delta", 9);
  request.denoising_end = number(wanted, "end", 10) / 10.0;
  List<float> noise;
  noise.resize(number(wanted, "noise", 4096));
  request.latents = {noise.begin(), noise.size()};
  request.denoising_start = number(wanted, "start", 10) / 10.0;
  request.fast = number(wanted, "fast", 1);
  Watch watch;
  watch.preview_every = number(wanted, "previews", 3);
  watch.preview_by = static_cast<PreviewBy>(number(wanted, "by", 2));
  watch.preview = [](void*, u32, Pixels shown) {
    static volatile u64 sink;
    sink += sum_of({shown.data, size_t(3) * shown.width * shown.height});
  };
  for (u32 again = 0; again < 2; ++again) {
    Drawn drawn;
    error = Error();
    if (!drawing.draw(request, watch, drawn, error)) return check_error(error);
    if (request.denoising_end != 0) {
      OD_HOLDS(drawn.pixels.empty() && !drawn.latents.empty());
      continue;
    }
    OD_HOLDS(drawn.width && drawn.height && drawn.pixels.size() == size_t(3) * drawn.width * drawn.height * drawn.frames);
    List<u8> file;
    OD_HOLDS(encode_drawn(drawn, drawn.frames - 1, file, error));
  }
  remember(whole);
}

}  // namespace
}  // namespace fuzz
}  // namespace od

extern "C" int LLVMFuzzerInitialize(int*, char*** arguments) {
  using namespace od;
  char path[4096];
  Error error;
  Bytes data;
  snprintf(path, sizeof path, "%s.odpack", (*arguments)[0]);
  if (!read_file(path, 1 << 24, fuzz::base_pool, data, error)) {
    fprintf(stderr, "%s\n", error.message);
    exit(2);
  }
  fuzz::put_bytes(fuzz::base, data);
  const Bytes base(data);
  OD_HOLDS(read_directory(base, "base", fuzz::base_pool, fuzz::files, error));
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  Pool pool;
  Json request;
  Error error;
  const Bytes first = fuzz::part({data, size}, 0), pipeline = fuzz::part({data, size}, 1);
  if (!parse_json(first, "request", pool, request, error)) return 0;
  List<u8> manifest, packed;
  for (const PackedEntry& file : fuzz::files) {
    if (file.path != kManifest) continue;
    const Bytes text{fuzz::base.begin() + file.offset, file.bytes};
    OD_HOLDS(Text(reinterpret_cast<const char*>(text.data), text.count).ends_with(kNone_));
    fuzz::put_bytes(manifest, text.slice(0, text.count - kNone_.size));
    fuzz::put_bytes(manifest, pipeline);
    manifest.push('}');
  }
  fuzz::pack({manifest.begin(), manifest.size()}, packed);
  const int file = memfd_create("fuzz", 0);
  OD_HOLDS(file >= 0 && write(file, packed.begin(), packed.size()) == static_cast<ssize_t>(packed.size()));
  {
    Bundle bundle;
    if (bundle.open(file, "x.odpack", error)) {
      fuzz::draw(bundle, request, {data, size});
    } else {
      OD_HOLDS(strstr(error.message, "x.odpack: ") != error.message);  // the archive is right
      fuzz::check_error(error);
    }
  }
  close(file);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_json(data, size, most, seed);
}
