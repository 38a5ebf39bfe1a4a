// Refuses what no picture can be drawn of: before anything is loaded.
#include <stdio.h>
#include <string.h>

#include "draw/run.h"

namespace od {
namespace {

// Pictures of nets that add to each other, in their order.
constexpr const char* kNets[] = {"control", "control_2", "control_3", "control_4"};

}  // namespace

// Refuse a text, a picture or a number that the pipeline does not know, and what is missing.
bool Run::check_request(Error& error) {
  const size_t texts = pipeline_.texts.count, pictures = pipeline_.pictures.count;
  if (!words_.resize(texts) || !given_.resize(texts) || !pictures_.resize(pictures)) {
    return Pool::no_memory(error, texts * sizeof(Text));
  }
  for (const GivenText& one : request_.texts) {
    const i32 index = pipeline_.text(one.name);
    if (index == kNone && !one.text.size) continue;  // it says nothing
    if (index == kNone) return fail(error, Code::usage, one.name, "leave it out", "this model takes no such text.");
    words_[static_cast<size_t>(index)] = one.text;
    given_[static_cast<size_t>(index)] = true;
  }
  for (const GivenPicture& one : request_.pictures) {
    const i32 index = pipeline_.picture(one.name);
    if (index == kNone || pipeline_.pictures[static_cast<size_t>(index)].of[0] != kNone) {
      if (one.name == "image") {
        return fail(error, Code::usage, one.name, "leave it out", "this model begins from no picture.");
      }
      char known[400] = "";
      for (const Given& given : pipeline_.pictures) {
        if (given.of[0] != kNone) continue;
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%.*s", used ? ", " : "", OD_TEXT(given.name));
      }
      return fail(error, Code::usage, one.name, "leave it out", "this model takes no such picture (it takes %s).",
                  known[0] ? known : "none");
    }
    pictures_[static_cast<size_t>(index)] = one.pixels;
  }
  for (size_t i = 0; i + 1 < sizeof kNets / sizeof kNets[0]; ++i) {
    const i32 first = pipeline_.picture(kNets[i]), then = pipeline_.picture(kNets[i + 1]);
    if (first == kNone || then == kNone || has_picture(first) || !has_picture(then)) continue;
    char fix[64];
    snprintf(fix, sizeof fix, "give %s, too", kNets[i]);
    return fail(error, Code::usage, kNets[i + 1], fix,
                "its ControlNet adds to what that of %s makes, whose picture was not given.", kNets[i]);
  }
  if (request_.fast && pipeline_.fast.empty()) {
    return fail(error, Code::usage, "--taesd", "convert the checkpoint again with --taesd",
                "the bundle has no fast decoder.");
  }
  const struct {
    const char* name;
    double part;
  } parts[] = {{"denoising_end", request_.denoising_end}, {"denoising_start", request_.denoising_start}};
  for (const auto& one : parts) {
    if (one.part == 0 || (one.part > 0 && one.part < 1)) continue;
    return fail(error, Code::usage, one.name, "use 0.8, or leave it out",
                "not a part of the schedule (got %g, expected above 0 and below 1).", one.part);
  }
  if (request_.denoising_start != 0 && request_.latents.empty()) {
    return fail(error, Code::usage, "denoising_start", "give those that a run with denoising_end left",
                "the schedule goes on from latents, and none were given.");
  }
  const Seeds& seeds = request_.seeds;
  if (!(seeds.variation_strength >= 0 && seeds.variation_strength <= 1)) {
    return fail(error, Code::usage, "variation_strength", "use such as 0.1", "out of range (got %g, expected 0 to 1).",
                seeds.variation_strength);
  }
  if (seeds.variation_strength != 0 && !request_.latents.empty()) {
    return fail(error, Code::usage, "variation_seed", "leave the latents or the variation out",
                "latents were given, and no noise is drawn that could be varied.");
  }
  for (size_t i = 0; i < texts; ++i) {
    if (!given_[i] && !pipeline_.texts[i].optional) {
      return fail(error, Code::usage, pipeline_.texts[i].name, "give one; it may be empty",
                  "this model draws nothing without this text.");
    }
  }
  for (size_t i = 0; i < pictures; ++i) {
    const bool needed = pipeline_.pictures[i].of[0] == kNone && !pipeline_.pictures[i].optional;
    if (needed && !pictures_[i].data && !(request_.denoising_start != 0 && is_begun_from(static_cast<i32>(i)))) {
      return fail(error, Code::usage, pipeline_.pictures[i].name, "give one",
                  "this model draws nothing without a picture.");
    }
  }
  if (!request_.latents.empty() && !request_.pictures.empty()) {
    return fail(error, Code::usage, "latents", "leave one out", "both latents and a picture are given.");
  }
  return true;
}

bool Run::check_mask(Error& error) const {
  if (!is_masked() || made_[static_cast<size_t>(pipeline_.latents.begin)]) return true;
  return fail(error, Code::usage, pipeline_.pictures[static_cast<size_t>(pipeline_.latents.mask)].name,
              "give the picture, too, or leave the mask out",
              "a mask says which part of a picture is drawn anew, and no picture was given.");
}

}  // namespace od
