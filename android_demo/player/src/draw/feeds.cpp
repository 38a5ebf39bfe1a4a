#include "draw/feeds.h"

#include <string.h>

namespace od {

Feeds::~Feeds() {
  for (DeviceValue* value : put_) session_.drop(*value);
}

bool Feeds::hold(Bytes data, Bytes& out, Error& error) {
  Span<u8> held;
  if (!pool_.array(held, data.count, error)) return false;
  if (data.data) memcpy(held.data, data.data, data.count);
  out = {held.data, held.count};
  return true;
}

bool Feeds::zeros(const Operand& port, u32 passes, Part& out, Error& error) {
  out = {nullptr, {}, port.dtype, port.shape};
  out.shape.dims[0] /= passes;
  return hold({nullptr, static_cast<size_t>(port.bytes / passes)}, out.host, error);
}

bool Feeds::slice(const DeviceValue& value, u32 first, u32 count, Part& out, Error& error) {
  auto* part = pool_.one<DeviceValue>();
  if (!part || !put_.push(part)) return Pool::no_memory(error, sizeof(DeviceValue));
  out.device = part;
  return session_.part(value, first, count, *part, error);
}

bool Feeds::add(Text port, Span<const Part> parts, Error& error) {
  Input input;
  input.port = port;
  bool on_device = false;
  size_t bytes = 0;
  for (const Part& part : parts) {
    on_device = on_device || part.device;
    bytes += part.host.count;
  }
  if (!on_device && parts.count == 1) {
    input.host = parts[0].host;
  } else if (!on_device) {
    Span<u8> joined;
    if (!pool_.array(joined, bytes, error)) return false;
    size_t at = 0;
    for (const Part& part : parts) {
      memcpy(joined.data + at, part.host.data, part.host.count);
      at += part.host.count;
    }
    input.host = {joined.data, joined.count};
  } else {
    Span<const DeviceValue*> values;
    if (!pool_.array(values, parts.count, error)) return false;
    for (size_t i = 0; i < parts.count; ++i) {
      values[i] = parts[i].device;
      if (values[i]) continue;
      auto* value = pool_.one<DeviceValue>();
      if (!value || !put_.push(value)) return Pool::no_memory(error, sizeof(DeviceValue));
      if (!session_.put(parts[i].host, parts[i].dtype, parts[i].shape, *value, error)) return false;
      values[i] = value;
    }
    input.parts = {values.data, values.count};
  }
  return inputs_.push(input) || Pool::no_memory(error, sizeof input);
}

}  // namespace od
