// Pictures to pixels: exact against the reference decodes of images-odd, and an answer of the right kind for each of
// its damaged files. What needs no data set is made here with our own JPEG writer and a few hand-written bytes.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "data/image_decode.h"
#include "data/image_resize.h"
#include "data/stb_decode.h"
#include "engine/core/file.h"
#include "tests/image_testing.h"
#include "tests/shared_data.h"

using namespace accrete;
namespace fs = std::filesystem;

namespace {

std::vector<double> means(const Image& image) {
  std::vector<double> sums(3);
  for (size_t i = 0; i < image.pixels.size(); ++i) sums[i % 3] += image.pixels[i];
  for (double& s : sums) s /= static_cast<double>(image.width * image.height);
  return sums;
}

int64_t largest_difference(const Image& a, const Image& b) {
  if (a.pixels.size() != b.pixels.size()) return 256;
  int64_t most = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) most = std::max<int64_t>(most, std::abs(a.pixels[i] - b.pixels[i]));
  return most;
}

// At least `size` zeros as deflate packs them closest with its fixed codes: a zero, then copies of 258 bytes from one
// byte before, 13 bits each.
std::string packed_zeros(size_t size) {
  std::string out = "\x78\x01";
  uint32_t held = 0, count = 0;
  const auto put = [&](uint32_t bits, uint32_t n) {  // the first bit of the stream is the lowest of a byte
    held |= bits << count, count += n;
    for (; count >= 8; count -= 8, held >>= 8) out += static_cast<char>(held);
  };
  put(0b011, 3);       // the last block, fixed codes
  put(0b00001100, 8);  // the byte 0: its code 00110000, from the highest bit on
  for (size_t n = 1; n < size; n += 258) {
    put(0b10100011, 8);  // length 258: its code 11000101
    put(0, 5);           // distance 1
  }
  put(0, 7 + 7);  // the end of the block, and bits to fill the last byte
  return out + "ADLR";
}

// The lines of the manifest as title -> cell, and the folder.
using Line = std::map<std::string, std::string>;
std::pair<std::vector<Line>, fs::path> odd_files() {
  static const TempFolder unpacked;
  static const fs::path folder = shared_folder("images/images-odd", unpacked);
  std::vector<Line> lines;
  if (folder.empty()) return {lines, folder};
  std::ifstream in(folder / "manifest.tsv");
  std::vector<std::string> titles;
  for (std::string text; std::getline(in, text);) {
    std::istringstream cells(text);
    std::vector<std::string> line;
    for (std::string cell; std::getline(cells, cell, '\t');) line.push_back(cell);
    if (titles.empty()) {
      titles = line;
      continue;
    }
    for (size_t i = 0; i < std::min(titles.size(), line.size()); ++i) {
      if (i == 0) lines.emplace_back();
      lines.back()[titles[i]] = line[i];
    }
  }
  return {lines, folder};
}

// The pixels that a bicubic resampling of the region sees are those of the whole picture.
void check_exact_region(std::span<const uint8_t> bytes, const Image& whole, const Region& r) {
  const DecodedRegion part = decode_region(bytes, 3, r, r.w, r.h, "part");
  CAPTURE(r.x);
  CAPTURE(r.y);
  CAPTURE(r.w);
  CAPTURE(r.h);
  REQUIRE(part.w == static_cast<double>(r.w));
  REQUIRE(part.h == static_cast<double>(r.h));
  const int64_t left = std::max<int64_t>(0, r.x - 2), right = std::min(whole.width, r.x + r.w + 2);
  const int64_t top = std::max<int64_t>(0, r.y - 2), bottom = std::min(whole.height, r.y + r.h + 2);
  const int64_t dx = r.x - static_cast<int64_t>(part.x), dy = r.y - static_cast<int64_t>(part.y);
  REQUIRE(left - dx >= 0);
  REQUIRE(right - dx <= part.image.width);
  REQUIRE(bottom - dy <= part.image.height);
  bool same = true;
  for (int64_t y = top; y < bottom; ++y)
    same = same && std::memcmp(whole.row(y) + left * 3, part.image.row(y - dy) + (left - dx) * 3,
                               static_cast<size_t>(right - left) * 3) == 0;
  CHECK(same);
}

}  // namespace

TEST_CASE("images-odd: every file gets the answer of its manifest") {
  if (!jpeg_supported() || !stb_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo or no stb_image");
    return;
  }
  const auto [files, folder] = odd_files();
  std::map<std::string, int> decoded, refused;
  for (Line line : files) {
    const std::string name = line["file"], expect = line["expect"];
    CAPTURE(name);
    const std::string bytes = read_text(folder / name);
    Image image;
    const std::string message = refusal([&] { image = decode_image(bytes_of(bytes), 3, name); });
    CAPTURE(message);
    ++(message.empty() ? decoded : refused)[expect];
    if (!message.empty()) {
      CHECK(message.starts_with("[" + name + "] "));
      CHECK(message.find('\n') == std::string::npos);
    }
    if (expect == "reject") {
      CHECK(!message.empty());
      continue;
    }
    if (expect == "decode" || expect == "decode-by-content" || expect == "decode-cmyk") REQUIRE(message.empty());
    if (expect == "decode-if-supported" && line["format"] == "WEBP")
      CHECK(message.find("WebP is not supported") != std::string::npos);
    if (expect == "decode-if-supported" && line["format"] != "WEBP") CHECK(message.empty());
    if (!message.empty() || line["width"] == "-") continue;
    const ImageHeader header = read_image_header(bytes_of(bytes), name);
    CHECK(std::to_string(header.width) == line["width"]);
    CHECK(std::to_string(header.height) == line["height"]);
    CHECK(image.width == header.width);
    CHECK(image.height == header.height);
    // The region of everything is the whole picture.
    const DecodedRegion all =
        decode_region(bytes_of(bytes), 3, {0, 0, image.width, image.height}, image.width, image.height, name);
    CHECK(all.image.pixels == image.pixels);
    // Damaged files have no right answer, and Pillow states none for 16-bit grey.
    if (expect == "optional" || line["mean_r"] == "-") continue;
    const std::vector<double> mean = means(image);
    CHECK(std::abs(mean[0] - std::stod(line["mean_r"])) < 1.0);
    CHECK(std::abs(mean[1] - std::stod(line["mean_g"])) < 1.0);
    CHECK(std::abs(mean[2] - std::stod(line["mean_b"])) < 1.0);
  }
  if (files.empty()) return;
  CHECK(decoded["decode"] == 62);
  for (const auto& [expect, n] : decoded) MESSAGE(expect << ": " << n << " decoded, " << refused[expect] << " refused");
}

TEST_CASE("images-odd: whole JPEGs equal the reference decodes to the last bit, and so do their parts") {
  if (!jpeg_supported() || !stb_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo or no stb_image");
    return;
  }
  const auto [files, folder] = odd_files();
  int compared = 0;
  for (Line line : files) {
    const fs::path png = folder / "reference" / fs::path(line["file"]).replace_extension(".png");
    if (!fs::exists(png)) continue;
    const std::string name = line["file"];
    CAPTURE(name);
    const std::string bytes = read_text(folder / name), reference = read_text(png);
    const Image image = decode_image(bytes_of(bytes), 3, name);
    CHECK(image.pixels == decode_image(bytes_of(reference), 3, "reference").pixels);
    ++compared;
    const int64_t w = image.width, h = image.height;
    check_exact_region(bytes_of(bytes), image, {w / 3, h / 3, w / 2, h / 2});
    check_exact_region(bytes_of(bytes), image, {w / 2, 0, w - w / 2, h / 4 + 1});
    check_exact_region(bytes_of(bytes), image, {0, h / 2, w / 4 + 1, h - h / 2});
    for (int64_t i = 0; i < 20; ++i)
      check_exact_region(bytes_of(bytes), image,
                         {i * w / 23, (20 - i) * h / 23, std::max<int64_t>(1, w / 9), std::max<int64_t>(1, h / 9)});
  }
  if (!files.empty()) CHECK(compared == 17);
}

TEST_CASE("a region is reduced as far as its pixels allow, and its box says where it lies") {
  if (!jpeg_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo");
    return;
  }
  const Image picture = make_picture(401, 303, 3, 1);
  const std::string bytes = make_jpeg(picture);
  const Image whole = decode_image(bytes_of(bytes), 3, "whole");
  CHECK(largest_difference(whole, picture) < 60);
  const Region r{37, 51, 256, 200};
  for (const auto& [side, factor] :
       {std::pair<int64_t, double>{201, 1}, {200, 1}, {101, 1}, {100, 2}, {51, 2}, {50, 4}, {26, 4}, {25, 8}, {5, 8}}) {
    const int64_t out = side;
    const DecodedRegion part = decode_region(bytes_of(bytes), 3, r, out, out, "part");
    CAPTURE(out);
    CHECK(part.w == 256 / factor);
    CHECK(part.h == 200 / factor);
    CHECK(part.x >= 0);
    CHECK(part.x + part.w <= static_cast<double>(part.image.width));
    CHECK(part.y + part.h <= static_cast<double>(part.image.height));
    CHECK(part.image.width < 402 / factor + 1);
    // The reduced region shows the same: the DCT's reduction is close to an average over factor x factor pixels, so
    // resampling either to the same size gives nearly the same picture.
    const Image a = resize_image(part.image, out, out, Filter::bicubic, part.x, part.y, part.w, part.h);
    const Image b = resize_image(whole, out, out, Filter::bicubic, r.x, r.y, r.w, r.h);
    CHECK(largest_difference(a, b) <= (factor == 1 ? 0 : 12));
    const std::vector<double> mean_a = means(a), mean_b = means(b);
    for (int c = 0; c < 3; ++c) CHECK(std::abs(mean_a[c] - mean_b[c]) < 0.5);
  }
  // Every pixel can be the corner of a region.
  for (int64_t x = 0; x < 401; x += 13)
    for (int64_t y = 0; y < 303; y += 17) {
      const Region corner{x, y, std::min<int64_t>(40, 401 - x), std::min<int64_t>(50, 303 - y)};
      check_exact_region(bytes_of(bytes), whole, corner);
      const DecodedRegion small = decode_region(bytes_of(bytes), 3, corner, 1, 1, "small");
      CHECK(small.x + small.w <= static_cast<double>(small.image.width));
      CHECK(small.y + small.h <= static_cast<double>(small.image.height));
    }
  for (const Region& bad :
       {Region{-1, 0, 5, 5}, {0, 0, 402, 5}, {400, 0, 2, 1}, {0, 0, 0, 5}, {0, INT64_MAX, 1, 1}, {1, 1, INT64_MAX, 1}})
    CHECK(refusal([&] { decode_region(bytes_of(bytes), 3, bad, 1, 1, "x"); }).find("does not lie in") !=
          std::string::npos);
}

TEST_CASE("grey pictures: one channel or three equal ones") {
  if (!jpeg_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo");
    return;
  }
  const Image picture = make_picture(50, 40, 1, 2);
  const std::string bytes = make_jpeg(picture, 100);
  const Image grey = decode_image(bytes_of(bytes), 1, "grey"), colour = decode_image(bytes_of(bytes), 3, "colour");
  CHECK(largest_difference(grey, picture) <= 3);
  for (size_t i = 0; i < colour.pixels.size(); ++i) REQUIRE(colour.pixels[i] == grey.pixels[i / 3]);
  // A colour JPEG as grey is its luma plane: what the formula gives, but for the rounding of the colours.
  const Image rgb = make_picture(50, 40, 3, 3);
  const std::string coloured = make_jpeg(rgb, 100);
  const Image l = decode_image(bytes_of(coloured), 1, "l"), back = decode_image(bytes_of(coloured), 3, "rgb");
  for (size_t i = 0; i < l.pixels.size(); ++i)
    REQUIRE(std::abs(l.pixels[i] - luma(back.pixels[3 * i], back.pixels[3 * i + 1], back.pixels[3 * i + 2])) <= 2);
  CHECK(refusal([&] { decode_image(bytes_of(bytes), 2, "x"); }).find("1 or 3 channels") != std::string::npos);
}

TEST_CASE("PNG, PNM, BMP: exact; alpha is dropped, 16 bits become 8; the content decides") {
  if (!stb_supported()) {
    MESSAGE("skipped: this build has no stb_image");
    return;
  }
  const Image rgb = make_picture(13, 9, 3, 4), grey = make_picture(13, 9, 1, 5);
  CHECK(decode_image(bytes_of(make_pnm(rgb)), 3, "a.jpg").pixels == rgb.pixels);
  CHECK(decode_image(bytes_of(make_pnm(grey)), 1, "a").pixels == grey.pixels);
  CHECK(read_image_header(bytes_of(make_pnm(grey)), "a").format == "pnm");
  const std::string wide = std::string("P5#wide\n2 1\n# by hand\n65535\n") + "\x80\x80\xFF\xFF";
  CHECK(decode_image(bytes_of(wide), 1, "a").pixels == std::vector<uint8_t>{128, 255});
  std::string rows, alpha_rows, wide_rows;
  for (int64_t y = 0; y < 9; ++y) {
    rows += '\0', alpha_rows += '\0', wide_rows += '\0';  // no filter
    rows.append(reinterpret_cast<const char*>(rgb.row(y)), 39);
    for (int64_t x = 0; x < 39; ++x) {
      alpha_rows += static_cast<char>(rgb.row(y)[x]);
      if (x % 3 == 2) alpha_rows += static_cast<char>(7 * x);
      wide_rows += {static_cast<char>(rgb.row(y)[x]), static_cast<char>(5 * x)};
    }
  }
  const std::string png = make_png(13, 9, 8, 2, rows);
  CHECK(decode_image(bytes_of(png), 3, "a").pixels == rgb.pixels);
  std::string chunks = png;  // the data may come in several chunks, the first of them empty
  chunks.insert(png.find("IDAT") - 4, png_chunk("IDAT", ""));
  CHECK(decode_image(bytes_of(chunks), 3, "a").pixels == rgb.pixels);
  CHECK(decode_image(bytes_of(make_png(13, 9, 8, 6, alpha_rows)), 3, "a").pixels == rgb.pixels);
  CHECK(decode_image(bytes_of(make_png(13, 9, 16, 2, wide_rows)), 3, "a").pixels == rgb.pixels);
  const Image l = decode_image(bytes_of(png), 1, "a");
  for (size_t i = 0; i < l.pixels.size(); ++i)
    REQUIRE(l.pixels[i] == luma(rgb.pixels[3 * i], rgb.pixels[3 * i + 1], rgb.pixels[3 * i + 2]));
  check_exact_region(bytes_of(png), rgb, {3, 2, 5, 4});
}

TEST_CASE("headers that promise more than the file can hold are refused before memory is taken") {
  if (!jpeg_supported() || !stb_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo or no stb_image");
    return;
  }
  const auto refused = [](const std::string& bytes, const std::string& expected) {
    for (const bool whole : {true, false}) {
      const std::string message = refusal([&] {
        whole ? void(decode_image(bytes_of(bytes), 3, "bomb"))
              : void(decode_region(bytes_of(bytes), 3, {0, 0, 1, 1}, 1, 1, "bomb"));
      });
      CAPTURE(message);
      CHECK(message.starts_with("[bomb] "));
      CHECK(message.find(expected) != std::string::npos);
    }
  };
  std::string jpeg = make_jpeg(make_picture(16, 16, 3, 6));
  const size_t frame = jpeg.find("\xFF\xC0");
  REQUIRE(frame != std::string::npos);
  const auto sized = [&](uint32_t h, uint32_t w) {
    std::string out = jpeg;
    out.replace(frame + 5, 4, big_endian(h << 16 | w));
    return out;
  };
  refused(sized(65500, 65500), "the size is 65500x65500");
  refused(sized(9000, 9000), "cannot hold the 9000x9000 pixels");
  refused(sized(0, 16), "JPEG");
  refused(make_png(30000, 30000, 8, 2, "x"), "the size is 30000x30000");
  refused(make_png(10000, 9000, 16, 6, "x"), "cannot hold the 10000x9000 pixels");
  refused(make_png(600, 600, 16, 6, "x"), "at least 2790 bytes");
  // A progressive picture (SOF2) is held as coefficients: the same size in one scan may be read.
  std::string large = sized(9000, 9000) + std::string(80000, 'x');
  CHECK(read_image_header(bytes_of(large), "bomb").width == 9000);
  large[frame + 1] = '\xC2';
  refused(large, "a progressive JPEG (in several scans) of 9000x9000 pixels takes too much memory; expected at most");
  refused("P6 2 2 255\nabc", "expected 12 bytes of pixels; got 3");
  refused("P6 9 9 255\nabc", "cannot hold");
  refused("P6 20000 20000 255\nabc", "the size is 20000x20000");
  refused("P5 99999999999 1 255\n", "the size is");
  refused("P5 1 1 70000 a", "pnm");
  refused("P5 1", "pnm");
  refused("P5", "pnm");
}

TEST_CASE("a PNG whose packed data is longer than its header tells is refused before it fills the memory") {
  if (!stb_supported()) {
    MESSAGE("skipped: this build has no stb_image");
    return;
  }
  // Rows of zeros, `size` bytes in all.
  const auto png = [](uint32_t side, int depth, int colour_type, bool interlaced, size_t size) {
    std::string bytes = make_png(side, side, depth, colour_type, "");
    bytes[bytes.find("IHDR") + 4 + 12] = static_cast<char>(interlaced);
    return bytes.substr(0, bytes.find("IDAT") - 4) + png_chunk("IDAT", packed_zeros(size)) + png_chunk("IEND", "");
  };
  const auto message = [](const std::string& bytes) { return refusal([&] { decode_image(bytes_of(bytes), 3, "f"); }); };
  CHECK(decode_image(bytes_of(png(1, 8, 0, false, 2)), 1, "f").pixels == std::vector<uint8_t>{0});
  CHECK(message(png(1, 8, 0, false, 100000)).empty());  // too much, but little
  const std::string bomb = png(1, 8, 0, false, size_t{64} << 20);
  CHECK(bomb.size() < 500000);
  CHECK(message(bomb) == "[f] damaged or unsupported png: it asks for more memory than its header tells");
  // What takes most for its size: interlaced rows of 16 bits and alpha. They have 1875 rows in all, one byte more each.
  CHECK(message(png(1000, 16, 6, true, 8 * 1000 * 1000 + 1875)).empty());
}

TEST_CASE("what is no picture is told so; a JPEG cut short is not taken for a whole one") {
  const auto message = [](const std::string& bytes) { return refusal([&] { decode_image(bytes_of(bytes), 3, "f"); }); };
  CHECK(message("") == "[f] the file is empty; expected JPEG, PNG, BMP, GIF or binary PNM");
  CHECK(message("<html>\n<body>") ==
        "[f] not a picture: it begins with \"<html>?<body>\"; expected JPEG, PNG, BMP, GIF or binary PNM");
  CHECK(message("RIFF1234WEBPVP8 ").find("WebP is not supported") != std::string::npos);
  CHECK(message(std::string("II*\0abc", 7)).find("TIFF is not supported") != std::string::npos);
  if (!jpeg_supported()) {
    MESSAGE("skipped: this build has no libjpeg-turbo");
    CHECK(message("\xFF\xD8\xFF").find("install libjpeg-turbo") != std::string::npos);
    return;
  }
  const std::string whole = make_jpeg(make_picture(64, 64, 3, 7));
  for (size_t size = 3; size + 2 < whole.size(); size += 7) {
    CAPTURE(size);
    const std::string text = message(whole.substr(0, size));
    CHECK(text.find("cut short") != std::string::npos);
  }
  CHECK(message(whole.substr(0, whole.size() - 2)).empty());  // only the end marker is missing
  CHECK(message(whole + "and more").empty());
  CHECK(refusal([] { jpeg_encode(Image(), 90); }).find("JPEG holds") != std::string::npos);
  CHECK(refusal([] { jpeg_encode(Image(8, 8, 3), 101); }).find("1..100") != std::string::npos);
}
