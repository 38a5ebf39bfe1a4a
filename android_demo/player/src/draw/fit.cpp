// Which savings a picture takes to be drawn in the memory that there is.
#include <stdio.h>

#include "draw/bands.h"
#include "draw/memory.h"

namespace od {

bool streamed(Bundle& bundle, Size size, u32 passes, Span<const bool> pictures, Way& way, Error& error) {
  List<u32> rows;
  way.unload = true;
  if (!band_heights(bundle, size.height, size.width, rows)) return Pool::no_memory(error, sizeof(u32));
  if (way.rows || way.fast || rows.empty()) return true;
  Way lower = way;
  if (!drawable(bundle, size, way, error)) return false;
  lower.rows = rows.back();
  Demand whole, bands;
  if (!need_of(bundle, size, way, passes, pictures, whole, error) ||
      !need_of(bundle, size, lower, passes, pictures, bands, error)) {
    return false;
  }
  if (bands.total(true) < whole.total(true)) way = lower;
  return true;
}

bool fit(Bundle& bundle, Size size, u64 limit, bool mapped, u32 passes, Span<const bool> pictures, const Way& start,
         Demand& out, Error& error) {
  List<u32> rows;
  if (!band_heights(bundle, size.height, size.width, rows)) return Pool::no_memory(error, sizeof(u32));
  Way way = start;
  if (!drawable(bundle, size, way, error)) return false;
  Demand least;
  bool any = false;
  for (int saving = 0; saving < 5; ++saving) {
    if (saving == 1) way.split = way.split || passes > 1;
    if (saving == 2 && !way.fast && !way.rows && !rows.empty()) way.rows = rows.back();
    if (saving == 3) way.unload = true;
    if (saving == 4) {
      if (mapped || way.stream.on) continue;
      way.stream = {true, 0, false};
    }
    Demand found;
    Error ignored;  // a saving that the bundle has no plans for is none
    if (!need_of(bundle, size, way, passes, pictures, found, saving ? ignored : error)) {
      if (!saving) return false;
      continue;
    }
    if (found.total(mapped) <= limit) {
      out = found;
      // Without the savings on the way that turned out to be of no use, the costlier first.
      Way simpler = out.way;
      simpler.rows = start.rows;
      Demand other;
      if (need_of(bundle, size, simpler, passes, pictures, other, ignored) && other.total(mapped) <= limit) out = other;
      simpler = out.way;
      simpler.split = start.split;
      if (need_of(bundle, size, simpler, passes, pictures, other, ignored) && other.total(mapped) <= limit) out = other;
      return true;
    }
    if (!any || found.total(mapped) < least.total(mapped)) least = found;
    any = true;
  }
  char shown[128];
  return fail(
      error, Code::device, "memory",
      rows.empty() ? "convert with --tile-vae, or draw a smaller size" : "draw a smaller size",
      "a picture needs at least %.1f MB (arena %.1f, weights %.1f%s, pictures %.1f; %s), and %.1f MB are allowed.",
      1e-6 * static_cast<double>(least.total(mapped)), 1e-6 * static_cast<double>(least.arena),
      1e-6 * static_cast<double>(least.weights), mapped && !least.way.stream.on ? " mapped, not counted" : "",
      1e-6 * static_cast<double>(least.host), least.way.shown(shown, sizeof shown), 1e-6 * static_cast<double>(limit));
}

}  // namespace od
