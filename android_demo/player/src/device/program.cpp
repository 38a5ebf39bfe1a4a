#include "device/program.h"

#include <stdio.h>
#include <string.h>

namespace od {
namespace {

constexpr size_t kLogLines = 20, kLogBytes = 1 << 20;

// The next line of `rest` that is not blank, without spaces at its ends; empty at the end.
Text next_line(Text& rest) {
  while (rest.size) {
    const char* end = static_cast<const char*>(memchr(rest.data, '\n', rest.size));
    Text line(rest.data, end ? static_cast<size_t>(end - rest.data) : rest.size);
    const size_t taken = min(line.size + 1, rest.size);
    rest = {rest.data + taken, rest.size - taken};
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == 0; };
    while (line.size && blank(line.data[line.size - 1])) --line.size;
    size_t indent = 0;
    while (indent < line.size && blank(line.data[indent])) ++indent;
    if (indent < line.size) return line;
  }
  return {};
}

Text text_of(const List<char>& text) { return {text.begin(), text.size()}; }

bool contains(Text text, Text word, bool any_case = false) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  for (size_t i = 0; i + word.size <= text.size; ++i) {
    size_t k = 0;
    while (k < word.size &&
           (text.data[i + k] == word.data[k] || (any_case && lower(text.data[i + k]) == word.data[k]))) {
      ++k;
    }
    if (k == word.size) return true;
  }
  return false;
}

bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }

bool skip(Text& text, Text head) {
  if (!text.starts_with(head)) return false;
  text = {text.data + head.size, text.size - head.size};
  return true;
}

Text digits(Text& text) {
  size_t count = 0;
  while (count < text.size && text.data[count] >= '0' && text.data[count] <= '9') ++count;
  const Text found(text.data, count);
  text = {text.data + count, text.size - count};
  return found;
}

struct SourceLine {
  Text file, line, reason;
};

// `name.cl:LINE:COLUMN: error: reason`, as compilers by Clang write it, with quotation marks about the name or not.
bool find_place(Text text, SourceLine& out) {
  for (size_t i = 0; i + 3 <= text.size; ++i) {
    if (memcmp(text.data + i, ".cl", 3) != 0) continue;
    size_t from = i;
    while (from && is_word(text.data[from - 1])) --from;
    Text rest(text.data + i + 3, text.size - i - 3);
    skip(rest, "\"");
    if (from == i || !skip(rest, ":")) continue;
    const Text line = digits(rest);
    if (!line.size || !skip(rest, ":") || !digits(rest).size || !skip(rest, ": ")) continue;
    skip(rest, "fatal ");
    skip(rest, "error: ");
    if (!rest.size) continue;
    out = {{text.data + from, i + 3 - from}, line, rest};
    return true;
  }
  return false;
}

// The log of a build that failed.
void read_log(const OpenCL& cl, cl_program program, cl_device_id device, List<char>& log) {
  size_t size = 0;
  if (cl.clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size) != CL_SUCCESS || !size) return;
  if (size > kLogBytes || !log.resize(size)) return;
  if (cl.clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, size, log.begin(), nullptr) != CL_SUCCESS) {
    log.clear();
  }
}

bool compile(const OpenCL& cl, cl_device_id device, const char* entry, Program& out, BuildFailure& failure) {
  failure.function = "clBuildProgram";
  failure.code = cl.clBuildProgram(out.program, 1, &device, kBuildOptions, nullptr, nullptr);
  if (failure.code != CL_SUCCESS) {
    read_log(cl, out.program, device, failure.log);
  } else {
    failure.function = "clCreateKernel";
    out.kernel = cl.clCreateKernel(out.program, entry, &failure.code);
    if (out.kernel) {
      failure.function = "clGetKernelInfo";
      failure.code = cl.clGetKernelInfo(out.kernel, CL_KERNEL_NUM_ARGS, sizeof out.arguments, &out.arguments, nullptr);
    }
  }
  if (failure.code == CL_SUCCESS && out.kernel) return true;
  release(cl, out);
  return false;
}

}  // namespace

bool compile_source(const OpenCL& cl, cl_context context, cl_device_id device, Text source, const char* entry,
                    Program& out, BuildFailure& failure) {
  failure.function = "clCreateProgramWithSource";
  out.program = cl.clCreateProgramWithSource(context, 1, &source.data, &source.size, &failure.code);
  return out.program && compile(cl, device, entry, out, failure);
}

bool compile_binary(const OpenCL& cl, cl_context context, cl_device_id device, Bytes binary, const char* entry,
                    Program& out, BuildFailure& failure) {
  cl_int status = CL_SUCCESS;
  failure.function = "clCreateProgramWithBinary";
  out.program = cl.clCreateProgramWithBinary(context, 1, &device, &binary.count, &binary.data, &status, &failure.code);
  return out.program && compile(cl, device, entry, out, failure);
}

void release(const OpenCL& cl, Program& program) {
  if (program.kernel) cl.clReleaseKernel(program.kernel);
  if (program.program) cl.clReleaseProgram(program.program);
  program = {};
}

bool binary_of(const OpenCL& cl, const Program& program, size_t head, List<u8>& file) {
  size_t size = 0;
  if (cl.clGetProgramInfo(program.program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr) != CL_SUCCESS) {
    return false;
  }
  if (!size || size > kMaxBytes || !file.resize(head + size)) return false;
  u8* binary = file.begin() + head;
  return cl.clGetProgramInfo(program.program, CL_PROGRAM_BINARIES, sizeof binary, &binary, nullptr) == CL_SUCCESS;
}

bool refuse_build(const BuildFailure& failure, const Facts& facts, Text where, Error& error) {
  char reason[512], shown[1024] = "";
  snprintf(reason, sizeof reason, "%s failed: %s", failure.function, CodeName(failure.code).text);
  size_t lines = 0, used = 0;
  bool placed = false;
  Text rest = text_of(failure.log);
  for (Text line = next_line(rest); line.size; line = next_line(rest)) {
    SourceLine place;
    if (!placed && contains(line, "error") && find_place(line, place)) {
      placed = true;
      snprintf(reason, sizeof reason, "line %.*s of %.*s: %.*s", OD_TEXT(place.line), OD_TEXT(place.file),
               OD_TEXT(place.reason));
    }
    if (++lines >= kLogLines || used >= sizeof shown) continue;
    const int size = snprintf(shown + used, sizeof shown - used, "\n%.*s", OD_TEXT(line));
    used += static_cast<size_t>(max(size, 0));
  }
  if (lines >= kLogLines && used < sizeof shown) {
    snprintf(shown + used, sizeof shown - used, "\n... %zu more lines", lines - kLogLines + 1);
  }
  return fail(error, Code::kernel_build, where, "", "the driver of %s (%s %s) refused it: %s%s", facts.name,
              facts.platform, facts.driver, reason, shown);
}

Text telling_line(const BuildFailure& failure) {
  Text rest = text_of(failure.log), first;
  for (Text line = next_line(rest); line.size; line = next_line(rest)) {
    if (!first.size) first = line;
    if (contains(line, "error", true) || contains(line, "unknown", true)) return line;
  }
  return first;
}

}  // namespace od
