// One launch of a kernel in a process of its own, built with the address and undefined-behaviour sanitizers: every
// operand is an allocation of exactly its size. Reads a job from the standard input (device.py writes it) and writes
// the operands' bytes, as they are afterwards, to the standard output.
#include <cstdio>
#include <cstdlib>

#include "metal_stdlib"

extern "C" long shim_run(void** operands, const unsigned* groups, const unsigned* sizes, unsigned width, int reverse,
                         char* why, unsigned long why_size);

static void take(void* to, unsigned long size) {
  if (fread(to, 1, size, stdin) != size) exit(2);
}

int main() {
  struct { unsigned count, width, reverse, groups[3], sizes[3]; } job;
  take(&job, sizeof job);
  void** operands = (void**)calloc(job.count + 1, sizeof(void*));
  struct Operand { unsigned is_texture, size, width, height, pitch, half_storage; void* bytes; };
  Operand* given = (Operand*)calloc(job.count + 1, sizeof(Operand));
  for (unsigned i = 0; i < job.count; i++) {
    Operand& one = given[i];
    take(&one, 6 * sizeof(unsigned));
    one.bytes = malloc(one.size);
    take(one.bytes, one.size);
    operands[i] = one.is_texture
        ? new shim::Texture{one.bytes, one.width, one.height, one.pitch, one.half_storage} : one.bytes;
  }
  char why[1000];
  const long local = shim_run(operands, job.groups, job.sizes, job.width, job.reverse, why, sizeof why);
  fwrite(&local, 1, sizeof local, stdout);
  for (unsigned i = 0; i < job.count; i++) fwrite(given[i].bytes, 1, given[i].size, stdout);
  return 0;
}
