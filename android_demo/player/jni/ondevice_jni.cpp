// What dev.ondevice.player.Native (../java) calls: Java's values to the C interface and back.
//
// Texts cross as bytes of UTF-8: JNI's own strings are a modified UTF-8, in which an emoji is no UTF-8 at all.
#include <jni.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "ondevice_player.h"
#ifdef __ANDROID__
#include <android/log.h>
#endif

namespace {

jclass native_class, picture_class, exception_class;
jmethodID on_progress, on_preview, make_picture, make_exception;

jbyteArray bytes_of(JNIEnv* env, const void* data, size_t size) {
  if (size > INT_MAX) return nullptr;
  jbyteArray array = env->NewByteArray(static_cast<jsize>(size));
  if (array) env->SetByteArrayRegion(array, 0, static_cast<jsize>(size), static_cast<const jbyte*>(data));
  return array;
}

jbyteArray text_of(JNIEnv* env, const char* text) { return text ? bytes_of(env, text, strlen(text)) : nullptr; }

void raise(JNIEnv* env, int32_t code, const char* message) {
  jbyteArray text = text_of(env, message);
  if (!text) return;  // an OutOfMemoryError is pending
  auto exception = static_cast<jthrowable>(env->NewObject(exception_class, make_exception, code, text));
  if (exception) env->Throw(exception);
}

od_player* player_of(jlong handle) { return reinterpret_cast<od_player*>(handle); }

// A copy of a Java array's bytes, ended by a zero that `size` does not count; null of a null.
class Copy {
 public:
  Copy() = default;
  Copy(JNIEnv* env, jbyteArray array) { take(env, array); }
  ~Copy() { free(data_); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  // Whether there was memory; else an exception is pending.
  bool take(JNIEnv* env, jbyteArray array) {
    if (!array) return true;
    const jsize size = env->GetArrayLength(array);
    data_ = static_cast<char*>(malloc(static_cast<size_t>(size) + 1));
    if (!data_) {
      raise(env, 1, "player: there is no memory for a text. Fix: close other apps.");
      return false;
    }
    env->GetByteArrayRegion(array, 0, size, reinterpret_cast<jbyte*>(data_));
    data_[size] = 0;
    return true;
  }
  const char* text() const { return data_; }

 private:
  char* data_ = nullptr;
};

// Copies of `byte[][]`: as many as a request may hold.
class Copies {
 public:
  static constexpr jsize kMost = 16;

  bool take(JNIEnv* env, jobjectArray arrays) {
    count = env->GetArrayLength(arrays);
    if (count > kMost) {
      raise(env, 2, "request: has too many texts, numbers, pictures or adapters. Fix: give at most 16 of each.");
      return false;
    }
    for (jsize i = 0; i < count; ++i) {
      auto array = static_cast<jbyteArray>(env->GetObjectArrayElement(arrays, i));
      const bool taken = items_[i].take(env, array);
      env->DeleteLocalRef(array);
      if (!taken) return false;
    }
    return true;
  }
  const char* operator[](jsize index) const { return items_[index].text(); }

  jsize count = 0;

 private:
  Copy items_[kMost];
};

// Whoever watches a drawing. What its Java side throws ends the drawing and is thrown on by the call that draws.
struct Watcher {
  JNIEnv* env;
  jobject watch;
  od_player* player;

  bool thrown() const { return env->ExceptionCheck(); }
  // A drawing calls thousands of times within one native call, and Android has room for 512 local references.
  void end_call(jobject argument) const {
    if (thrown()) od_cancel(player);
    env->DeleteLocalRef(argument);
  }
};

void progress(void* user, uint32_t done, uint32_t calls, double seconds_left, const char* stage) {
  const auto& watcher = *static_cast<Watcher*>(user);
  if (watcher.thrown()) return;
  jbyteArray text = text_of(watcher.env, stage ? stage : "");
  if (text) {
    watcher.env->CallStaticVoidMethod(native_class, on_progress, watcher.watch, static_cast<jint>(done),
                                      static_cast<jint>(calls), seconds_left, text);
  }
  watcher.end_call(text);
}

void preview(void* user, uint32_t done, const uint8_t* rgb, uint32_t width, uint32_t height) {
  const auto& watcher = *static_cast<Watcher*>(user);
  if (watcher.thrown()) return;
  jbyteArray pixels = bytes_of(watcher.env, rgb, size_t(3) * width * height);
  if (pixels) {
    watcher.env->CallStaticVoidMethod(native_class, on_preview, watcher.watch, static_cast<jint>(done), pixels,
                                      static_cast<jint>(width), static_cast<jint>(height));
  }
  watcher.end_call(pixels);
}

jbyteArray version(JNIEnv* env, jclass) { return text_of(env, od_version()); }

jlong open(JNIEnv* env, jclass, jbyteArray bundle, jint descriptor, jbyteArray name, jbyteArray device,
           jbyteArray cache, jbyteArray plans, jlong memory_limit) {
  const Copy bundle_text(env, bundle), name_text(env, name), device_text(env, device), cache_text(env, cache),
      plans_text(env, plans);
  if (env->ExceptionCheck()) return 0;
  od_options options = {};
  options.bundle = bundle_text.text();
  options.descriptor = descriptor;
  options.name = name_text.text();
  options.device = device_text.text();
  options.cache = cache_text.text();
  options.plans = plans_text.text();
  options.memory_limit = static_cast<uint64_t>(memory_limit);
  od_player* player = nullptr;
  od_error error = {};
  const int32_t code = od_open(&options, &player, &error);
  if (code != 0) raise(env, code, error.message);
  return code == 0 ? reinterpret_cast<jlong>(player) : 0;
}

void close(JNIEnv*, jclass, jlong handle) { od_close(player_of(handle)); }

jbyteArray describe(JNIEnv* env, jclass, jlong handle) { return text_of(env, od_describe(player_of(handle))); }

jobject draw(JNIEnv* env, jclass, jlong handle, jobjectArray text_names, jobjectArray texts, jobjectArray number_names,
             jdoubleArray numbers, jobjectArray picture_names, jobjectArray pictures, jintArray picture_sizes,
             jdoubleArray thresholds, jobjectArray adapter_names, jdoubleArray scales, jint steps, jbyteArray sampler,
             jlong seed, jint seed_mode, jint emphasis, jint long_texts, jint width, jint height, jboolean low_memory,
             jboolean fast, jint preview_every, jint preview_by, jobject watch) {
  Copies names, values, keys, shown, pixels, adapters;
  if (!names.take(env, text_names) || !values.take(env, texts) || !keys.take(env, number_names) ||
      !shown.take(env, picture_names) || !pixels.take(env, pictures) || !adapters.take(env, adapter_names)) {
    return nullptr;
  }
  const Copy sampler_text(env, sampler);
  if (env->ExceptionCheck()) return nullptr;
  od_text given_texts[Copies::kMost];
  for (jsize i = 0; i < names.count; ++i) given_texts[i] = {names[i], values[i]};
  jdouble figures[2 * Copies::kMost];
  env->GetDoubleArrayRegion(numbers, 0, keys.count, figures);
  od_number given_numbers[Copies::kMost];
  for (jsize i = 0; i < keys.count; ++i) given_numbers[i] = {keys[i], figures[i]};
  env->GetDoubleArrayRegion(scales, 0, adapters.count, figures);
  od_adapter given_adapters[Copies::kMost];
  for (jsize i = 0; i < adapters.count; ++i) given_adapters[i] = {adapters[i], figures[i]};
  jint sizes[2 * Copies::kMost];
  env->GetIntArrayRegion(picture_sizes, 0, 2 * shown.count, sizes);
  env->GetDoubleArrayRegion(thresholds, 0, 2 * shown.count, figures);
  od_picture_in given_pictures[Copies::kMost];
  for (jsize i = 0; i < shown.count; ++i) {
    given_pictures[i] = {shown[i],
                         reinterpret_cast<const uint8_t*>(pixels[i]),
                         static_cast<uint32_t>(sizes[2 * i]),
                         static_cast<uint32_t>(sizes[2 * i + 1]),
                         figures[2 * i],
                         figures[2 * i + 1]};
  }
  od_request request = {};
  request.texts = given_texts;
  request.text_count = static_cast<size_t>(names.count);
  request.numbers = given_numbers;
  request.number_count = static_cast<size_t>(keys.count);
  request.pictures = given_pictures;
  request.picture_count = static_cast<size_t>(shown.count);
  request.adapters = given_adapters;
  request.adapter_count = static_cast<size_t>(adapters.count);
  request.fast = fast ? 1 : 0;
  request.preview_by = preview_by;
  request.steps = static_cast<uint32_t>(steps);
  request.sampler = sampler_text.text();
  request.seed = seed;
  request.seed_mode = seed_mode;
  request.emphasis = emphasis;
  request.long_texts = long_texts;
  request.width = static_cast<uint32_t>(width);
  request.height = static_cast<uint32_t>(height);
  request.low_memory = low_memory ? 1 : 0;
  request.preview_every = static_cast<uint32_t>(preview_every);

  Watcher watcher = {env, watch, player_of(handle)};
  const od_watch calls = {&watcher, progress, preview};
  od_result result = {};
  od_error error = {};
  const int32_t code = od_draw(player_of(handle), &request, watch ? &calls : nullptr, &result, &error);
  if (watcher.thrown()) return nullptr;
  if (code != 0) {
    raise(env, code, error.message);
    return nullptr;
  }
  jbyteArray png = bytes_of(env, result.png, result.png_bytes);
  jbyteArray rgb = png ? bytes_of(env, result.rgb, size_t(3) * result.width * result.height) : nullptr;
  jbyteArray parameters = rgb ? text_of(env, result.parameters ? result.parameters : "") : nullptr;
  if (!parameters) return nullptr;
  return env->NewObject(picture_class, make_picture, png, rgb, static_cast<jint>(result.width),
                        static_cast<jint>(result.height), parameters, result.seconds_to_first_step,
                        result.seconds_of_steps, result.seconds_of_decoder, static_cast<jlong>(result.device_bytes));
}

void cancel(JNIEnv*, jclass, jlong handle) { od_cancel(player_of(handle)); }

void unload(JNIEnv*, jclass, jlong handle) { od_unload(player_of(handle)); }

jbyteArray bench(JNIEnv* env, jclass, jlong handle, jint repeats) {
  const char* rows = nullptr;
  od_error error = {};
  const int32_t code = od_bench(player_of(handle), static_cast<uint32_t>(repeats), &rows, &error);
  if (code != 0) raise(env, code, error.message);
  return code == 0 ? text_of(env, rows) : nullptr;
}

#ifdef __ANDROID__
void log_line(void*, int32_t level, const char* line) {
  __android_log_write(level ? ANDROID_LOG_WARN : ANDROID_LOG_INFO, "ondevice", line);
}
#endif

// JNI's table of functions is not const.
#define METHOD(name, signature) \
  { const_cast<char*>(#name), const_cast<char*>(signature), reinterpret_cast<void*>(name) }
const JNINativeMethod kMethods[] = {
    METHOD(version, "()[B"),
    METHOD(open, "([BI[B[B[B[BJ)J"),
    METHOD(close, "(J)V"),
    METHOD(describe, "(J)[B"),
    METHOD(draw,
           "(J[[B[[B[[B[D[[B[[B[I[D[[B[DI[BJIIIIIZZIILdev/ondevice/player/Watch;)Ldev/ondevice/player/Picture;"),
    METHOD(cancel, "(J)V"),
    METHOD(unload, "(J)V"),
    METHOD(bench, "(JI)[B"),
};
#undef METHOD

jclass class_of(JNIEnv* env, const char* name) {
  jclass local = env->FindClass(name);
  return local ? static_cast<jclass>(env->NewGlobalRef(local)) : nullptr;
}

bool bind(JNIEnv* env) {
  native_class = class_of(env, "dev/ondevice/player/Native");
  if (native_class) picture_class = class_of(env, "dev/ondevice/player/Picture");
  if (picture_class) exception_class = class_of(env, "dev/ondevice/player/PlayerException");
  if (!exception_class) return false;
  on_progress = env->GetStaticMethodID(native_class, "progress", "(Ldev/ondevice/player/Watch;IID[B)V");
  if (on_progress) on_preview = env->GetStaticMethodID(native_class, "preview", "(Ldev/ondevice/player/Watch;I[BII)V");
  if (on_preview) make_picture = env->GetMethodID(picture_class, "<init>", "([B[BII[BDDDJ)V");
  if (make_picture) make_exception = env->GetMethodID(exception_class, "<init>", "(I[B)V");
  return make_exception && env->RegisterNatives(native_class, kMethods, sizeof kMethods / sizeof kMethods[0]) == JNI_OK;
}

}  // namespace

extern "C" JNIEXPORT jint JNI_OnLoad(JavaVM* vm, void*) {
  JNIEnv* env = nullptr;
  if (vm->GetEnv(reinterpret_cast<void**>(&env), JNI_VERSION_1_6) != JNI_OK || !bind(env)) return JNI_ERR;
#ifdef __ANDROID__
  od_set_log(log_line, nullptr);
#endif
  return JNI_VERSION_1_6;
}
