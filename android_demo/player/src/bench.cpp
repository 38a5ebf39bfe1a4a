// A picture, drawn several times: what a benchmark on a device reports (docs/benchmarks_on_devices.md).
#include <stdlib.h>

#include "base/os.h"
#include "player.h"

namespace od {
namespace {

constexpr Text kPrompt = "a photo of an astronaut riding a horse on mars";

int by_value(const void* a, const void* b) {
  const double x = *static_cast<const double*>(a), y = *static_cast<const double*>(b);
  return x < y ? -1 : x > y;
}

double median(Span<const double> values) {
  List<double> sorted;
  for (const double value : values) {
    if (!sorted.push(value)) return 0;
  }
  if (sorted.empty()) return 0;
  qsort(sorted.begin(), sorted.size(), sizeof(double), by_value);
  const size_t half = sorted.size() / 2;
  return sorted.size() % 2 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
}

// The slower end of a run in which a phone has become warm: of the last third of the pictures.
double sustained(Span<const double> seconds) {
  const size_t last = max<size_t>(seconds.count / 3, 1);
  return median(seconds.slice(seconds.count - last, seconds.count));
}

// Launches of one kernel for one operation, over all plans.
struct Row {
  Text op, kernel;
  u64 launches, flops, bytes;
  double seconds;
};

bool add_rows(Player& player, List<Row>& rows) {
  for (const Launched& one : player.session().launched) {
    const Dispatch& dispatch = one.plan->dispatches[one.dispatch];
    const Text kernel = player.bundle().manifest().kernels[one.plan->kernels[dispatch.kernel].file];
    Row* row = nullptr;
    for (Row& other : rows) {
      if (other.op == dispatch.op && other.kernel == kernel) row = &other;
    }
    if (!row) {
      if (!rows.push({dispatch.op, kernel, 0, 0, 0, 0})) return false;
      row = &rows.back();
    }
    row->launches += one.runs;
    row->flops += one.runs * dispatch.flops;
    row->bytes += one.runs * (dispatch.reads + dispatch.writes);
    row->seconds += one.seconds;
  }
  return true;
}

void write_rows(Player& player, JsonWriter& out) {
  List<Row> rows;
  if (!add_rows(player, rows)) return;
  out.key("ops").begin_list();
  while (!rows.empty()) {
    size_t most = 0;
    for (size_t i = 1; i < rows.size(); ++i) {
      if (rows[i].seconds > rows[most].seconds) most = i;
    }
    const Row& row = rows[most];
    out.begin_object()
        .member("op", row.op)
        .member("kernel", row.kernel)
        .member("seconds", row.seconds)
        .member("runs", row.launches)
        .member("flops", row.flops)
        .member("bytes", row.bytes)
        .end_object();
    rows[most] = rows.back();
    rows.pop();
  }
  out.end_list().key("components").begin_object();
  const auto& components = player.bundle().manifest().components;
  for (u32 i = 0; i < components.count; ++i) {
    double sum = 0;
    for (const Launched& one : player.session().launched) sum += one.plan->component == i ? one.seconds : 0;
    if (sum > 0) out.member(components[i].name, sum);
  }
  out.end_object();
}

}  // namespace

bool bench(Player& player, const BenchOptions& options, JsonWriter& out, Error& error) {
  GivenText prompt = {"prompt", kPrompt};
  Request request;
  request.texts = {&prompt, 1};
  request.steps = options.steps;
  List<double> pictures, steps, decoders;
  double first = 0;
  Session& session = player.session();
  u64 most = 0;
  Drawn drawn;
  for (u32 i = 0; i < options.warmups + options.repeats; ++i) {
    const double began = seconds();
    if (!player.draw(request, {}, drawn, error)) return false;
    const double took = seconds() - began;
    most = max(most, session.arena_bytes() + session.weight_bytes());
    log(Level::info, "picture %u of %u: %.3f s", i + 1, options.warmups + options.repeats, took);
    if (!i) first = took;
    if (i < options.warmups) continue;
    if (!pictures.push(took) || !steps.push(drawn.seconds_of_steps) || !decoders.push(drawn.seconds_of_decoder)) {
      return Pool::no_memory(error, sizeof took);
    }
  }
  session.profile = true;
  session.launched.clear();
  const bool profiled = player.draw(request, {}, drawn, error);
  session.profile = false;
  if (!profiled) return false;
  const Facts& facts = player.device().facts();
  out.begin_object()
      .member("device", facts.name)
      .member("driver", facts.driver)
      .member("bundle", player.bundle().name())
      .member("source", player.bundle().manifest().source)
      .member("width", drawn.width)
      .member("height", drawn.height)
      .member("steps", options.steps ? options.steps : player.bundle().manifest().pipeline.steps)
      .member("first_seconds", first)
      .member("median_seconds", median(pictures.span()))
      .member("sustained_seconds", sustained(pictures.span()))
      .member("steps_seconds", median(steps.span()))
      .member("decoder_seconds", median(decoders.span()));
  const auto& targets = player.bundle().manifest().targets;
  if (!targets.empty()) out.member("plans", targets[player.bundle().target()].name);
  out.key("runs").begin_list();
  for (const double one : pictures) out.number(one);
  out.end_list();
  write_rows(player, out);
  out.member("plan_bytes", most).member("peak_bytes", memory_peak()).member("player", kVersion).end_object();
  return out.ok() || Pool::no_memory(error, out.size());
}

}  // namespace od
