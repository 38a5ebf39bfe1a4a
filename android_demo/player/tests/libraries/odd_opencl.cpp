// An OpenCL library that hands out another's functions, as Pixel phones' does, and says of its devices what it is told
// to: so that the host's device stands for a GPU of a phone.
//
// ODD_OPENCL: the library behind it. ODD_DEVICE: "NUMBER=VALUE ..." of clGetDeviceInfo, VALUE a number or, after
// a colon, a text in which + is a space ("0x1000=4 0x102B=:Adreno+750"). ODD_MISSING: a function that
// it has not. ODD_COUNT: say at the end how many objects of each kind are there still, and how many were at most.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

using DeviceInfo = int32_t (*)(void*, uint32_t, size_t, void*, size_t*);

void* behind = nullptr;

// What ODD_DEVICE says of `what`, or null.
const char* told(uint32_t what) {
  const char* at = getenv("ODD_DEVICE");
  while (at && *at) {
    char* end;
    const unsigned long number = strtoul(at, &end, 0);
    if (*end == '=' && number == what) return end + 1;
    at = strchr(at, ' ');
    if (at) ++at;
  }
  return nullptr;
}

int32_t device_info(void* device, uint32_t what, size_t room, void* out, size_t* size) {
  const auto real = reinterpret_cast<DeviceInfo>(dlsym(behind, "clGetDeviceInfo"));
  const char* value = told(what);
  if (!value) return real(device, what, room, out, size);
  if (*value == ':') {
    const size_t length = strcspn(value + 1, " ");
    if (size) *size = length + 1;
    if (!out) return 0;
    if (room < length + 1) return -30;
    auto* text = static_cast<char*>(out);
    for (size_t i = 0; i < length; ++i) text[i] = value[1 + i] == '+' ? ' ' : value[1 + i];
    text[length] = 0;
    return 0;
  }
  const uint64_t number = strtoull(value, nullptr, 0);
  if (out) memcpy(out, &number, room < sizeof number ? room : sizeof number);
  return 0;
}

// Objects of one kind. Every function that makes or gives one back has at most eight arguments, all of them words.
enum Kind { kMemory, kPrograms, kKernels, kEvents, kQueues, kContexts, kKinds };
constexpr const char* kNames[] = {"memory", "programs", "kernels", "events", "queues", "contexts"};
int live[kKinds], most[kKinds];

void made(Kind kind) {
  if (++live[kind] > most[kind]) most[kind] = live[kind];
}

using Word = intptr_t;
using Function = Word (*)(Word, Word, Word, Word, Word, Word, Word, Word);

template <int number>
struct Wrapped {
  static Function real;
  static Kind kind;

  static Word make(Word a, Word b, Word c, Word d, Word e, Word f, Word g, Word h) {
    const Word object = real(a, b, c, d, e, f, g, h);
    if (object) made(kind);
    return object;
  }
  static Word give_back(Word a, Word b, Word c, Word d, Word e, Word f, Word g, Word h) {
    --live[kind];
    return real(a, b, c, d, e, f, g, h);
  }
};
template <int number>
Function Wrapped<number>::real;
template <int number>
Kind Wrapped<number>::kind;

int32_t enqueue(void* queue, void* kernel, uint32_t dimensions, const size_t* offset, const size_t* grid,
                const size_t* group, uint32_t waits, void* wait, void** event) {
  const auto real = reinterpret_cast<decltype(&enqueue)>(dlsym(behind, "clEnqueueNDRangeKernel"));
  const int32_t code = real(queue, kernel, dimensions, offset, grid, group, waits, wait, event);
  if (event && !code) made(kEvents);
  return code;
}

struct Counted {
  const char* name;
  Kind kind;
};
constexpr Counted kMade[] = {{"clCreateBuffer", kMemory},
                             {"clCreateSubBuffer", kMemory},
                             {"clCreateImage", kMemory},
                             {"clCreateProgramWithSource", kPrograms},
                             {"clCreateProgramWithBinary", kPrograms},
                             {"clCreateKernel", kKernels},
                             {"clCreateCommandQueue", kQueues},
                             {"clCreateContext", kContexts}};
constexpr Counted kGivenBack[] = {{"clReleaseMemObject", kMemory},    {"clReleaseProgram", kPrograms},
                                  {"clReleaseKernel", kKernels},      {"clReleaseEvent", kEvents},
                                  {"clReleaseCommandQueue", kQueues}, {"clReleaseContext", kContexts}};

template <int number>
void* wrapped(const char* name) {
  if constexpr (number < 8) {
    if (strcmp(name, kMade[number].name) == 0) {
      Wrapped<number>::real = reinterpret_cast<Function>(dlsym(behind, name));
      Wrapped<number>::kind = kMade[number].kind;
      return reinterpret_cast<void*>(Wrapped<number>::make);
    }
    return wrapped<number + 1>(name);
  } else if constexpr (number < 14) {
    if (strcmp(name, kGivenBack[number - 8].name) == 0) {
      Wrapped<number>::real = reinterpret_cast<Function>(dlsym(behind, name));
      Wrapped<number>::kind = kGivenBack[number - 8].kind;
      return reinterpret_cast<void*>(Wrapped<number>::give_back);
    }
    return wrapped<number + 1>(name);
  } else {
    return nullptr;
  }
}

__attribute__((destructor)) void report() {
  for (int kind = 0; getenv("ODD_COUNT") && kind < kKinds; ++kind) {
    fprintf(stderr, "%s: %d, at most %d\n", kNames[kind], live[kind], most[kind]);
  }
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void enableOpenCL() { behind = dlopen(getenv("ODD_OPENCL"), RTLD_NOW); }

__attribute__((visibility("default"))) void* loadOpenCLPointer(const char* name) {
  const char* missing = getenv("ODD_MISSING");
  if (!behind || (missing && strcmp(missing, name) == 0)) return nullptr;
  if (strcmp(name, "clGetDeviceInfo") == 0) return reinterpret_cast<void*>(device_info);
  if (strcmp(name, "clEnqueueNDRangeKernel") == 0) return reinterpret_cast<void*>(enqueue);
  void* counted = wrapped<0>(name);
  return counted ? counted : dlsym(behind, name);
}
}
