#include "device/opencl.h"

#include <stdio.h>
#include <string.h>

#include "base/os.h"

namespace od {
namespace {

constexpr const char* kVariable = "ONDEVICE_OPENCL";
// Names first: the system then looks where an app may (Android: `uses-native-library` in the manifest).
constexpr const char* kLibraries[] = {
    "libOpenCL.so",
    "libOpenCL.so.1",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/vendor/lib64/egl/libGLES_mali.so",
    "/vendor/lib64/libPVROCL.so",
    "/system/vendor/lib64/libPVROCL.so",
    "libOpenCL-pixel.so",
};
#ifdef __ANDROID__
constexpr const char* kInstall =
    "use a phone whose maker lets apps use OpenCL, and name libOpenCL.so under uses-native-library in the app's "
    "manifest";
#else
constexpr const char* kInstall =
    "install your GPU vendor's OpenCL driver, or apt-get install pocl-opencl-icd, or name the library in "
    "ONDEVICE_OPENCL";
#endif

struct Symbol {
  const char* name;
  size_t place;
};
#define OD_SYMBOL(name) \
  { #name, offsetof(OpenCL, name) }
constexpr Symbol kSymbols[] = {
    OD_SYMBOL(clGetPlatformIDs),
    OD_SYMBOL(clGetPlatformInfo),
    OD_SYMBOL(clGetDeviceIDs),
    OD_SYMBOL(clGetDeviceInfo),
    OD_SYMBOL(clCreateContext),
    OD_SYMBOL(clReleaseContext),
    OD_SYMBOL(clCreateCommandQueue),
    OD_SYMBOL(clReleaseCommandQueue),
    OD_SYMBOL(clCreateProgramWithSource),
    OD_SYMBOL(clCreateProgramWithBinary),
    OD_SYMBOL(clBuildProgram),
    OD_SYMBOL(clGetProgramInfo),
    OD_SYMBOL(clGetProgramBuildInfo),
    OD_SYMBOL(clReleaseProgram),
    OD_SYMBOL(clCreateKernel),
    OD_SYMBOL(clGetKernelInfo),
    OD_SYMBOL(clSetKernelArg),
    OD_SYMBOL(clReleaseKernel),
    OD_SYMBOL(clCreateBuffer),
    OD_SYMBOL(clCreateSubBuffer),
    OD_SYMBOL(clCreateImage),
    OD_SYMBOL(clReleaseMemObject),
    OD_SYMBOL(clEnqueueReadBuffer),
    OD_SYMBOL(clEnqueueWriteBuffer),
    OD_SYMBOL(clEnqueueCopyBuffer),
    OD_SYMBOL(clEnqueueNDRangeKernel),
    OD_SYMBOL(clWaitForEvents),
    OD_SYMBOL(clGetEventProfilingInfo),
    OD_SYMBOL(clReleaseEvent),
    OD_SYMBOL(clFinish),
};
#undef OD_SYMBOL
static_assert(sizeof(kSymbols) / sizeof(Symbol) == sizeof(OpenCL) / sizeof(void*), "every function is looked up");

using Enable = void (*)();
using Loader = void* (*)(const char* name);

OpenCL table;
char opened[256];
bool ready = false;  // read by several threads
bool busy = false;

struct Lock {
  Lock() {
    while (__atomic_test_and_set(&busy, __ATOMIC_ACQUIRE)) {
    }
  }
  ~Lock() { __atomic_clear(&busy, __ATOMIC_RELEASE); }
};

// Every function of one library, or why not, added to `tried`. Pixel phones' library gives them only by a function of
// its own.
bool load(const char* name, char* tried, size_t room) {
  void* library = open_library(name);
  const char* why = library ? nullptr : library_error();
  char missing[96];
  if (library) {
    Loader loader = nullptr;
    if (auto enable = reinterpret_cast<Enable>(find_symbol(library, "enableOpenCL"))) {
      enable();
      loader = reinterpret_cast<Loader>(find_symbol(library, "loadOpenCLPointer"));
    }
    for (const Symbol& symbol : kSymbols) {
      void* found = loader ? loader(symbol.name) : find_symbol(library, symbol.name);
      if (!found) {
        snprintf(missing, sizeof missing, "it has no %s", symbol.name);
        why = missing;
        break;
      }
      memcpy(reinterpret_cast<char*>(&table) + symbol.place, &found, sizeof found);
    }
  }
  if (!why) {
    snprintf(opened, sizeof opened, "%s", name);
    return true;
  }
  // glibc's reason begins with the name.
  const size_t size = strlen(name), used = strlen(tried);
  if (strncmp(why, name, size) == 0 && strncmp(why + size, ": ", 2) == 0) why += size + 2;
  snprintf(tried + used, room - used, "%s%s: %s", used ? "; " : "", name, why);
  return false;
}

struct Named {
  cl_int code;
  const char* name;
};
constexpr Named kCodes[] = {
    {0, "SUCCESS"},
    {-1, "DEVICE_NOT_FOUND"},
    {-2, "DEVICE_NOT_AVAILABLE"},
    {-3, "COMPILER_NOT_AVAILABLE"},
    {-4, "MEM_OBJECT_ALLOCATION_FAILURE"},
    {-5, "OUT_OF_RESOURCES"},
    {-6, "OUT_OF_HOST_MEMORY"},
    {-7, "PROFILING_INFO_NOT_AVAILABLE"},
    {-8, "MEM_COPY_OVERLAP"},
    {-9, "IMAGE_FORMAT_MISMATCH"},
    {-10, "IMAGE_FORMAT_NOT_SUPPORTED"},
    {-11, "BUILD_PROGRAM_FAILURE"},
    {-12, "MAP_FAILURE"},
    {-13, "MISALIGNED_SUB_BUFFER_OFFSET"},
    {-14, "EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST"},
    {-15, "COMPILE_PROGRAM_FAILURE"},
    {-16, "LINKER_NOT_AVAILABLE"},
    {-17, "LINK_PROGRAM_FAILURE"},
    {-18, "DEVICE_PARTITION_FAILED"},
    {-19, "KERNEL_ARG_INFO_NOT_AVAILABLE"},
    {-30, "INVALID_VALUE"},
    {-31, "INVALID_DEVICE_TYPE"},
    {-32, "INVALID_PLATFORM"},
    {-33, "INVALID_DEVICE"},
    {-34, "INVALID_CONTEXT"},
    {-35, "INVALID_QUEUE_PROPERTIES"},
    {-36, "INVALID_COMMAND_QUEUE"},
    {-37, "INVALID_HOST_PTR"},
    {-38, "INVALID_MEM_OBJECT"},
    {-39, "INVALID_IMAGE_FORMAT_DESCRIPTOR"},
    {-40, "INVALID_IMAGE_SIZE"},
    {-41, "INVALID_SAMPLER"},
    {-42, "INVALID_BINARY"},
    {-43, "INVALID_BUILD_OPTIONS"},
    {-44, "INVALID_PROGRAM"},
    {-45, "INVALID_PROGRAM_EXECUTABLE"},
    {-46, "INVALID_KERNEL_NAME"},
    {-47, "INVALID_KERNEL_DEFINITION"},
    {-48, "INVALID_KERNEL"},
    {-49, "INVALID_ARG_INDEX"},
    {-50, "INVALID_ARG_VALUE"},
    {-51, "INVALID_ARG_SIZE"},
    {-52, "INVALID_KERNEL_ARGS"},
    {-53, "INVALID_WORK_DIMENSION"},
    {-54, "INVALID_WORK_GROUP_SIZE"},
    {-55, "INVALID_WORK_ITEM_SIZE"},
    {-56, "INVALID_GLOBAL_OFFSET"},
    {-57, "INVALID_EVENT_WAIT_LIST"},
    {-58, "INVALID_EVENT"},
    {-59, "INVALID_OPERATION"},
    {-60, "INVALID_GL_OBJECT"},
    {-61, "INVALID_BUFFER_SIZE"},
    {-62, "INVALID_MIP_LEVEL"},
    {-63, "INVALID_GLOBAL_WORK_SIZE"},
    {-64, "INVALID_PROPERTY"},
    {-65, "INVALID_IMAGE_DESCRIPTOR"},
    {-1001, "PLATFORM_NOT_FOUND_KHR"},
};

}  // namespace

const OpenCL* opencl(Error& error) {
  Lock lock;
  if (ready) return &table;
  char tried[1200] = "";
  if (const char* given = variable(kVariable); given && given[0]) {
    ready = load(given, tried, sizeof tried);
    if (!ready) {
      fail(error, Code::no_device, kVariable, "unset ONDEVICE_OPENCL, or name an OpenCL library",
           "no OpenCL library can be used of what it names (%s).", tried);
    }
  } else {
    for (const char* name : kLibraries) {
      if ((ready = load(name, tried, sizeof tried))) break;
    }
    if (!ready) fail(error, Code::no_device, "OpenCL", kInstall, "there is no OpenCL library (%s).", tried);
  }
  return ready ? &table : nullptr;
}

const char* opencl_library() { return opened; }

CodeName::CodeName(cl_int code) {
  for (const Named& known : kCodes) {
    if (known.code == code) {
      snprintf(text, sizeof text, "%s", known.name);
      return;
    }
  }
  snprintf(text, sizeof text, "code %d", static_cast<int>(code));
}

}  // namespace od
