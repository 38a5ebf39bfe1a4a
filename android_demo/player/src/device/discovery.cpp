#include "device/discovery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "device/machine.h"
#include "device/program.h"

namespace od {
namespace {

constexpr size_t kMostDevices = 64;
constexpr const char* kVariable = "ONDEVICE_DEVICE";
constexpr const char* kEmbedded = "Intel(R) OpenCL";  // platform of the CPU runtime of the package's extra `cpu`
constexpr const char* kOlderCpu = "CL_CONFIG_CPU_TARGET_ARCH";  // that runtime then compiles for an older CPU
constexpr const char* kList = "name one that `od_player devices` lists";
#ifdef __ANDROID__
constexpr const char* kInstall = "use a phone whose maker lets apps use OpenCL";
#else
constexpr const char* kInstall = "install your GPU vendor's OpenCL driver, or apt-get install pocl-opencl-icd";
#endif
constexpr const char* kProbe =
    "__kernel void probe(__global float* x) { x[get_global_id(0)] = vload_half(0, (const __global half*)x); }";

// Spaces at both ends are not a part of names.
void trim(char* text) {
  size_t size = strlen(text), from = 0;
  while (size && strchr(" \t\r\n", text[size - 1])) text[--size] = 0;
  while (text[from] && strchr(" \t\r\n", text[from])) ++from;
  memmove(text, text + from, size - from + 1);
}

template <size_t room>
void ask_text(const OpenCL& cl, cl_device_id device, cl_uint what, char (&out)[room]) {
  if (cl.clGetDeviceInfo(device, what, room - 1, out, nullptr) != CL_SUCCESS) out[0] = 0;
  out[room - 1] = 0;
  trim(out);
}

template <class T>
T ask(const OpenCL& cl, cl_device_id device, cl_uint what) {
  T value = 0;
  return cl.clGetDeviceInfo(device, what, sizeof value, &value, nullptr) == CL_SUCCESS ? value : T(0);
}

bool has_word(const List<char>& words, Text wanted) {
  for (size_t from = 0, until; from < words.size(); from = until + 1) {
    for (until = from; until < words.size() && words[until] != ' ' && words[until]; ++until) {
    }
    if (Text(words.begin() + from, until - from) == wanted) return true;
  }
  return false;
}

// Images over buffers are an extension of OpenCL 1.2, a part of 2.x, and an extension again of 3.0.
u32 capabilities_of(const OpenCL& cl, const FoundDevice& found, bool images) {
  List<char> extensions;
  size_t size = 0;
  if (cl.clGetDeviceInfo(found.device, CL_DEVICE_EXTENSIONS, 0, nullptr, &size) != CL_SUCCESS || size > (1 << 20) ||
      !extensions.resize(size) ||
      cl.clGetDeviceInfo(found.device, CL_DEVICE_EXTENSIONS, size, extensions.begin(), nullptr) != CL_SUCCESS) {
    return 0;
  }
  const bool over_buffers =
      has_word(extensions, "cl_khr_image2d_from_buffer") || Text(found.facts.version).starts_with("OpenCL 2.");
  u32 has = 0;
  if (has_word(extensions, "cl_khr_fp16")) has |= kHalf;
  if (images && over_buffers) has |= kImage2d;
  if (has_word(extensions, "cl_khr_subgroups") || has_word(extensions, "cl_intel_subgroups")) has |= kSubgroups;
  if (has_word(extensions, "cl_qcom_subgroup_constant_load")) has |= kWaveConstants;
  return has;
}

void describe(const OpenCL& cl, cl_platform_id platform, FoundDevice& found) {
  const cl_device_id device = found.device;
  Facts& facts = found.facts;
  if (cl.clGetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof facts.platform - 1, facts.platform, nullptr)) {
    facts.platform[0] = 0;
  }
  if (cl.clGetPlatformInfo(platform, CL_PLATFORM_VERSION, sizeof facts.platform_version - 1, facts.platform_version,
                           nullptr)) {
    facts.platform_version[0] = 0;
  }
  trim(facts.platform);
  ask_text(cl, device, CL_DEVICE_NAME, facts.name);
  ask_text(cl, device, CL_DEVICE_VENDOR, facts.vendor);
  ask_text(cl, device, CL_DEVICE_VERSION, facts.version);
  ask_text(cl, device, CL_DRIVER_VERSION, facts.driver);
  const auto type = ask<cl_bitfield>(cl, device, CL_DEVICE_TYPE);
  facts.kind = type & CL_DEVICE_TYPE_GPU           ? DeviceKind::gpu
               : type & CL_DEVICE_TYPE_CPU         ? DeviceKind::cpu
               : type & CL_DEVICE_TYPE_ACCELERATOR ? DeviceKind::accelerator
                                                   : DeviceKind::other;
  facts.is_cpu = facts.kind == DeviceKind::cpu;
  facts.available =
      ask<cl_bool>(cl, device, CL_DEVICE_AVAILABLE) && ask<cl_bool>(cl, device, CL_DEVICE_COMPILER_AVAILABLE);
  facts.little_endian = ask<cl_bool>(cl, device, CL_DEVICE_ENDIAN_LITTLE);
  facts.global_memory = ask<cl_ulong>(cl, device, CL_DEVICE_GLOBAL_MEM_SIZE);
  facts.allocation = ask<cl_ulong>(cl, device, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  facts.work_group = ask<size_t>(cl, device, CL_DEVICE_MAX_WORK_GROUP_SIZE);
  facts.local_memory = ask<cl_ulong>(cl, device, CL_DEVICE_LOCAL_MEM_SIZE);
  const bool images = ask<cl_bool>(cl, device, CL_DEVICE_IMAGE_SUPPORT);
  if (images) {
    facts.image_width = ask<size_t>(cl, device, CL_DEVICE_IMAGE2D_MAX_WIDTH);
    facts.image_height = ask<size_t>(cl, device, CL_DEVICE_IMAGE2D_MAX_HEIGHT);
    facts.pitch_alignment = ask<cl_uint>(cl, device, CL_DEVICE_IMAGE_PITCH_ALIGNMENT);
  }
  facts.compute_units = ask<cl_uint>(cl, device, CL_DEVICE_MAX_COMPUTE_UNITS);
  facts.alignment = ask<cl_uint>(cl, device, CL_DEVICE_MEM_BASE_ADDR_ALIGN) / 8;
  facts.capabilities = capabilities_of(cl, found, images);
}

int rank(const Facts& facts) {
  if (facts.kind == DeviceKind::gpu) return 0;
  return !facts.is_cpu ? 3 : Text(facts.platform).starts_with(kEmbedded) ? 1 : 2;
}

void remark(char* remarks, size_t room, const char* what, const char* why) {
  const size_t used = strlen(remarks);
  snprintf(remarks + used, room - used, "%s%s: %s", used ? "; " : "", what, why);
}

// What was found and why it is not used, in one line.
void show(List<FoundDevice>& found, const char* remarks, char* out, size_t room) {
  out[0] = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const Facts& facts = found[i].facts;
    const size_t used = strlen(out);
    snprintf(out + used, room - used, "%s%zu %s [%s]%s%s", used ? "; " : "", i, facts.name, facts.platform,
             facts.refused[0] ? ": " : "", facts.refused);
  }
  const size_t used = strlen(out);
  snprintf(out + used, room - used, "%s%s", used && remarks[0] ? "; " : "", remarks);
  if (!out[0]) snprintf(out, room, "no driver is installed");
}

void lower(const char* text, char* out, size_t room) {
  size_t size = 0;
  for (; text[size] && size + 1 < room; ++size) {
    out[size] = text[size] >= 'A' && text[size] <= 'Z' ? static_cast<char>(text[size] + 32) : text[size];
  }
  out[size] = 0;
}

// Whether a device is what `wanted`, in lower case, asks for by its index, its kind (0) or a part of its names (1).
bool fits(const Facts& facts, const char* wanted, int by) {
  if (by == 0) return strcmp(wanted, facts.index) == 0 || strcmp(wanted, name_of(facts.kind)) == 0;
  char text[1024], names[1024];
  snprintf(text, sizeof text, "%s %s %s", facts.name, facts.platform, facts.version);  // PoCL names itself only there
  lower(text, names, sizeof names);
  return !strchr(wanted, ':') && strstr(names, wanted);
}

}  // namespace

const char* name_of(DeviceKind kind) {
  constexpr const char* names[] = {"gpu", "cpu", "accelerator", "other"};
  return names[static_cast<size_t>(kind)];
}

DeviceLimits Facts::limits() const {
  return {name, version, capabilities | kSpelled, work_group, local_memory, allocation, image_width, image_height};
}

bool discover(const OpenCL& cl, List<FoundDevice>& out, char* remarks, size_t room, Error& error) {
  cl_platform_id platforms[kMostDevices];
  cl_uint count = 0;
  remarks[0] = 0;
  out.clear();
  const cl_int code = cl.clGetPlatformIDs(kMostDevices, platforms, &count);
  if (code != CL_SUCCESS && code != CL_PLATFORM_NOT_FOUND_KHR) {
    remark(remarks, room, opencl_library(), CodeName(code).text);
  }
  if (code != CL_SUCCESS) return true;
  for (cl_uint p = 0; p < min<cl_uint>(count, kMostDevices); ++p) {
    char name[256] = "";
    cl_device_id devices[kMostDevices];
    cl_uint devices_count = 0;
    cl.clGetPlatformInfo(platforms[p], CL_PLATFORM_NAME, sizeof name - 1, name, nullptr);
    const cl_int listed = cl.clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, kMostDevices, devices, &devices_count);
    if (listed != CL_SUCCESS) {
      remark(remarks, room, name, listed == CL_DEVICE_NOT_FOUND ? "it has no devices" : CodeName(listed).text);
      continue;
    }
    for (cl_uint d = 0; d < min<cl_uint>(devices_count, kMostDevices); ++d) {
      FoundDevice found = {};
      found.device = devices[d];
      snprintf(found.facts.index, sizeof found.facts.index, "%u:%u", p, d);
      describe(cl, platforms[p], found);
      // After those that rank as high: the order of equals is the library's.
      if (!out.push(found)) return Pool::no_memory(error, sizeof found);
      for (size_t i = out.size() - 1; i && rank(out[i - 1].facts) > rank(out[i].facts); --i) {
        found = out[i - 1];
        out[i - 1] = out[i];
        out[i] = found;
      }
    }
  }
  return true;
}

void examine(const OpenCL& cl, KernelCache& cache, FoundDevice& found) {
  Facts& facts = found.facts;
  const auto refuse = [&facts](const char* why) { snprintf(facts.refused, sizeof facts.refused, "%s", why); };
  if (strstr(facts.name, "FPGA") || strstr(facts.platform, "FPGA")) return refuse("an FPGA emulator");
  if (!facts.available) return refuse("its driver says it is not available, or has no compiler");
  if (!facts.little_endian) return refuse("it is big-endian");
  // Some drivers report a device for which they cannot compile, so a tiny kernel is built; once it was, that is
  // remembered.
  char key[65];
  Mapping file;
  Bytes built;
  const bool keyed = program_key(facts, kProbe, key);
  if (keyed && cache.load(key, file, built)) return;
  Program program;
  BuildFailure failure;
  failure.function = "clCreateContext";
  cl_context context = cl.clCreateContext(nullptr, 1, &found.device, nullptr, nullptr, &failure.code);
  if (context && compile_source(cl, context, found.device, kProbe, "probe", program, failure)) {
    u8 remembered[KernelCache::kHead + 5] = {};
    memcpy(remembered + KernelCache::kHead, "built", 5);
    if (keyed) cache.save(key, {remembered, sizeof remembered});
  } else {
    const Text line = telling_line(failure);
    if (line.size) {
      snprintf(facts.refused, sizeof facts.refused, "it cannot build a kernel: %.*s", OD_TEXT(line));
    } else {
      snprintf(facts.refused, sizeof facts.refused, "it cannot build a kernel: %s failed: %s", failure.function,
               CodeName(failure.code).text);
    }
  }
  release(cl, program);
  if (context) cl.clReleaseContext(context);
}

bool find_device(const OpenCL& cl, const char* spec, KernelCache& cache, FoundDevice& out, Error& error) {
  List<FoundDevice> found;
  char remarks[512], shown[1400], wanted[256];
  if (!discover(cl, found, remarks, sizeof remarks, error)) return false;
  const char* where = "--device";
  if (!spec || !spec[0]) {
    spec = variable(kVariable);
    where = kVariable;
  }
  const bool named = spec && spec[0];
  if (named) lower(spec, wanted, sizeof wanted);
  if (named) trim(wanted);
  const bool number = named && wanted[0] && wanted[strspn(wanted, "0123456789")] == 0;
  const FoundDevice* first = nullptr;
  for (int by = 0; by < 2 && !first; ++by) {
    for (size_t i = 0; i < found.size(); ++i) {
      if (number ? strtoull(wanted, nullptr, 10) != i : named && !fits(found[i].facts, wanted, by)) continue;
      examine(cl, cache, found[i]);
      if (!found[i].facts.refused[0]) {
        out = found[i];
        return true;
      }
      if (!first) first = &found[i];
    }
  }
  show(found, remarks, shown, sizeof shown);
  if (!named) return fail(error, Code::no_device, "", kInstall, "no usable OpenCL device (%s).", shown);
  const bool by_variable = strcmp(where, kVariable) == 0;
  if (!first) {
    return fail(error, Code::no_device, where,
                found.empty() ? kInstall
                : by_variable ? "unset ONDEVICE_DEVICE"
                              : kList,
                "no device fits '%s' (found: %s).", spec, shown);
  }
  return fail(error, Code::no_device, where, by_variable ? "unset ONDEVICE_DEVICE" : kList,
              "%s [%s] cannot be used: %s.", first->facts.name, first->facts.platform, first->facts.refused);
}

bool program_key(const Facts& facts, Text source, char out[65]) {
  List<char> features;
  if (facts.is_cpu && !cpu_features(features)) return false;
  const char* older = variable(kOlderCpu);
  const Text parts[] = {
      source,         kBuildOptions,          facts.name,
      facts.platform, facts.platform_version, facts.version,
      facts.driver,   older ? older : "",     {features.begin(), features.size()},
  };
  KernelCache::key({parts, sizeof parts / sizeof *parts}, out);
  return true;
}

}  // namespace od
