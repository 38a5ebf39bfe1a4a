// An OpenCL library that hands out another's functions, as Pixel phones' does, and says of its devices what it is told
// to: so that the host's device stands for a GPU of a phone.
//
// ODD_OPENCL: the library behind it. ODD_DEVICE: "NUMBER=VALUE ..." of clGetDeviceInfo, VALUE a number or, after
// a colon, a text in which + is a space ("0x1000=4 0x102B=:Adreno+750"). ODD_MISSING: a function that
// it has not.
#include <dlfcn.h>
#include <stdint.h>
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

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void enableOpenCL() { behind = dlopen(getenv("ODD_OPENCL"), RTLD_NOW); }

__attribute__((visibility("default"))) void* loadOpenCLPointer(const char* name) {
  const char* missing = getenv("ODD_MISSING");
  if (!behind || (missing && strcmp(missing, name) == 0)) return nullptr;
  if (strcmp(name, "clGetDeviceInfo") == 0) return reinterpret_cast<void*>(device_info);
  return dlsym(behind, name);
}
}
