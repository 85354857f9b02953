// From any data set of pictures to shards: a few large files that are read in order, with small pictures in them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "data/image_shards.h"

namespace accrete {

struct PrepareImages {
  std::filesystem::path in;  // anything that open_images reads
  std::filesystem::path out;
  int64_t max_side = 256;  // pictures whose shorter side is longer are shrunk to it; 0: none is
  int quality = 90;        // of the JPEG that a shrunk picture becomes
  bool pixels = false;     // store every picture decoded: large, and quick to read
  int64_t shard_bytes = int64_t{256} << 20;
  int threads = 1;
};

// Every picture is decoded once: broken ones are left out and listed in the result (but MissingLibrary, of a format
// that this build cannot read, ends the run), the others give the mean and the deviation of the training split.
// Pictures that need not shrink are kept byte for byte, unless pixels are asked for. The result does not depend on the
// number of threads. Nothing in `out` changes before everything is written, and meta.json comes last. `log` receives
// one line of progress at a time.
ImageMeta prepare_images(const PrepareImages& options, const std::function<void(const std::string&)>& log);

}  // namespace accrete
