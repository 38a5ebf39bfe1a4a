/* The player of ondevice bundles: text to picture on an OpenCL device, without Python.
 *
 * A C interface for apps, JNI and tests. Every function that can fail gives 0 or an exit code of the command line (2
 * usage, 9 bundle, 10 no device, 11 kernel build, 12 device, 13 NaN, 16 output, 130 cancelled, 1 our own fault) and
 * fills `error`. A player is used by one thread at a time; od_cancel and od_progress_of may be called from any.
 */
#ifndef ONDEVICE_PLAYER_H
#define ONDEVICE_PLAYER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OD_API __attribute__((visibility("default")))

typedef struct od_player od_player;

typedef struct {
  int32_t code;
  char message[2048]; /* where, what is wrong, and the fix */
} od_error;

typedef struct {
  const char* bundle;    /* folder, or one file that `ondevice pack` wrote; null where `descriptor` is given */
  int descriptor;        /* of a packed file that is open for reading, or -1; it stays the caller's */
  const char* name;      /* of the file behind `descriptor`, for messages */
  const char* device;    /* a number, "gpu", "cpu" or part of a name; null: the best */
  const char* cache;     /* folder for compiled kernels; null: the usual one; "": none */
  const char* plans;     /* the target whose plans are taken; null: the device's own */
  uint64_t memory_limit; /* bytes that the device may be asked for in all; 0: what it has */
} od_options;

typedef struct {
  const char* name;
  const char* value;
} od_text;

typedef struct {
  const char* name;
  double value;
} od_number;

typedef struct {
  const char* name;
  const uint8_t* rgb; /* [height, width, 3] */
  uint32_t width, height;
  /* Canny's thresholds: the picture's edges, at the size that is drawn, take its place. Both 0: the picture itself. */
  double canny_low, canny_high;
} od_picture_in;

typedef struct {
  const char* name; /* of an adapter that the bundle carries: od_describe lists them */
  double scale;     /* how much of it; a negative one takes away */
} od_adapter;

typedef struct {
  const od_text* texts; /* "prompt", and "negative_prompt" where it is given */
  size_t text_count;
  const od_number* numbers; /* "guidance_scale", "strength" and what else the pipeline has */
  size_t number_count;
  const od_picture_in* pictures; /* "image", "mask" and what else the pipeline has */
  size_t picture_count;
  uint32_t steps;      /* 0: the bundle's */
  const char* sampler; /* null: the bundle's */
  int64_t seed;
  uint32_t width, height; /* pixels; 0: the bundle's */
  int32_t low_memory;     /* 0: fast; 1: guidance in two passes, decoder in bands, weights given back */
  uint32_t preview_every; /* calls between two previews, the last call has one too; 0: none */
  int32_t seed_mode;      /* whose numbers a seed gives: 0 diffusers' on a CPU, 1 on a CUDA device, 2 WebUI's */
  int64_t variation_seed; /* of another noise, that the seed's is turned towards by variation_strength, 0 to 1 */
  double variation_strength;
  int64_t noise_seed_delta; /* WebUI's ENSD */
  int32_t emphasis; /* what (word:1.2) and the like mean: 0 nothing, 1 weights as WebUI's, 2 as compel's */
  int32_t long_texts; /* texts over 75 tokens: 0 their beginning, 1 in chunks, 2 in as many as the bundle has */
  const od_adapter* adapters; /* they add up. A request with others puts the bundle's own weights back first */
  size_t adapter_count;
  int32_t fast;       /* 1: decode by the bundle's fast decoder */
  int32_t preview_by; /* 0: as the bundle has it; 1: by a sum of the latents' channels; 2: by the fast decoder */
} od_request;

typedef struct {
  void* user;
  /* From the drawing thread. `seconds_left` is negative while it is not known; `stage` is for people. */
  void (*progress)(void* user, uint32_t done, uint32_t calls, double seconds_left, const char* stage);
  /* rgb uint8 [height, width, 3], valid during the call. */
  void (*preview)(void* user, uint32_t done, const uint8_t* rgb, uint32_t width, uint32_t height);
} od_watch;

typedef struct {
  const uint8_t* rgb; /* [height, width, 3]; valid until the next call on this player */
  uint32_t width, height;
  const uint8_t* png; /* the whole file, with the parameters inside */
  size_t png_bytes;
  const char* parameters; /* in the words of AUTOMATIC1111's WebUI */
  double seconds_to_first_step, seconds_of_steps, seconds_of_decoder;
  uint64_t device_bytes; /* at most, of this player */
} od_result;

OD_API const char* od_version(void);
/* Lines of the log; null: none. Level 0 is information, 1 a warning. */
OD_API void od_set_log(void (*log)(void* user, int32_t level, const char* line), void* user);

/* Opens a bundle on a device and checks what both say; loads no weights. */
OD_API int32_t od_open(const od_options* options, od_player** player, od_error* error);
OD_API void od_close(od_player* player);

/* JSON about the bundle (model, sizes, texts, numbers, samplers, steps, memory per size) and the device; ends with the
 * player. */
OD_API const char* od_describe(od_player* player);
OD_API int32_t od_draw(od_player* player, const od_request* request, const od_watch* watch, od_result* result,
                       od_error* error);
/* Ends the drawing soon, with 130; what is loaded stays. */
OD_API void od_cancel(od_player* player);
/* Gives back arena, weights and kernels; the next drawing loads them again. */
OD_API void od_unload(od_player* player);

/* JSON rows of a benchmark: warm-up runs, then `repeats`: first, median and sustained seconds, per-op table, memory. */
OD_API int32_t od_bench(od_player* player, uint32_t repeats, const char** json, od_error* error);

#ifdef __cplusplus
}
#endif
#endif
