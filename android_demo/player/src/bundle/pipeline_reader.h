// What reads a pipeline: the names that were found so far, and of values how often they change.
#pragma once

#include "bundle/checker.h"

namespace od {

constexpr size_t kMaxRoles = 64, kMaxPasses = 16, kMaxValues = 256, kMaxNumbers = 64;
constexpr size_t kMaxGiven = 16, kMaxLoops = 8;
constexpr i64 kMaxSteps = 1000;
constexpr double kFloatMax = 3.4028234663852886e38;

// Names to choose one from, each with the index that it stands for.
class Names {
 public:
  bool add(Text name, i32 index) { return texts_.push(name) && indices_.push(index); }
  void clear() {
    texts_.clear();
    indices_.clear();
  }
  bool has(Text name) const;
  // The index that a text stands for, one of these names.
  bool choose(const Checker& check, const Json& value, const Place& at, i32& index) const;

 private:
  List<Text> texts_;
  List<i32> indices_;
};

constexpr const char* kRateNames[] = {"bundle", "picture", "text", "call"};  // by Rate

class PipelineReader {
 public:
  PipelineReader(const Checker& check, Pool& pool, const Manifest& manifest, Pipeline& out)
      : check_(check), pool_(pool), manifest_(manifest), out_(out) {}

  bool read(const Json& value);

 private:
  // What the user may give: pipeline_given.cpp.
  bool read_numbers(const Json& value);
  bool read_number(const Member& row, const Place& at, Number& out);
  bool read_texts(const Json& value);
  bool read_pictures(const Json& value);
  bool read_latents(const Json& value);
  bool read_mask(const Json& value, const Place& at);
  bool read_preview(const Json* value, const Place& latents);
  bool read_outside(const Json* value, const Place& at);
  bool prepared(const Json& value, Prepare how, const Place& at, i32& out) const;  // a picture's name
  bool amount(const Json& value, const Place& at, Amount& out) const;              // a constant or a number's name
  bool pair(const Json& value, const Place& at, i32& first, i32& second) const;
  bool new_name(Text name, const Place& at) const;
  bool forget_names(const Names& names);

  // What runs: pipeline.cpp.
  bool read_after(const Json& value, const Place& at, size_t made, Span<Role>& out);
  bool read_sampler(const Json& value);
  bool read_step(const Json& row, const Place& at, Step& out);
  bool read_sample(const Json& row, const Place& at, Step& out);
  bool read_below(const Json& row, const Place& at, Step& out);
  // As often as one of `rates`: it says of which where there are several. `optional`: it may be left out.
  bool read_role(const Json& row, const Place& at, Span<const Text> rates, bool optional, Role& out);
  // What roles read: pipeline_feeds.cpp.
  bool read_feeds(const Json& table, const Place& at, Role& role, bool& optional);
  bool read_feed(const Json& value, const Place& at, Feed& out);
  bool read_listed(const Json& value, const Place& at, Feed::PerText& out);
  Rate rate_of(const Feed& feed) const;
  // The loop: pipeline_loops.cpp.
  bool read_loop(const Json& row, const Place& at, Loop& out);
  bool read_pass(const Json& row, const Place& at, Pass& out);
  bool read_combine(const Json& value, const Place& at, Loop& out);
  bool read_guided(const Json& value, const Place& at, Loop& out);
  // Values: pipeline.cpp.
  bool keep(const Json& value, Rate rate, bool optional, const Place& at, i32& out);
  // The value that is made once per picture of this name.
  bool picture_value(const Json& value, const Place& at, i32& out) const;
  bool show(i32 value, Rate rate);
  bool no_memory() const { return Pool::no_memory(check_.error(), sizeof(Text)); }

  const Checker check_;
  Pool& pool_;
  const Manifest& manifest_;
  Pipeline& out_;
  Names components_, tokenizers_, texts_, pictures_;
  // All; those that are one number; of these, those that no call changes; and one number with width and height.
  Names numbers_, plain_, steady_, amounts_;
  Names visible_;  // values that may be read where the reader is
  List<ValueEntry> values_;
  List<Rate> rates_;  // how often they change, seen from there
  bool always_ = false;  // the role that is read must not depend on an optional picture
  i32 kept_again_ = kNone;  // the value that a role of `fast` makes, too
};

}  // namespace od
