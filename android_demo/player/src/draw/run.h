// One picture while it is drawn: the pipeline's steps in order (docs/pipeline.md).
#pragma once

#include "base/base.h"
#include "bundle/bundle.h"
#include "draw/draw.h"
#include "draw/feeds.h"
#include "draw/memory.h"
#include "draw/numbers.h"
#include "draw/values.h"
#include "picture/noise.h"

namespace od {

class Run {
 public:
  Run(Bundle& bundle, Session& session, Span<Tokenizer* const> tokenizers, const Request& request, const Watch& watch)
      : bundle_(bundle),
        pipeline_(bundle.manifest().pipeline),
        session_(session),
        tokenizers_(tokenizers),
        request_(request),
        watch_(watch),
        noise_(static_cast<u64>(request.seed)),
        values_(pipeline_, session) {}

  bool draw(Drawn& out, Error& error);

 private:
  // request.cpp
  bool check_request(Error& error);
  bool has_picture(i32 index) const;
  bool begins() const;
  bool choose_size(Error& error);
  bool choose_table(Error& error);
  bool describe_picture(Drawn& out, Error& error);
  // run.cpp
  bool texts_in_use(List<i32>& out, Error& error);
  bool before(Error& error);
  bool sample(const Step& step, Error& error);
  bool start_noise(Error& error);
  bool after(Drawn& out, Error& error);
  bool decode(Span<const float> sample, List<float>& out, Error& error);
  void release(u32 part);
  // roles.cpp
  bool runs(const Role& role) const;
  bool run_role(const Role& role, Span<const i32> texts, Error& error);
  bool run_once(const Role& role, i32 text, Error& error);
  bool run_and_keep(const Role& role, const Plan& plan, const Feeds& feeds, i32 text, Error& error);
  bool feed_role(const Role& role, const Plan& plan, i32 text, Feeds& feeds, Error& error);
  bool keep_zeros(const Role& role, i32 text, Error& error);
  bool feed(const Feed& feed, const Operand& port, u32 passes, i32 text, Feeds& feeds, Part& out, Error& error);
  bool feed_picture(const Feed& feed, Feeds& feeds, Part& out, Error& error);
  bool plan_of(const Role& role, u32 batch, const Plan*& out, Error& error);
  bool check_finite(Span<const float> values, Text where, Error& error);
  // loop.cpp
  bool denoise(Drawn& out, Error& error);
  bool predict(u32 call, Error& error);
  bool run_passes(const Loop& loop, Span<const Pass> group, Span<float> out, Error& error);
  bool feed_passes(const Role& role, const Plan& plan, Span<const Pass> group, Feeds& feeds, Error& error);
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
  Shape latents_;     // [1, channels, height, width]
  List<Text> texts_;  // what was given, by the pipeline's texts
  List<bool> given_;
  List<Pixels> pictures_;  // by the pipeline's pictures; without data: not given
  SamplerTable table_;
  u32 first_ = 0, calls_ = 0;  // the call that is made first, and how many are made
  Way way_;
  List<float> start_, prediction_, scratch_, final_;
  double began_ = 0;
};

}  // namespace od
