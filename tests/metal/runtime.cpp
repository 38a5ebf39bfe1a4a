// Runs the work-items of a Metal kernel that build.py compiled for the CPU: one fiber each, switched at barriers and
// where a SIMD-group exchanges values. A SIMD-group runs as far as the next barrier before the next one starts, the
// lanes of each one after another, so that whoever needs a barrier that is not there finds old values: those of later
// work-items forward, of earlier ones in reverse.
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "metal_stdlib"
#if defined(__x86_64__) && !defined(SHIM_UCONTEXT)
#define SHIM_SWITCH  // by a few instructions: ten times as fast as the C library's contexts
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace {
using shim::AREA;
using shim::Item;
constexpr unsigned MOST = 1024;                        // work-items of a work-group
constexpr unsigned NARROWEST = 8;                      // lanes of a SIMD-group
constexpr unsigned long STACK = 512 << 10, GUARD = 4096;  // a page under each stack that may not be touched
constexpr int LONGEST = 20;                            // seconds of a launch
constexpr unsigned LOCALS = 64;                        // variables in threadgroup memory

enum State { READY, AT_SIMD, AT_GROUP, DONE };
struct Fiber {
  Item item;
  State state;
  int line;  // where it waits
  char* stack;
  void* pointer;       // with SHIM_SWITCH: its stack pointer while others run
  ucontext_t context;  // without
};
Fiber fibers[MOST];
Fiber* running;
void* scheduler;
ucontext_t scheduler_context;
void (*body)(void*);
void* operands;

alignas(64) unsigned char areas[2][MOST / NARROWEST][AREA];
struct { void* start; unsigned long size; } locals[LOCALS];
unsigned local_count;
bool fresh[LOCALS];  // whether this work-group has come to it

char* message;
unsigned long message_size;
sigjmp_buf launch_start;

[[noreturn]] void refuse(const char* format, ...) {
  va_list given;
  va_start(given, format);
  vsnprintf(message, message_size, format, given);
  va_end(given);
#ifdef __SANITIZE_ADDRESS__
  fprintf(stderr, "%s\n", message);
  _exit(1);
#endif
  siglongjmp(launch_start, 1);
}

// Switching ------------------------------------------------------------------------------------------------------------

#ifdef SHIM_SWITCH
// Saves what a call must keep and the stack, and goes on where the other one left off.
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.text
.type shim_switch, @function
shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#endif

#ifdef __SANITIZE_ADDRESS__
const void* scheduler_stack;
unsigned long scheduler_size;
void* scheduler_fake;
#define LEAVE(fake, stack, size) __sanitizer_start_switch_fiber(fake, stack, size)
#define ARRIVE(fake, stack, size) __sanitizer_finish_switch_fiber(fake, stack, size)
#else
#define LEAVE(fake, stack, size)
#define ARRIVE(fake, stack, size)
#endif

void to_scheduler() {
#ifdef SHIM_SWITCH
  shim_switch(&running->pointer, scheduler);
#else
  swapcontext(&running->context, &scheduler_context);
#endif
}

void resume(Fiber& fiber) {
  running = &fiber;
  shim::shim_item = &fiber.item;
  fiber.state = READY;
  LEAVE(&scheduler_fake, fiber.stack + GUARD, STACK - GUARD);
#ifdef SHIM_SWITCH
  shim_switch(&scheduler, fiber.pointer);
#else
  swapcontext(&scheduler_context, &fiber.context);
#endif
  ARRIVE(scheduler_fake, nullptr, nullptr);
}

void first_call() {
  ARRIVE(nullptr, &scheduler_stack, &scheduler_size);
  body(operands);
  running->state = DONE;
  LEAVE(nullptr, scheduler_stack, scheduler_size);
  to_scheduler();
  __builtin_trap();
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, GUARD, PROT_NONE)) refuse("no memory for the work-items' stacks");
    fiber.stack = (char*)stack;
  }
  fiber.state = READY;
#ifdef SHIM_SWITCH
  void** top = (void**)(fiber.stack + STACK - 16);
  *--top = nullptr;  // where first_call would return to: keeps its stack aligned as after a call
  *--top = (void*)first_call;
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  fiber.pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack + GUARD;
  fiber.context.uc_stack.ss_size = STACK - GUARD;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, first_call, 0);
#endif
}

// Scheduling -----------------------------------------------------------------------------------------------------------

// What `count` work-items from `first` on wait for, if it is the same; READY where it is a place of the SIMD-group.
State common(unsigned first, unsigned count, const char* who) {
  const Fiber& one = fibers[first];
  for (unsigned i = first; i < first + count; i++)
    if (fibers[i].state != one.state || (one.state != DONE && fibers[i].line != one.line)) {
      const Fiber &here = one.state == DONE ? fibers[i] : one, &there = one.state == DONE ? one : fibers[i];
      if (there.state == DONE)
        refuse("line %d: work-item %u waits for its %s, and %u has ended", here.line, here.item.index, who,
               there.item.index);
      refuse("work-items %u and %u of a %s wait at different places: lines %d and %d", here.item.index,
             there.item.index, who, here.line, there.line);
    }
  return one.state;
}

void run_group(unsigned count, unsigned width, bool reverse) {
  const unsigned simdgroups = (count + width - 1) / width;
  do {
    for (unsigned s = 0; s < simdgroups; s++) {
      const unsigned first = (reverse ? simdgroups - 1 - s : s) * width, lanes = fibers[first].item.lanes;
      do
        for (unsigned lane = 0; lane < lanes; lane++) resume(fibers[first + (reverse ? lanes - 1 - lane : lane)]);
      while (common(first, lanes, "SIMD-group") == AT_SIMD);
    }
  } while (common(0, count, "work-group") == AT_GROUP);
}

void crashed(int signal, siginfo_t* info, void*) {
  const int line = running ? running->line : 0;
  if (signal == SIGVTALRM) refuse("it ran for more than %d seconds; the last place it waited at: line %d", LONGEST, line);
  refuse("signal %d (%s) at address %p; the last place it waited at: line %d", signal, strsignal(signal),
         info->si_addr, line);
}
}  // namespace

extern "C" {
Item* shim_item;

void shim_wait(bool whole_group, int line) {
  running->state = whole_group ? AT_GROUP : AT_SIMD;
  running->line = line;
#ifdef __SANITIZE_ADDRESS__
  void* fake;
  LEAVE(&fake, scheduler_stack, scheduler_size);
#endif
  to_scheduler();
  ARRIVE(fake, &scheduler_stack, &scheduler_size);
}

unsigned char* shim_area(unsigned simdgroup, unsigned turn) { return areas[turn][simdgroup]; }

void shim_refuse(const char* why, int line) { refuse("line %d: %s", line, why); }

// Threadgroup memory starts undefined: what this work-group has not written is NaN.
void shim_local(void* start, unsigned long size) {
  unsigned i = 0;
  while (i < local_count && locals[i].start != start) i++;
  if (i == LOCALS) refuse("more than %u variables in threadgroup memory", LOCALS);
  if (i == local_count) {
    locals[local_count++] = {start, size};
    fresh[i] = true;
  }
  if (fresh[i]) memset(start, 0xFF, size);
  fresh[i] = false;
}

// Run `call` for every work-item of `groups` work-groups of `sizes` work-items. `plain`: it has no barriers and nothing
// that a SIMD-group does together. Returns the bytes of threadgroup memory, or -1 where the launch was refused, with the
// reason in `why`.
long shim_launch(void (*call)(void*), void* given, const unsigned* groups, const unsigned* sizes, unsigned width,
                 int reverse, int plain, char* why, unsigned long why_size) {
  static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGVTALRM};
  const int kinds = sizeof signals / sizeof *signals;
  const itimerval longest = {{0, 0}, {LONGEST, 0}}, never = {};
  static char signal_stack[64 << 10];
  const unsigned count = sizes[0] * sizes[1] * sizes[2];
  body = call;
  operands = given;
  message = why;
  message_size = why_size;
  local_count = 0;
  running = nullptr;

  struct sigaction before[kinds], act = {};
  stack_t old_stack, own_stack = {};
  own_stack.ss_sp = signal_stack;
  own_stack.ss_size = sizeof signal_stack;
  act.sa_sigaction = crashed;
  act.sa_flags = SA_SIGINFO | SA_ONSTACK;
#ifndef __SANITIZE_ADDRESS__  // which says more of it
  sigaltstack(&own_stack, &old_stack);
  for (int i = 0; i < kinds; i++) sigaction(signals[i], &act, &before[i]);
  setitimer(ITIMER_VIRTUAL, &longest, nullptr);
#endif

  long result = -1;
  if (!sigsetjmp(launch_start, 1)) {
    if (count > MOST) refuse("%u work-items in a work-group (expected at most %u)", count, MOST);
    const unsigned all = groups[0] * groups[1] * groups[2];
    for (unsigned turn = 0; turn < all; turn++) {
      const unsigned number = reverse ? all - 1 - turn : turn;
      const unsigned group[3] = {number % groups[0], number / groups[0] % groups[1], number / groups[0] / groups[1]};
      for (bool& one : fresh) one = true;
      for (unsigned k = 0; k < count; k++) {
        const unsigned i = reverse ? count - 1 - k : k;
        Item& item = fibers[i].item;
        const unsigned local[3] = {i % sizes[0], i / sizes[0] % sizes[1], i / sizes[0] / sizes[1]};
        for (int d = 0; d < 3; d++) {
          item.local[d] = local[d];
          item.group[d] = group[d];
          item.grid[d] = group[d] * sizes[d] + local[d];
          item.groups[d] = groups[d];
          item.sizes[d] = sizes[d];
        }
        item.index = i;
        item.lane = i % width;
        item.simdgroup = i / width;
        item.width = width;
        item.lanes = i / width == count / width ? count % width : width;
        item.simdgroups = (count + width - 1) / width;
        item.exchanges = 0;
        if (plain) {
          shim_item = &item;
          call(given);
        } else {
          prepare(fibers[i]);
        }
      }
      if (!plain) run_group(count, width, reverse);
    }
    result = 0;
    for (unsigned i = 0; i < local_count; i++) result += locals[i].size;
  }
#ifndef __SANITIZE_ADDRESS__
  setitimer(ITIMER_VIRTUAL, &never, nullptr);
  for (int i = 0; i < kinds; i++) sigaction(signals[i], &before[i], nullptr);
  sigaltstack(&old_stack, nullptr);
#endif
  return result;
}
}
