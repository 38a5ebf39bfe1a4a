// What a picture needs, known before anything is loaded, and how it can be drawn with less: guidance in single passes,
// a decoder in bands, giving weights back once a part is done, and streaming them, a block at a time.
#pragma once

#include "adapt/changed.h"
#include "base/base.h"
#include "bundle/bundle.h"
#include "device/blocks.h"
#include "draw/numbers.h"

namespace od {

struct Way {
  bool split = false;   // one pass at a time
  u32 rows = 0;         // of a band of the decoder; 0: in one piece
  bool unload = false;               // weights are given back after a part's last use
  bool fast = false;                 // decoded by the fast decoder
  bool previews = false;             // which makes previews, too
  const Changed* changed = nullptr;  // adapters in the weights
  Streaming stream;                  // weights are loaded a block at a time

  // "guidance in two passes, decoding in bands of 16 rows", into `out`.
  const char* shown(char* out, size_t room) const;
};

struct Demand {
  Way way;
  u64 arena = 0, weights = 0;
  u64 device = 0;   // the most of both together, at any time
  u64 values = 0;   // what roles of a call make for each other, or before the loop, on the device beside both
  u64 changed = 0;  // weights with adapters in them, where those of the files are mapped
  u64 host = 0;     // pictures beside them, and what changing a weight takes

  // All of it; weights that are mapped from their files as a whole are the system's to drop, and not counted.
  u64 total(bool mapped) const { return (mapped && !way.stream.on ? arena + changed : device) + values + host; }
};

// A size in latent units, and what is drawn with.
struct Size {
  u32 width = 0, height = 0;
  u32 chunks = 1;  // of the texts
  u32 frames = 0;  // 0: of what has none
  u32 at_once = 0;  // frames that are decoded at once, at most; 0: as many as there are plans for
};

// The sizes of a component's plan for a batch at a place, with the names that its plans have.
Sizes plan_sizes(const Bundle& bundle, u32 component, u32 batch, Size size);
// How many chunks a text may have: what all components that have plans for several can read at a size.
u32 most_chunks(const Bundle& bundle, Size size);
// Whether a component has a plan for as many passes.
bool has_plan(const Bundle& bundle, u32 component, u32 passes, Size size);
// The denoiser's first size. Code::bundle where it has none.
bool usual_size(const Bundle& bundle, Size& out, Error& error);
// Every size that can be drawn, each once, of any number of frames.
bool drawable_sizes(const Bundle& bundle, List<Size>& out);
bool encodes_pictures(const Bundle& bundle, Size size);
// The most frames at a time that a component's plans take of those that are left at a size; 0 where none does.
u32 chunk_of(const Bundle& bundle, u32 component, Size size, u32 left);
// The way, with a decoder in bands of the most rows where the bundle has it in no other form.
bool drawable(const Bundle& bundle, Size size, Way& way, Error& error);

// Bytes for one picture; `passes` that it takes at most; `pictures`: which of the pipeline's are given, or empty where
// none is. Code::bundle or Code::usage where there are no plans for it.
bool need_of(Bundle& bundle, Size size, const Way& way, u32 passes, Span<const bool> pictures, Demand& out,
             Error& error);
// A way that streams weights, with what goes with that: what a part of the picture took is given back after it, and the
// decoder works in the lowest bands that the bundle has, where a picture takes less so. Fails as `need_of`.
bool streamed(Bundle& bundle, Size size, u32 passes, Span<const bool> pictures, Way& way, Error& error);
// The first way from `start` on, each with one more saving, that needs at most `limit` bytes. Code::device where none
// does; says what the least would be.
bool fit(Bundle& bundle, Size size, u64 limit, bool mapped, u32 passes, Span<const bool> pictures, const Way& start,
         Demand& out, Error& error);

}  // namespace od
