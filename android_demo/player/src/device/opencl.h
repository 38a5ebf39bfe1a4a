// The part of OpenCL 1.2 that the player uses, declared here: nothing of it is linked, and no header of an SDK is
// needed.
#pragma once

#include "base/base.h"

namespace od {

using cl_int = i32;
using cl_uint = u32;
using cl_ulong = u64;
using cl_bool = cl_uint;
using cl_bitfield = cl_ulong;

using cl_platform_id = struct OpaquePlatform*;
using cl_device_id = struct OpaqueDevice*;
using cl_context = struct OpaqueContext*;
using cl_command_queue = struct OpaqueQueue*;
using cl_mem = struct OpaqueMemory*;
using cl_program = struct OpaqueProgram*;
using cl_kernel = struct OpaqueKernel*;
using cl_event = struct OpaqueEvent*;

struct cl_image_format {
  cl_uint order, type;
};

struct cl_image_desc {
  cl_uint type;
  size_t width, height, depth, array_size, row_pitch, slice_pitch;
  cl_uint mip_levels, samples;
  cl_mem buffer;
};

struct cl_buffer_region {
  size_t origin, size;
};

enum : cl_int {
  CL_SUCCESS = 0,
  CL_DEVICE_NOT_FOUND = -1,
  CL_MEM_OBJECT_ALLOCATION_FAILURE = -4,
  CL_OUT_OF_RESOURCES = -5,
  CL_OUT_OF_HOST_MEMORY = -6,
  CL_INVALID_ARG_INDEX = -49,
  CL_INVALID_BUFFER_SIZE = -61,
  CL_PLATFORM_NOT_FOUND_KHR = -1001,
};

enum : cl_uint {
  CL_FALSE = 0,
  CL_TRUE = 1,
  CL_PLATFORM_VERSION = 0x0901,
  CL_PLATFORM_NAME = 0x0902,
  CL_DEVICE_TYPE = 0x1000,
  CL_DEVICE_MAX_COMPUTE_UNITS = 0x1002,
  CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004,
  CL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010,
  CL_DEVICE_IMAGE2D_MAX_WIDTH = 0x1011,
  CL_DEVICE_IMAGE2D_MAX_HEIGHT = 0x1012,
  CL_DEVICE_IMAGE_SUPPORT = 0x1016,
  CL_DEVICE_MEM_BASE_ADDR_ALIGN = 0x1019,  // bits
  CL_DEVICE_GLOBAL_MEM_SIZE = 0x101F,
  CL_DEVICE_LOCAL_MEM_SIZE = 0x1023,
  CL_DEVICE_ENDIAN_LITTLE = 0x1026,
  CL_DEVICE_AVAILABLE = 0x1027,
  CL_DEVICE_COMPILER_AVAILABLE = 0x1028,
  CL_DEVICE_NAME = 0x102B,
  CL_DEVICE_VENDOR = 0x102C,
  CL_DRIVER_VERSION = 0x102D,
  CL_DEVICE_VERSION = 0x102F,
  CL_DEVICE_EXTENSIONS = 0x1030,
  CL_DEVICE_IMAGE_PITCH_ALIGNMENT = 0x104A,  // texels; of OpenCL 2.0 and cl_khr_image2d_from_buffer
  CL_PROGRAM_BINARY_SIZES = 0x1165,
  CL_PROGRAM_BINARIES = 0x1166,
  CL_PROGRAM_BUILD_LOG = 0x1183,
  CL_KERNEL_NUM_ARGS = 0x1191,
  CL_PROFILING_COMMAND_START = 0x1282,
  CL_PROFILING_COMMAND_END = 0x1283,
  CL_BUFFER_CREATE_TYPE_REGION = 0x1220,
  CL_MEM_OBJECT_IMAGE2D = 0x10F1,
  CL_RGBA = 0x10B5,
  CL_HALF_FLOAT = 0x10DD,
  CL_FLOAT = 0x10DE,
};

enum : cl_bitfield {
  CL_DEVICE_TYPE_CPU = 1 << 1,
  CL_DEVICE_TYPE_GPU = 1 << 2,
  CL_DEVICE_TYPE_ACCELERATOR = 1 << 3,
  CL_DEVICE_TYPE_ALL = 0xFFFFFFFF,
  CL_MEM_READ_WRITE = 1 << 0,
  CL_MEM_READ_ONLY = 1 << 2,
  CL_MEM_USE_HOST_PTR = 1 << 3,
  CL_QUEUE_PROFILING_ENABLE = 1 << 1,
};

// Functions of the library, in the order of their use.
struct OpenCL {
  cl_int (*clGetPlatformIDs)(cl_uint room, cl_platform_id* platforms, cl_uint* count);
  cl_int (*clGetPlatformInfo)(cl_platform_id, cl_uint what, size_t room, void* out, size_t* size);
  cl_int (*clGetDeviceIDs)(cl_platform_id, cl_bitfield type, cl_uint room, cl_device_id* devices, cl_uint* count);
  cl_int (*clGetDeviceInfo)(cl_device_id, cl_uint what, size_t room, void* out, size_t* size);
  cl_context (*clCreateContext)(const intptr_t* properties, cl_uint count, const cl_device_id* devices,
                                void (*notify)(const char*, const void*, size_t, void*), void* user, cl_int* code);
  cl_int (*clReleaseContext)(cl_context);
  cl_command_queue (*clCreateCommandQueue)(cl_context, cl_device_id, cl_bitfield properties, cl_int* code);
  cl_int (*clReleaseCommandQueue)(cl_command_queue);
  cl_program (*clCreateProgramWithSource)(cl_context, cl_uint count, const char** texts, const size_t* sizes,
                                          cl_int* code);
  cl_program (*clCreateProgramWithBinary)(cl_context, cl_uint count, const cl_device_id* devices, const size_t* sizes,
                                          const u8** binaries, cl_int* statuses, cl_int* code);
  cl_int (*clBuildProgram)(cl_program, cl_uint count, const cl_device_id* devices, const char* options,
                           void (*notify)(cl_program, void*), void* user);
  cl_int (*clGetProgramInfo)(cl_program, cl_uint what, size_t room, void* out, size_t* size);
  cl_int (*clGetProgramBuildInfo)(cl_program, cl_device_id, cl_uint what, size_t room, void* out, size_t* size);
  cl_int (*clReleaseProgram)(cl_program);
  cl_kernel (*clCreateKernel)(cl_program, const char* name, cl_int* code);
  cl_int (*clGetKernelInfo)(cl_kernel, cl_uint what, size_t room, void* out, size_t* size);
  cl_int (*clSetKernelArg)(cl_kernel, cl_uint index, size_t size, const void* value);
  cl_int (*clReleaseKernel)(cl_kernel);
  cl_mem (*clCreateBuffer)(cl_context, cl_bitfield flags, size_t size, void* host, cl_int* code);
  cl_mem (*clCreateSubBuffer)(cl_mem, cl_bitfield flags, cl_uint type, const void* region, cl_int* code);
  cl_mem (*clCreateImage)(cl_context, cl_bitfield flags, const cl_image_format*, const cl_image_desc*, void* host,
                          cl_int* code);
  cl_int (*clReleaseMemObject)(cl_mem);
  cl_int (*clEnqueueReadBuffer)(cl_command_queue, cl_mem, cl_bool blocking, size_t offset, size_t size, void* out,
                                cl_uint waits, const cl_event* wait, cl_event* event);
  cl_int (*clEnqueueWriteBuffer)(cl_command_queue, cl_mem, cl_bool blocking, size_t offset, size_t size,
                                 const void* data, cl_uint waits, const cl_event* wait, cl_event* event);
  cl_int (*clEnqueueCopyBuffer)(cl_command_queue, cl_mem from, cl_mem to, size_t from_offset, size_t to_offset,
                                size_t size, cl_uint waits, const cl_event* wait, cl_event* event);
  cl_int (*clEnqueueNDRangeKernel)(cl_command_queue, cl_kernel, cl_uint dimensions, const size_t* offset,
                                   const size_t* grid, const size_t* group, cl_uint waits, const cl_event* wait,
                                   cl_event* event);
  cl_int (*clWaitForEvents)(cl_uint count, const cl_event* events);
  cl_int (*clGetEventProfilingInfo)(cl_event, cl_uint what, size_t room, void* out, size_t* size);
  cl_int (*clReleaseEvent)(cl_event);
  cl_int (*clFinish)(cl_command_queue);
};

// The library of this process. It is opened once and stays: that which the variable ONDEVICE_OPENCL names, else the
// first that there is of the system's and of phones' vendors. Null, with Code::no_device, where there is none.
const OpenCL* opencl(Error& error);

// The library that is open, for people; empty where none is.
const char* opencl_library();

// A driver's code by name, such as "OUT_OF_RESOURCES"; of one without a name its number, in `room` bytes.
struct CodeName {
  char text[48];
  explicit CodeName(cl_int code);
};

}  // namespace od
