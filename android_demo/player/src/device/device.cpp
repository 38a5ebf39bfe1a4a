#include "device/device.h"

#include <stdio.h>
#include <string.h>

#include "device/discovery.h"
#include "device/program.h"

namespace od {
namespace {

constexpr u64 kMoved = u64(16) << 20;  // bytes a copy of weights moves at once
constexpr const char* kSmaller = "use a smaller --size, or another --device";
constexpr const char* kTarget = "convert for a --target of this device, or use another --device";
constexpr const char* kOther = "run `od_player devices`, and try another --device";

bool is_memory(cl_int code) {
  return code == CL_MEM_OBJECT_ALLOCATION_FAILURE || code == CL_OUT_OF_RESOURCES || code == CL_OUT_OF_HOST_MEMORY ||
         code == CL_INVALID_BUFFER_SIZE;
}

}  // namespace

Megabytes::Megabytes(u64 bytes) {
  char digits[24];
  const int size = snprintf(digits, sizeof digits, "%.1f", static_cast<double>(bytes) / 1e6);
  size_t used = 0;
  for (int i = 0; i < size; ++i) {
    const int left = size - 2 - i;  // digits before the point that are still to come
    if (i && left > 0 && left % 3 == 0) text[used++] = ',';
    text[used++] = digits[i];
  }
  snprintf(text + used, sizeof text - used, " MB");
}

bool Device::open(const char* spec, const char* cache, Error& error) {
  close();
  cl_ = opencl(error);
  if (!cl_) return false;
  cache_.open(cache);
  FoundDevice found;
  if (!find_device(*cl_, spec, cache_, found, error)) return false;
  cache_.hits = cache_.misses = 0;
  facts_ = found.facts;
  device_ = found.device;
  cl_int code = CL_SUCCESS;
  const char* function = "clCreateContext";
  context_ = cl_->clCreateContext(nullptr, 1, &device_, nullptr, nullptr, &code);
  if (context_) {
    // Profiling cost nothing measurable, so every launch can be timed.
    function = "clCreateCommandQueue";
    queue_ = cl_->clCreateCommandQueue(context_, device_, CL_QUEUE_PROFILING_ENABLE, &code);
  }
  if (queue_) return true;
  close();
  return fail(error, Code::device, facts_.name, kOther, "it cannot be opened: %s failed: %s.", function,
              CodeName(code).text);
}

void Device::close() {
  if (queue_) cl_->clReleaseCommandQueue(queue_);
  if (filling_) cl_->clReleaseCommandQueue(filling_);
  if (context_) cl_->clReleaseContext(context_);
  queue_ = filling_ = nullptr;
  context_ = nullptr;
  device_ = nullptr;
}

bool Device::list(const char* cache, List<Facts>& out, char* remarks, size_t room, Error& error) {
  const OpenCL* cl = opencl(error);
  if (!cl) return false;
  KernelCache kept;
  kept.open(cache);
  List<FoundDevice> found;
  if (!discover(*cl, found, remarks, room, error)) return false;
  out.clear();
  for (FoundDevice& device : found) {
    examine(*cl, kept, device);
    if (!out.push(device.facts)) return Pool::no_memory(error, sizeof(Facts));
  }
  return true;
}

bool Device::build(Text source, Text entry, Text where, Program& out, Error& error) {
  char name[128], key[65];
  if (entry.size >= sizeof name) return fail(error, Code::internal, where, "", "the kernel's name is too long.");
  memcpy(name, entry.data, entry.size);
  name[entry.size] = 0;
  const bool keyed = program_key(facts_, source, key);
  Mapping file;
  Bytes binary;
  out = {};
  if (keyed && cache_.load(key, file, binary)) {
    BuildFailure refused;
    if (compile_binary(*cl_, context_, device_, binary, name, out, refused)) return true;
    log(Level::warning, "%.*s: the driver refused a cached kernel (%s failed: %s); it is built again", OD_TEXT(where),
        refused.function, CodeName(refused.code).text);
    file.close();
    cache_.drop(key);
  }
  BuildFailure failure;
  if (!compile_source(*cl_, context_, device_, source, name, out, failure)) {
    return refuse_build(failure, facts_, where, error);
  }
  List<u8> kept;
  if (!binary_of(*cl_, out, KernelCache::kHead, kept)) return true;
  if (keyed) cache_.save(key, kept.span());
  // What a program is compiled from stays with it, 4 MB in Intel's runtime, where one of its binary takes 0.5.
  Program loaded = {};
  const Bytes made = {kept.begin() + KernelCache::kHead, kept.size() - KernelCache::kHead};
  if (compile_binary(*cl_, context_, device_, made, name, loaded, failure)) {
    od::release(*cl_, out);
    out = loaded;
  }
  return true;
}

void Device::release(Program& program) {
  if (cl_) od::release(*cl_, program);
}

bool Device::make_buffer(cl_bitfield flags, u64 bytes, void* host, Text what, Buffer& out, Error& error) {
  const char* fix = flags & CL_MEM_READ_ONLY ? kOther : kSmaller;
  out = {};
  if (facts_.allocation && bytes > facts_.allocation) {
    return fail(error, Code::device, what, fix, "it needs %s at once, and %s gives at most %s.", Megabytes(bytes).text,
                facts_.name, Megabytes(facts_.allocation).text);
  }
  cl_int code = CL_SUCCESS;
  out.handle = cl_->clCreateBuffer(context_, flags, max<size_t>(bytes, 1), host, &code);
  out.bytes = bytes;
  if (out.handle) return true;
  return fail(error, Code::device, what, fix, "%s (%s) could not give %s: clCreateBuffer failed: %s.", facts_.name,
              Megabytes(facts_.global_memory).text, Megabytes(bytes).text, CodeName(code).text);
}

bool Device::allocate(u64 bytes, Text what, Buffer& out, Error& error) {
  return make_buffer(CL_MEM_READ_WRITE, bytes, nullptr, what, out, error);
}

bool Device::maps(Bytes data) const {
  const auto place = reinterpret_cast<uintptr_t>(data.data);
  return facts_.is_cpu && data.count && place % max<u32>(facts_.alignment, 1) == 0;
}

bool Device::upload(Bytes data, Text what, Buffer& out, Error& error, void (*moved)(void* user), void* user) {
  if (maps(data)) {
    // The flags promise that nothing is written, so a read-only page is good enough.
    return make_buffer(CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR, data.count, const_cast<u8*>(data.data), what, out,
                       error);
  }
  if (!make_buffer(CL_MEM_READ_ONLY, data.count, nullptr, what, out, error)) return false;
  for (u64 at = 0; at < data.count; at += kMoved) {
    if (!write(out, at, data.slice(at, min<u64>(at + kMoved, data.count)), error)) {
      release(out);
      return false;
    }
    if (moved) moved(user);
  }
  return true;
}

bool Device::part(const Buffer& whole, u64 offset, u64 bytes, Buffer& out, Error& error) {
  const cl_buffer_region region = {offset, max<size_t>(bytes, 1)};
  cl_int code = CL_SUCCESS;
  out = {cl_->clCreateSubBuffer(whole.handle, 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &code), bytes};
  if (out.handle) return true;
  char where[96];
  snprintf(where, sizeof where, "bytes %llu to %llu of a buffer", static_cast<unsigned long long>(offset),
           static_cast<unsigned long long>(offset + bytes));
  return failed("clCreateSubBuffer", code, where, error);
}

bool Device::image(const Buffer& over, u32 width, u32 height, Dtype dtype, Text what, Buffer& out, Error& error) {
  out = {};
  if (width > facts_.image_width || height > facts_.image_height) {
    return fail(error, Code::device, what, kTarget,
                "it is read as an image of %u by %u texels, and %s takes at most %llu by %llu.", width, height,
                facts_.name, static_cast<unsigned long long>(facts_.image_width),
                static_cast<unsigned long long>(facts_.image_height));
  }
  if (facts_.pitch_alignment && width % facts_.pitch_alignment) {
    return fail(error, Code::device, what, kTarget,
                "it is read as an image of %u by %u texels, and %s takes rows of multiples of %u texels.", width,
                height, facts_.name, facts_.pitch_alignment);
  }
  const size_t row = size_t(width) * 4 * bytes_of(dtype);
  const cl_image_format format = {CL_RGBA, dtype == Dtype::f16 ? CL_HALF_FLOAT : CL_FLOAT};
  const cl_image_desc desc = {CL_MEM_OBJECT_IMAGE2D, width, height, 0, 0, row, 0, 0, 0, over.handle};
  cl_int code = CL_SUCCESS;
  out = {cl_->clCreateImage(context_, CL_MEM_READ_ONLY, &format, &desc, nullptr, &code), row * height};
  if (out.handle) return true;
  return fail(error, Code::device, what, kTarget,
              "%s could not read %s as an image of %u by %u texels over a buffer: clCreateImage failed: %s.",
              facts_.name, name_of(dtype), width, height, CodeName(code).text);
}

void Device::release(Buffer& buffer) {
  if (buffer.handle) cl_->clReleaseMemObject(buffer.handle);
  buffer = {};
}

bool Device::write(const Buffer& buffer, u64 offset, Bytes data, Error& error) {
  if (!data.count) return true;
  const cl_int code =
      cl_->clEnqueueWriteBuffer(queue_, buffer.handle, CL_TRUE, offset, data.count, data.data, 0, nullptr, nullptr);
  return code == CL_SUCCESS || failed("clEnqueueWriteBuffer", code, "write", error);
}

bool Device::fill(const Buffer& buffer, u64 offset, Bytes data, Error& error) {
  cl_int code = CL_SUCCESS;
  if (!filling_) filling_ = cl_->clCreateCommandQueue(context_, device_, 0, &code);
  if (!filling_) return failed("clCreateCommandQueue", code, "fill", error);
  code = cl_->clEnqueueWriteBuffer(filling_, buffer.handle, CL_TRUE, offset, data.count, data.data, 0, nullptr, nullptr);
  return code == CL_SUCCESS || failed("clEnqueueWriteBuffer", code, "fill", error);
}

bool Device::read(const Buffer& buffer, u64 offset, Span<u8> out, Error& error) {
  if (out.empty()) return true;
  const cl_int code =
      cl_->clEnqueueReadBuffer(queue_, buffer.handle, CL_TRUE, offset, out.count, out.data, 0, nullptr, nullptr);
  return code == CL_SUCCESS || failed("clEnqueueReadBuffer", code, "read", error);
}

bool Device::copy(const Buffer& from, const Buffer& to, u64 bytes, u64 offset, Error& error, u64 from_offset) {
  const cl_int code =
      cl_->clEnqueueCopyBuffer(queue_, from.handle, to.handle, from_offset, offset, bytes, 0, nullptr, nullptr);
  return code == CL_SUCCESS || failed("clEnqueueCopyBuffer", code, "copy", error);
}

bool Device::launch(const Program& program, Span<const Buffer* const> buffers, Span<const Scalar> scalars,
                    const u32 grid[3], const u32 group[3], const Origin& origin, cl_event* event, Error& error) {
  cl_int code = program.arguments == buffers.count + scalars.count ? CL_SUCCESS : CL_INVALID_ARG_INDEX;
  cl_uint index = 0;
  for (size_t i = 0; i < buffers.count && code == CL_SUCCESS; ++i) {
    code = cl_->clSetKernelArg(program.kernel, index++, sizeof(cl_mem), &buffers[i]->handle);
  }
  for (size_t i = 0; i < scalars.count && code == CL_SUCCESS; ++i) {
    code = cl_->clSetKernelArg(program.kernel, index++, sizeof(Scalar), &scalars[i]);
  }
  char where[400];
  if (code != CL_SUCCESS) {
    snprintf(where, sizeof where, "%.*s: %.*s (%.*s)", OD_TEXT(origin.plan), OD_TEXT(origin.node), OD_TEXT(origin.op));
    return fail(error, Code::device, where, "convert the checkpoint again",
                "its arguments (%zu buffers, %zu numbers) do not fit the kernel (%s).", buffers.count, scalars.count,
                CodeName(code).text);
  }
  const size_t global[3] = {grid[0], grid[1], grid[2]}, local[3] = {group[0], group[1], group[2]};
  code = cl_->clEnqueueNDRangeKernel(queue_, program.kernel, 3, nullptr, global, local, 0, nullptr, event);
  if (code == CL_SUCCESS) return true;
  snprintf(where, sizeof where, "%.*s: %.*s (%.*s), grid (%u, %u, %u), group (%u, %u, %u)", OD_TEXT(origin.plan),
           OD_TEXT(origin.node), OD_TEXT(origin.op), grid[0], grid[1], grid[2], group[0], group[1], group[2]);
  return failed("clEnqueueNDRangeKernel", code, where, error);
}

bool Device::wait(cl_event event, Error& error) {
  const cl_int code = cl_->clWaitForEvents(1, &event);
  return code == CL_SUCCESS || failed("clWaitForEvents", code, "wait", error);
}

bool Device::span(cl_event event, Timespan& out, Error& error) {
  cl_ulong begin = 0, end = 0;
  cl_int code = cl_->clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof begin, &begin, nullptr);
  if (code == CL_SUCCESS) {
    code = cl_->clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, nullptr);
  }
  out = {static_cast<double>(begin) * 1e-9, static_cast<double>(end) * 1e-9};
  return code == CL_SUCCESS || failed("clGetEventProfilingInfo", code, "times of a launch", error);
}

void Device::release(cl_event event) {
  if (event) cl_->clReleaseEvent(event);
}

bool Device::finish(Error& error) {
  if (!queue_) return true;
  const cl_int code = cl_->clFinish(queue_);
  return code == CL_SUCCESS || failed("clFinish", code, "finish", error);
}

bool Device::failed(const char* function, cl_int code, Text where, Error& error) const {
  return fail(error, Code::device, where, is_memory(code) ? kSmaller : kOther, "%s failed: %s failed: %s.", facts_.name,
              function, CodeName(code).text);
}

}  // namespace od
