// A plan beside its manifest: "MANIFEST\0PLAN". What is accepted is looked at again, slowly.
#include "bundle/checker.h"
#include "bundle/plan.h"
#include "bundle/ports.h"
#include "support/fuzz.h"

namespace od::fuzz {
namespace {

// The operand whose bytes an operand's are.
u32 root(const Plan& plan, u32 index) {
  const i32 view = plan.operands[index].view;
  return view == kNone ? index : static_cast<u32>(view);
}

void check_operands(const Plan& plan, const Manifest& manifest) {
  for (u32 i = 0; i < plan.operands.count; ++i) {
    const Operand& one = plan.operands[i];
    if (one.view != kNone) {
      OD_HOLDS(one.view >= 0 && static_cast<u32>(one.view) < i && plan.operands[one.view].view == kNone);
      OD_HOLDS(u64(one.width) * one.height * 4 <= plan.operands[one.view].shape.count() && (plan.needs & kImage2d));
      continue;
    }
    OD_HOLDS(one.shape.count() * bytes_of(one.dtype) == one.bytes);
    if (one.weight != kNone) {
      OD_HOLDS(one.weight >= 0 && static_cast<size_t>(one.weight) < manifest.weights.count);
      OD_HOLDS(manifest.weights[one.weight].bytes == one.bytes);
    } else {
      OD_HOLDS(one.offset % kAlign == 0 && one.offset <= plan.arena && one.bytes <= plan.arena - one.offset);
    }
  }
}

void check_launches(const Plan& plan, const Manifest& manifest) {
  for (const PlanKernel& kernel : plan.kernels) OD_HOLDS(kernel.file < manifest.kernels.count);
  for (const Dispatch& launch : plan.dispatches) {
    OD_HOLDS(launch.kernel < plan.kernels.count);
    const PlanKernel& kernel = plan.kernels[launch.kernel];
    OD_HOLDS(launch.operands.count == kernel.inputs + kernel.outputs && launch.scalars.count == kernel.scalars.size);
    for (const u32 operand : launch.operands) OD_HOLDS(operand < plan.operands.count);
    for (u32 i = kernel.inputs; i < launch.operands.count; ++i) OD_HOLDS(plan.operands[launch.operands[i]].in_arena());
    for (int i = 0; i < 3; ++i) OD_HOLDS(launch.group[i] && launch.grid[i] && launch.grid[i] % launch.group[i] == 0);
    OD_HOLDS(u64(launch.group[0]) * launch.group[1] * launch.group[2] <= 1024);
  }
}

// No two operands that are needed at the same time share a byte; each is written before it is read.
void check_lives(const Plan& plan) {
  struct Life {
    i64 first, last;  // dispatches; `first` -1 before all, above `last` where it is never used
  };
  const auto count = static_cast<i64>(plan.dispatches.count);
  List<Life> lives;
  for (u32 i = 0; i < plan.operands.count; ++i) lives.push({count + 1, -2});
  for (const u32 input : plan.inputs) lives[input] = {-1, -1};
  for (i64 i = 0; i < count; ++i) {
    const Dispatch& launch = plan.dispatches[static_cast<size_t>(i)];
    const u32 inputs = plan.kernels[launch.kernel].inputs;
    for (u32 j = 0; j < launch.operands.count; ++j) {
      const u32 index = root(plan, launch.operands[j]);
      if (!plan.operands[index].in_arena()) continue;
      Life& life = lives[index];
      OD_HOLDS(j >= inputs || life.first < i);
      life = {min(life.first, i), i};
    }
  }
  for (const u32 output : plan.outputs) {
    OD_HOLDS(lives[output].first <= count);
    lives[output].last = count;
  }
  for (u32 i = 0; i < plan.operands.count; ++i) {
    const Operand& a = plan.operands[i];
    if (!a.in_arena() || lives[i].first > lives[i].last) continue;
    for (u32 j = i + 1; j < plan.operands.count; ++j) {
      const Operand& b = plan.operands[j];
      if (!b.in_arena() || lives[j].first > lives[j].last) continue;
      const bool apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
      OD_HOLDS(apart || lives[i].last < lives[j].first || lives[j].last < lives[i].first);
    }
  }
}

}  // namespace
}  // namespace od::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace od;
  Pool pool;
  Json of_manifest, of_plan;
  Error error;
  Manifest manifest;
  const Bytes first = fuzz::part({data, size}, 0), second = fuzz::part({data, size}, 1);
  if (!parse_json(first, "bundle.json", pool, of_manifest, error) ||
      !parse_manifest(of_manifest, pool, manifest, error) || !parse_json(second, "plan", pool, of_plan, error)) {
    return 0;
  }
  Seen seen;
  List<const Plan*> stages;
  const Json* component = of_plan.find("component");
  for (const PlanEntry& entry : manifest.plans) {
    // Of the others one is enough: they are refused in the same place.
    const Text name = manifest.components[entry.component].name;
    if (&entry != manifest.plans.begin() && (!component || component->text != name)) continue;
    Plan* plan = pool.one<Plan>();
    error = Error();
    if (!plan || !parse_plan(of_plan, "plan", pool, manifest, entry, *plan, error)) {
      fuzz::check_error(error);
      continue;
    }
    fuzz::remember({data, size});
    fuzz::check_operands(*plan, manifest);
    fuzz::check_launches(*plan, manifest);
    if (plan->operands.count < 200) fuzz::check_lives(*plan);
    if (!check_ports(*plan, "plan", manifest, seen, error)) {
      fuzz::check_error(error);
      continue;
    }
    if (plan->sizes.count == 5 && manifest.draws && plan->outputs.count == 1) stages.push(plan);
  }
  error = Error();
  if (!stages.empty() && !check_stages({stages.begin(), stages.size()}, manifest, error)) fuzz::check_error(error);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  return od::fuzz::mutate_json(data, size, most, seed);
}
