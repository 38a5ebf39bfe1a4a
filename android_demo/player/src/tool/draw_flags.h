// What the flags of `draw` ask for.
#pragma once

#include "draw/draw.h"
#include "tool/flags.h"

namespace od {

// Pictures by name, and the pixels of their files.
class PictureFiles {
 public:
  ~PictureFiles();
  // Those of --init-image, --mask, --control and --picture.
  bool read(const Arguments& arguments, Error& error);
  Span<const GivenPicture> pictures() const { return {pictures_.begin(), pictures_.size()}; }

 private:
  bool add(Text name, const char* path, Error& error);
  bool add_control(const Arguments& arguments, Error& error);
  List<List<u8>*> pixels_;
  List<GivenPicture> pictures_;
};

// A path's last part.
const char* file_name(const char* path);
// "a=b.png, c=d.png" of what --control and --picture say. Whether there was memory for it.
bool name_pictures(const Arguments& arguments, List<char>& out);
// --guidance, --strength and --number.
bool read_numbers(const Arguments& arguments, List<NamedNumber>& out, Error& error);
// What --control-scale, --control-start, --control-end and --guess say of the nets of --control: their names are
// literals.
bool read_control(const Arguments& arguments, List<NamedNumber>& out, Error& error);
// --lora NAME[:SCALE], the names in the arguments.
bool read_adapters(const Arguments& arguments, List<GivenAdapter>& out, Error& error);
// --preview-by.
bool read_preview_by(const Arguments& arguments, PreviewBy& out, Error& error);
// --seed and its kin, and --count.
bool read_seeds(const Arguments& arguments, Seeds& out, i64& count, Error& error);
// --emphasis and --long.
bool read_texts(const Arguments& arguments, Request& out, Error& error);
// --stream-weights [SIZE].
bool read_streaming(const Arguments& arguments, Request& out, Error& error);
// --refiner-start; 0 where there is no --refiner.
bool read_refiner(const Arguments& arguments, double& start, Error& error);

}  // namespace od
