// One picture while it is drawn: the pipeline's steps in order (docs/pipeline.md).
#pragma once

#include "base/base.h"
#include "bundle/bundle.h"
#include "draw/draw.h"
#include "draw/feeds.h"
#include "draw/guidance.h"
#include "draw/memory.h"
#include "draw/numbers.h"
#include "draw/texts.h"
#include "draw/values.h"
#include "picture/noise.h"

namespace od {

// Which tokens of a part a role reads: those of a chunk but for a piece; kNoChunk: of the empty text.
constexpr u32 kNoChunk = ~u32(0);
struct Reading {
  u32 chunk, without;
};

class Run {
 public:
  Run(Bundle& bundle, Session& session, Span<Tokenizer* const> tokenizers, const Request& request, const Watch& watch)
      : bundle_(bundle),
        pipeline_(bundle.manifest().pipeline),
        session_(session),
        tokenizers_(tokenizers),
        request_(request),
        watch_(watch),
        noise_(request.seeds),
        values_(pipeline_, session),
        texts_(pipeline_, tokenizers) {}
  ~Run() { session_.changing = nullptr; }

  bool draw(Drawn& out, Error& error);

 private:
  // checks.cpp
  bool check_request(Error& error);
  bool check_mask(Error& error) const;
  // request.cpp
  bool has_picture(i32 index) const;
  bool is_begun_from(i32 picture) const;
  i32 source_of(i32 index) const;
  bool find_made(Error& error);
  void will_make(const Role& role);
  bool does(const Step& step) const;
  bool runs(const Role& role) const;
  bool begins() const;
  bool is_masked() const;
  bool put_adapters(Error& error);
  bool choose_previews(Error& error);
  bool choose_frames(Error& error);
  bool check_chunks(Error& error) const;
  bool choose_size(Error& error);
  bool choose_table(Error& error);
  bool texts_in_use(List<i32>& out, Error& error) const;
  bool read_texts(Error& error);
  bool is_empty_for_some(i32 text) const;
  bool describe_picture(Drawn& out, Error& error);
  // run.cpp
  bool before(Error& error);
  bool sample(const Step& step, Error& error);
  bool start_noise(Error& error);
  void release(u32 part);
  // roles.cpp
  bool run_role(const Role& role, Error& error);
  bool run_once(const Role& role, i32 part, Error& error);
  bool run_and_keep(const Role& role, const Plan& plan, const Feeds& feeds, i32 part, Error& error);
  bool feed_role(const Role& role, const Plan& plan, i32 part, Feeds& feeds, Error& error);
  bool keep_zeros(const Role& role, i32 part, Error& error);
  bool feed(const Feed& feed, const Operand& port, u32 passes, i32 part, Feeds& feeds, Part& out, Error& error);
  bool feed_zeros(const Operand& port, u32 passes, Feeds& feeds, Part& out, Error& error);
  bool feed_picture(const Feed& feed, Feeds& feeds, Part& out, Error& error);
  bool prepare_picture(i32 index, List<float>& out, Error& error);
  bool plan_of(const Role& role, u32 batch, i32 part, const Plan*& out, Error& error);
  bool check_finite(Span<const float> values, Text where, Error& error);
  // encode.cpp
  bool run_text(const Role& role, const Plan& plan, i32 part, Error& error);
  bool weighted_states(const Role& role, const Plan& plan, const Keep& keep, i32 part, u32 chunk, List<float>& states,
                       Error& error);
  bool encode(const Role& role, const Plan& plan, const Keep& keep, i32 part, Reading reading, List<float>& out,
              Error& error);
  bool put_floats(Span<const float> values, Dtype dtype, const Shape& shape, DeviceValue& out, Error& error);
  // after.cpp
  bool after(Drawn& out, Error& error);
  bool keep_outside(Drawn& out, Error& error);
  Span<Role> last_roles() const { return way_.fast ? pipeline_.fast : pipeline_.after; }
  bool decode(Span<Role> roles, u32 rows, Span<const float> sample, List<float>& out, Error& error);
  bool run_decoder(const Role& role, const Plan& plan, Span<float> out, Error& error);
  bool run_in_chunks(const Role& role, List<float>* out, Error& error);
  bool is_cut(i32 value) const;
  // loop.cpp
  bool denoise(Drawn& out, Error& error);
  bool find_clean(List<float>& out, Error& error);
  bool find_mask(List<float>& out, Error& error);
  bool predict(u32 call, Error& error);
  bool expand(const Loop& loop, List<Spoken>& out, Error& error) const;
  bool run_passes(const Loop& loop, Span<const Spoken> group, Span<float> out, Error& error);
  bool feed_passes(const Role& role, const Plan& plan, Span<const Spoken> group, Feeds& feeds, Error& error);
  const Loop* loop_at(double part) const;
  bool preview(u32 done, Span<const float> sample, Error& error);
  bool show_preview(u32 done, Span<const float> sample, u32 scale, Error& error);
  void say(u32 done, const char* stage, double seconds_left = -1);

  Bundle& bundle_;
  const Pipeline& pipeline_;
  Session& session_;
  Span<Tokenizer* const> tokenizers_;
  const Request& request_;
  const Watch& watch_;
  Noise noise_;
  Values values_;
  Numbers numbers_;
  Pool pool_;
  Size size_ = {};    // latent units
  Shape latents_;     // [frames, channels, height, width]
  List<Text> words_;  // what was given, by the pipeline's texts
  List<bool> given_;
  Texts texts_;
  Reading reading_ = {0, kNoPiece};
  List<Pixels> pictures_;  // by the pipeline's pictures; without data: not given
  List<bool> made_;        // values that are there, or will be in time
  List<Text> adapters_;         // "NAME:SCALE" of those that are in use
  List<Span<float>> prepared_;  // pictures that the loop reads
  bool in_loop_ = false;
  struct {
    u32 first = 0, count = 0;
  } chunk_;  // of frames; 0: all
  SamplerTable table_;
  u32 first_ = 0, calls_ = 0;  // the call that is made first, and how many are made
  Way way_;
  List<float> start_, prediction_, scratch_, final_;
  double began_ = 0;
};

}  // namespace od
