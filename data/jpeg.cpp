// libjpeg reports errors by a function that must not return; ours jumps back to the C++ that called the library
// (Decoder::guard) and becomes an Error there. Between the two lie only frames of C and of lambdas without destructors.
#include "data/jpeg.h"

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>

#include "engine/core/error.h"
#ifdef ACCRETE_WITH_JPEG
#include <jpeglib.h>
// after jpeglib.h
#include <jerror.h>
#endif

namespace accrete {

#ifdef ACCRETE_WITH_JPEG
namespace {

// A block of 64 pixels takes at least one bit in a scan, and chroma costs something too. Arithmetic coding can do with
// less on flat pictures, by far not this much on anything real.
constexpr int64_t kMostPixelsPerByte = 1024;
// Progressive files have about ten scans. A hostile one has thousands of empty ones, each a pass over the picture.
constexpr int kMostScans = 100;
// Where a picture has several scans, libjpeg holds all coefficients at once: 6 bytes for a pixel of full chroma, 8 for
// CMYK. A picture in one scan takes only rows beside its pixels.
constexpr int64_t kMostPixelsOfScans = int64_t{1} << 26;
constexpr int64_t kRowsAtOnce = 16;

struct Failure {
  jpeg_error_mgr manager;  // first: libjpeg hands back a pointer to it
  std::jmp_buf jump;
  char text[JMSG_LENGTH_MAX];
  bool ran_out = false;  // the decoder asked for bytes behind the end
};

Failure& failure_of(j_common_ptr info) { return *reinterpret_cast<Failure*>(info->err); }

[[noreturn]] void give_up(j_common_ptr info) {
  Failure& failure = failure_of(info);
  (*failure.manager.format_message)(info, failure.text);
  std::longjmp(failure.jump, 1);
}

// Damage is mended as well as it goes, as everywhere; but a picture that is cut short must not pass for a whole one.
void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;  // traces
  ++failure_of(info).manager.num_warnings;
  if (failure_of(info).manager.msg_code == JWRN_HIT_MARKER && failure_of(info).ran_out) give_up(info);
}

void on_progress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMostScans) return;
  Failure& failure = failure_of(info);
  std::snprintf(failure.text, sizeof failure.text, "more than %d scans", kMostScans);
  std::longjmp(failure.jump, 1);
}

void prepare(Failure& failure) {
  jpeg_std_error(&failure.manager);
  failure.manager.error_exit = give_up;
  failure.manager.emit_message = on_message;
  failure.manager.output_message = [](j_common_ptr) {};
}

// The bytes in memory; behind them stands an end-of-image marker without end, so that the decoder always comes to rest.
constexpr JOCTET kEnd[2] = {0xFF, JPEG_EOI};

boolean fill(j_decompress_ptr info) {
  failure_of(reinterpret_cast<j_common_ptr>(info)).ran_out = true;
  info->src->next_input_byte = kEnd;
  info->src->bytes_in_buffer = 2;
  return TRUE;
}

void skip(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  if (static_cast<size_t>(count) > info->src->bytes_in_buffer) {
    fill(info);
    return;
  }
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= static_cast<size_t>(count);
}

// What a pass over rows must see beyond the region: a bicubic resampling to `out` pixels reads 2 pixels (of its own
// size, when it shrinks) on each side; the outermost 2 are not exact, their neighbours being left out.
int64_t surroundings(double size, int64_t out) {
  return static_cast<int64_t>(std::ceil(2 * std::max(1.0, size / static_cast<double>(out)))) + 2;
}

// Destroys itself, also when the constructor of what it belongs to throws.
struct Decompressor : jpeg_decompress_struct {
  Decompressor() : jpeg_decompress_struct{} {}
  ~Decompressor() { jpeg_destroy_decompress(this); }
};

class Decoder {
 public:
  // Reads the header and checks the size.
  Decoder(std::span<const uint8_t> bytes, const std::string& where) : where_(where) {
    prepare(failure_);
    info_.err = &failure_.manager;
    source_.next_input_byte = bytes.data();
    source_.bytes_in_buffer = bytes.size();
    source_.init_source = [](j_decompress_ptr) {};
    source_.fill_input_buffer = fill;
    source_.skip_input_data = skip;
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.term_source = [](j_decompress_ptr) {};
    progress_.progress_monitor = on_progress;
    bool scans = false;
    guard([&] {
      jpeg_create_decompress(&info_);
      info_.src = &source_;
      info_.progress = &progress_;
      jpeg_read_header(&info_, TRUE);
      scans = jpeg_has_multiple_scans(&info_) != FALSE;
    });
    check_image_size(info_.image_width, info_.image_height, static_cast<int64_t>(bytes.size()), kMostPixelsPerByte,
                     where_);
    check(!scans || width() * height() <= kMostPixelsOfScans, where_, "a progressive JPEG (in several scans) of ",
          width(), "x", height(), " pixels takes too much memory; expected at most ", kMostPixelsOfScans,
          " pixels; store it in one scan");
  }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  int64_t width() const { return info_.image_width; }
  int64_t height() const { return info_.image_height; }

  Image decode(int64_t channels) {
    choose_colours(channels);
    guard([&] { jpeg_start_decompress(&info_); });
    Image out(info_.output_width, info_.output_height, channels);
    read_rows(out);
    return out;
  }

  DecodedRegion decode(int64_t channels, const Region& region, int64_t min_w, int64_t min_h) {
    choose_colours(channels);
    int64_t factor = 8;
    while (factor > 1 && (region.w < factor * min_w || region.h < factor * min_h)) factor /= 2;
    info_.scale_num = 1;
    info_.scale_denom = static_cast<unsigned>(factor);
    guard([&] { jpeg_start_decompress(&info_); });
    // The region in reduced pixels, and whole pixels around it that are decoded.
    const double f = static_cast<double>(factor);
    const double x = static_cast<double>(region.x) / f, w = static_cast<double>(region.w) / f;
    const double y = static_cast<double>(region.y) / f, h = static_cast<double>(region.h) / f;
    const int64_t beside = surroundings(w, min_w), above = surroundings(h, min_h);
    const int64_t right = std::min<int64_t>(info_.output_width, static_cast<int64_t>(std::ceil(x + w)) + beside);
    const int64_t bottom = std::min<int64_t>(info_.output_height, static_cast<int64_t>(std::ceil(y + h)) + above);
    const int64_t top = std::max<int64_t>(0, static_cast<int64_t>(y) - above);
    JDIMENSION left = static_cast<JDIMENSION>(std::max<int64_t>(0, static_cast<int64_t>(x) - beside));
    JDIMENSION columns = static_cast<JDIMENSION>(right) - left;
    guard([&] {
      if (columns < info_.output_width) jpeg_crop_scanline(&info_, &left, &columns);  // moves left to a whole block
      if (top > 0) jpeg_skip_scanlines(&info_, static_cast<JDIMENSION>(top));
    });
    DecodedRegion out;
    out.image = Image(info_.output_width, bottom - top, channels);
    out.x = x - static_cast<double>(left), out.y = y - static_cast<double>(top), out.w = w, out.h = h;
    read_rows(out.image);
    return out;
  }

 private:
  template <class Work>
  void guard(Work work) {
    if (setjmp(failure_.jump) != 0)
      fail(where_, failure_.ran_out ? "the JPEG file is cut short: " : "damaged or unsupported JPEG: ", failure_.text);
    work();
  }

  void choose_colours(int64_t channels) {
    switch (info_.jpeg_color_space) {
      case JCS_GRAYSCALE:
      case JCS_RGB:
      case JCS_YCbCr:
        info_.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
        return;
      case JCS_CMYK:
      case JCS_YCCK:
        info_.out_color_space = JCS_CMYK;
        return;
      default:
        fail(where_, "JPEG with ", info_.num_components, " components of unknown meaning is not supported");
    }
  }

  // The next out.height rows.
  void read_rows(Image& out) {
    const bool four = info_.out_color_space == JCS_CMYK;
    const int64_t stride = int64_t{info_.output_width} * 4;
    std::vector<uint8_t> inks(static_cast<size_t>(four ? stride * kRowsAtOnce : 0));
    for (int64_t y = 0; y < out.height;) {
      const int64_t most = std::min(kRowsAtOnce, out.height - y);
      int64_t got = 0;
      guard([&] {
        JSAMPROW rows[kRowsAtOnce];
        for (int64_t r = 0; r < most; ++r) rows[r] = four ? inks.data() + r * stride : out.row(y + r);
        got = jpeg_read_scanlines(&info_, rows, static_cast<JDIMENSION>(most));
      });
      check(got > 0, where_, "the JPEG file is cut short: ", y, " of ", out.height, " rows");
      if (four)
        for (int64_t r = 0; r < got; ++r) colours_of_inks(inks.data() + r * stride, out.row(y + r), out);
      y += got;
    }
  }

  // Adobe stores inks inverted, so 255 is no ink, and everyone takes CMYK in JPEG to be Adobe's. As Pillow converts it:
  // a colour is what its ink leaves of what black leaves.
  static void colours_of_inks(const uint8_t* inks, uint8_t* to, const Image& out) {
    for (int64_t x = 0; x < out.width; ++x, inks += 4, to += out.channels) {
      int colour[3];
      for (int c = 0; c < 3; ++c) {
        const int product = (255 - inks[c]) * inks[3] + 128;
        colour[c] = std::max(0, inks[3] - (((product >> 8) + product) >> 8));
      }
      if (out.channels == 1) {
        *to = luma(colour[0], colour[1], colour[2]);
      } else {
        for (int c = 0; c < 3; ++c) to[c] = static_cast<uint8_t>(colour[c]);
      }
    }
  }

  const std::string& where_;
  Failure failure_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  Decompressor info_;
};

struct Compressor : jpeg_compress_struct {
  unsigned char* bytes = nullptr;  // libjpeg's, by malloc
  unsigned long size = 0;
  Compressor() : jpeg_compress_struct{} {}
  ~Compressor() {
    jpeg_destroy_compress(this);
    std::free(bytes);
  }
};

void encode(Compressor& info, Failure& failure, const Image& image, int quality) {
  if (setjmp(failure.jump) != 0) fail("image", "cannot encode a JPEG: ", failure.text);
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, &info.bytes, &info.size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = static_cast<int>(image.channels);
  info.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = const_cast<uint8_t*>(image.row(info.next_scanline));
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
}

}  // namespace

bool jpeg_supported() { return true; }

ImageHeader jpeg_header(std::span<const uint8_t> bytes, const std::string& where) {
  const Decoder decoder(bytes, where);
  return {"jpeg", decoder.width(), decoder.height()};
}

Image jpeg_decode(std::span<const uint8_t> bytes, int64_t channels, const std::string& where) {
  return Decoder(bytes, where).decode(channels);
}

DecodedRegion jpeg_decode_region(std::span<const uint8_t> bytes, int64_t channels, const Region& region, int64_t min_w,
                                 int64_t min_h, const std::string& where) {
  Decoder decoder(bytes, where);
  check_region(region, decoder.width(), decoder.height(), where);
  return decoder.decode(channels, region, min_w, min_h);
}

std::vector<uint8_t> jpeg_encode(const Image& image, int quality) {
  check(image.width >= 1 && image.height >= 1 && image.width <= JPEG_MAX_DIMENSION &&
            image.height <= JPEG_MAX_DIMENSION && (image.channels == 1 || image.channels == 3),
        "image", "JPEG holds 1 or 3 channels and sides of 1..", JPEG_MAX_DIMENSION, "; got ", image.width, "x",
        image.height, "x", image.channels);
  check(quality >= 1 && quality <= 100, "image", "the quality of a JPEG is 1..100; got ", quality);
  Failure failure{};
  prepare(failure);
  Compressor info;
  info.err = &failure.manager;
  encode(info, failure, image, quality);
  return {info.bytes, info.bytes + info.size};
}

#else

namespace {
[[noreturn]] void missing(const std::string& where) {
  throw MissingLibrary(
      "[" + where +
      "] this program was built without JPEG; install libjpeg-turbo (Debian, Ubuntu: libjpeg-dev) and build again");
}
}  // namespace

bool jpeg_supported() { return false; }
ImageHeader jpeg_header(std::span<const uint8_t>, const std::string& where) { missing(where); }
Image jpeg_decode(std::span<const uint8_t>, int64_t, const std::string& where) { missing(where); }
DecodedRegion jpeg_decode_region(std::span<const uint8_t>, int64_t, const Region&, int64_t, int64_t,
                                 const std::string& where) {
  missing(where);
}
std::vector<uint8_t> jpeg_encode(const Image&, int) { missing("image"); }

#endif

}  // namespace accrete
