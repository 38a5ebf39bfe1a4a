#include "doctor/doctor.h"

#include <stdio.h>

#include "doctor/golden.h"

namespace od {
namespace {

constexpr Text kInPlace = Text("INPLACE", 7);

// A program that was built, by its kernel and defines.
struct Built {
  const PlanKernel* kernel;
  Program program;
};

bool alike(const PlanKernel& a, const PlanKernel& b) {
  if (a.file != b.file || a.defines.count != b.defines.count) return false;
  for (size_t i = 0; i < a.defines.count; ++i) {
    if (a.defines[i].name != b.defines[i].name || a.defines[i].value != b.defines[i].value) return false;
  }
  return true;
}

bool in_place(const PlanKernel& kernel) {
  for (const Define& define : kernel.defines) {
    if (define.name == kInPlace) return define.value != 0;
  }
  return false;
}

class Examination {
 public:
  Examination(Bundle& bundle, Device& device) : bundle_(bundle), device_(device) {}
  ~Examination() {
    for (Built& one : built_) device_.release(one.program);
    release();
  }

  // Run one launch and compare it. False where the driver refused it, or what the file says does not fit the plan;
  // `right` and `why` where it ran.
  bool run(const Plan& plan, const GoldenLaunch& launch, bool& right, char* why, size_t room, Error& error) {
    const bool ran = prepare(plan, launch, error) && start(plan, launch, error) && device_.finish(error);
    right = ran;
    for (size_t i = 0; ran && right && i < launch.results.count; ++i) {
      if (!take(plan, launch, launch.results[i], right, why, room, error)) {
        release();
        return false;
      }
    }
    release();
    return ran;
  }

 private:
  // A buffer for each operand of the launch, once, and an image for each that views one.
  bool prepare(const Plan& plan, const GoldenLaunch& launch, Error& error) {
    const Dispatch& call = plan.dispatches[launch.dispatch];
    const PlanKernel& kernel = plan.kernels[call.kernel];
    for (u32 place = 0; place < call.operands.count; ++place) {
      const u32 index = call.operands[place];
      const Operand& operand = plan.operands[index];
      const u32 home = operand.view == kNone ? index : static_cast<u32>(operand.view);
      const bool made_up = place < kernel.inputs || in_place(kernel);
      Buffer* held = find(home);
      if (!held) {
        Held fresh = {home, {}};
        if (!make(plan.operands[home], place, made_up ? launch.fill : Fill::none, fresh.buffer, error)) return false;
        if (!held_.push(fresh)) return Pool::no_memory(error, sizeof fresh);
        held = &held_.back().buffer;
      }
      Buffer argument = *held;
      if (operand.view != kNone) {
        if (!device_.image(*held, operand.width, operand.height, operand.dtype, operand.name, argument, error)) {
          return false;
        }
        if (!images_.push(argument)) return Pool::no_memory(error, sizeof argument);
      }
      if (!arguments_.push(argument)) return Pool::no_memory(error, sizeof argument);
    }
    return true;
  }

  bool make(const Operand& operand, u32 place, Fill how, Buffer& out, Error& error) {
    if (operand.weight != kNone) {
      const WeightEntry& weight = bundle_.manifest().weights[static_cast<size_t>(operand.weight)];
      Bytes shard;
      return bundle_.shard(weight.file, shard, error) &&
             device_.upload(
                 shard.slice(static_cast<size_t>(weight.offset), static_cast<size_t>(weight.offset + weight.bytes)),
                 operand.name, out, error);
    }
    if (!content_.resize(static_cast<size_t>(operand.bytes))) {
      return Pool::no_memory(error, static_cast<size_t>(operand.bytes));
    }
    fill(operand.dtype, operand.shape.count(), place, how, content_.begin());
    return device_.allocate(operand.bytes, operand.name, out, error) &&
           device_.write(out, 0, {content_.begin(), content_.size()}, error);
  }

  bool start(const Plan& plan, const GoldenLaunch& launch, Error& error) {
    const Dispatch& call = plan.dispatches[launch.dispatch];
    Program program;
    if (!build(plan.kernels[call.kernel], program, error)) return false;
    for (Buffer& argument : arguments_) {
      if (!pointers_.push(&argument)) return Pool::no_memory(error, sizeof argument);
    }
    const Text component = bundle_.manifest().components[plan.component].name;
    return device_.launch(program, {pointers_.begin(), pointers_.size()}, {call.scalars.data, call.scalars.count},
                          call.grid, call.group, {component, call.node, call.op}, nullptr, error);
  }

  bool build(const PlanKernel& kernel, Program& out, Error& error) {
    for (const Built& one : built_) {
      if (!alike(*one.kernel, kernel)) continue;
      out = one.program;
      return true;
    }
    const Text entry = bundle_.manifest().kernels[kernel.file];
    source_.clear();
    return bundle_.source(kernel, "opencl", source_, error) &&
           device_.build({source_.begin(), source_.size() - 1}, entry, entry, out, error) &&
           (built_.push({&kernel, out}) || Pool::no_memory(error, sizeof(Built)));
  }

  bool take(const Plan& plan, const GoldenLaunch& launch, const GoldenResult& expected, bool& right, char* why,
            size_t room, Error& error) {
    const u32 index = plan.dispatches[launch.dispatch].operands[expected.operand];
    const Operand& operand = plan.operands[index];
    if (!content_.resize(static_cast<size_t>(operand.bytes))) {
      return Pool::no_memory(error, static_cast<size_t>(operand.bytes));
    }
    if (!device_.read(*find(index), 0, content_.span(), error)) return false;
    char what[256];
    right = compare(expected, operand.dtype, operand.shape.count(), content_.begin(), what, sizeof what);
    if (!right) snprintf(why, room, "%.*s: %s", OD_TEXT(operand.name), what);
    return true;
  }

  struct Held {
    u32 operand;
    Buffer buffer;
  };
  Buffer* find(u32 operand) {
    for (Held& one : held_) {
      if (one.operand == operand) return &one.buffer;
    }
    return nullptr;
  }

  void release() {
    for (Buffer& image : images_) device_.release(image);
    for (Held& one : held_) device_.release(one.buffer);
    images_.clear();
    held_.clear();
    arguments_.clear();
    pointers_.clear();
  }

  Bundle& bundle_;
  Device& device_;
  List<Built> built_;
  List<Held> held_;
  List<Buffer> images_, arguments_;
  List<const Buffer*> pointers_;
  List<char> source_;
  List<u8> content_;
};

// The launch that a row names, once its plan is there: an operand that it writes, and sums for all of its elements.
bool fits(const Plan& plan, const GoldenLaunch& launch) {
  if (launch.dispatch >= plan.dispatches.count) return false;
  const Dispatch& call = plan.dispatches[launch.dispatch];
  for (const GoldenResult& result : launch.results) {
    if (result.operand < plan.kernels[call.kernel].inputs || result.operand >= call.operands.count) return false;
    const u64 count = plan.operands[call.operands[result.operand]].shape.count();
    if (result.sums.count != result.slack.count || result.block > count ||
        (count + result.block - 1) / result.block != result.sums.count) {
      return false;
    }
  }
  return true;
}

}  // namespace

bool doctor(Bundle& bundle, Device& device, Bytes golden, Text name, const DoctorWatch& watch, JsonWriter& out,
            DoctorCounts& counts, Error& error) {
  Pool pool;
  Golden found;
  if (!parse_golden(golden, name, bundle.manifest(), bundle.digest(), pool, found, error) ||
      (found.target.size && !bundle.for_target(found.target, error))) {
    return false;
  }
  const Facts& facts = device.facts();
  out.begin_object()
      .member("device", facts.name)
      .member("platform", facts.platform)
      .member("version", facts.version)
      .member("driver", facts.driver)
      .member("launches", static_cast<u64>(found.launches.count));
  out.key("findings").begin_list();
  Examination examination(bundle, device);
  for (u32 i = 0; i < found.launches.count; ++i) {
    const GoldenLaunch& launch = found.launches[i];
    const Plan* plan;
    if (watch.cancel && *watch.cancel) return fail(error, Code::cancelled, "", "", "cancelled.");
    if (!bundle.plan(launch.plan->component, launch.plan->sizes, plan, error)) return false;
    if (!fits(*plan, launch)) {
      return fail(error, Code::usage, name, "make it again with `ondevice doctor --golden FILE`",
                  "launches[%u] does not fit its plan.", i);
    }
    if (const u32 lacks = plan->needs & ~(facts.capabilities | kSpelled)) {
      return fail(error, Code::device, bundle.manifest().files[launch.plan->file].path,
                  "convert for a --target of this device", "it needs %s, which %s has not.",
                  name_of(static_cast<Need>(lacks & -lacks)), facts.name);
    }
    bool right = false;
    char why[512] = "";
    Error refused;
    const bool ran = examination.run(*plan, launch, right, why, sizeof why, refused);
    if (!ran && refused.code != Code::device && refused.code != Code::kernel_build) {
      error = refused;
      return false;
    }
    ++counts.launches;
    counts.wrong += ran && !right;
    counts.refused += !ran;
    if (!right) {
      out.begin_object()
          .member("launch", i)
          .member("verdict", ran ? "wrong" : "refused")
          .member("why", ran ? why : refused.message)
          .end_object();
    }
    if (watch.progress) watch.progress(watch.user, i + 1, static_cast<u32>(found.launches.count));
  }
  out.end_list().end_object();
  return out.ok() || Pool::no_memory(error, out.size());
}

}  // namespace od
