// bench data --in: how fast pictures become samples, on one core and with loader threads.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <iostream>

#include "apps/bench.h"
#include "data/image_decode.h"
#include "data/image_source.h"
#include "data/loader.h"
#include "engine/core/file.h"
#include "training/progress.h"

namespace accrete {

namespace {

namespace fs = std::filesystem;

// Every file below a folder, without classes: pictures that are no data set.
class PictureFiles : public ImageSet {
 public:
  explicit PictureFiles(const fs::path& folder) {
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      if (entry.is_regular_file()) files_.push_back(entry.path());
    std::sort(files_.begin(), files_.end());
    check(!files_.empty(), "bench", "the folder ", folder.string(), " holds no pictures");
  }
  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  int32_t label(int64_t) const override { return 0; }
  std::string name(int64_t i) const override { return files_[static_cast<size_t>(i)].string(); }
  StoredImage read(int64_t i) const override {
    const auto file = std::make_shared<const MappedFile>(files_[static_cast<size_t>(i)]);
    StoredImage stored;
    stored.encoded = {reinterpret_cast<const uint8_t*>(file->bytes().data()), file->bytes().size()};
    stored.owner = file;
    return stored;
  }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t channels() const override { return 3; }

 private:
  std::vector<fs::path> files_;
  std::vector<std::string> classes_ = {"all"};
};

std::shared_ptr<const ImageSet> pictures_of(const ImageBench& b, const std::string& path) {
  try {
    return open_images(path, b.split);
  } catch (const Error&) {
    if (!fs::is_directory(path)) throw;
  }
  return std::make_shared<PictureFiles>(path);
}

// The first `count` pictures that can be read, so that every figure is of the same work.
class Readable : public ImageSet {
 public:
  Readable(std::shared_ptr<const ImageSet> all, int64_t count) : all_(std::move(all)) {
    for (int64_t i = 0; i < all_->size() && static_cast<int64_t>(chosen_.size()) < count; ++i) try {
        const StoredImage stored = all_->read(i);
        Image image = stored.pixels;
        if (!stored.encoded.empty()) image = decode_image(stored.encoded, channels(), name_of(i));
        chosen_.push_back(i);
        pixels_ += image.width * image.height, bytes_ += static_cast<int64_t>(stored.encoded.size());
      } catch (const MissingLibrary&) {
        throw;
      } catch (const Error&) {
        ++broken_;
      }
    check(!chosen_.empty(), "bench", "none of the pictures can be read");
  }
  int64_t size() const override { return static_cast<int64_t>(chosen_.size()); }
  int32_t label(int64_t i) const override { return all_->label(at(i)); }
  std::string name(int64_t i) const override { return name_of(at(i)); }
  StoredImage read(int64_t i) const override { return all_->read(at(i)); }
  const std::vector<std::string>& classes() const override { return all_->classes(); }
  int64_t channels() const override { return all_->channels(); }
  double mean_pixels() const { return static_cast<double>(pixels_) / static_cast<double>(size()); }
  double mean_bytes() const { return static_cast<double>(bytes_) / static_cast<double>(size()); }
  int64_t broken() const { return broken_; }

 private:
  int64_t at(int64_t i) const { return chosen_[static_cast<size_t>(i)]; }
  std::string name_of(int64_t i) const { return all_->name(i); }

  std::shared_ptr<const ImageSet> all_;
  std::vector<int64_t> chosen_;
  int64_t pixels_ = 0, bytes_ = 0, broken_ = 0;
};

struct Figure {
  std::string key, words;
  int64_t pictures;  // of one pass
  int threads;
  Spread seconds, cpu;  // of one pass: by the clock, and of processor time, which other programs disturb less
  double rate() const { return static_cast<double>(pictures) / seconds.median; }
  double rate_per_core() const { return static_cast<double>(pictures) / cpu.median; }
};

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// What DeiT trains with; recipes spec 2.
AugmentConfig deit() {
  AugmentConfig a;
  a.auto_augment = "rand-m9-mstd0.5-inc1";
  a.erase = 0.25;
  a.mixup = 0.8, a.cutmix = 1.0, a.smoothing = 0.1;
  return a;
}

// One pass over a set: every picture read and looked at.
void read_all(const ImageSet& set) {
  volatile uint8_t seen = 0;
  for (int64_t i = 0; i < set.size(); ++i) {
    const StoredImage stored = set.read(i);
    const uint8_t* data = stored.encoded.empty() ? stored.pixels.pixels.data() : stored.encoded.data();
    const size_t bytes = stored.encoded.empty() ? stored.pixels.pixels.size() : stored.encoded.size();
    for (size_t at = 0; at < bytes; at += 64) seen = seen ^ data[at];
  }
}

}  // namespace

void bench_images(const ImageBench& b, const BenchOptions& o) {
  const auto set = std::make_shared<const Readable>(pictures_of(b, b.in), b.pictures);
  const auto sharded =
      b.shards.empty() ? nullptr : std::make_shared<const Readable>(open_images(b.shards, b.split), b.pictures);
  const int64_t n = set->size(), S = b.size;
  std::vector<float> sample(static_cast<size_t>(set->channels() * S * S));
  std::vector<Figure> figures;
  const auto measure = [&](const std::string& key, const std::string& words, int64_t count, const auto& pass,
                           int threads = 1) {
    std::vector<double> cpu;
    const Spread seconds = repeat_for(o.seconds, [&] {
      const double begin = cpu_seconds();
      pass();
      cpu.push_back(cpu_seconds() - begin);
    });
    figures.push_back({key, words, count, threads, seconds, spread_of(std::move(cpu))});
  };

  measure("read", "reading", n, [&] { read_all(*set); });
  if (sharded) measure("read_shards", "reading, shards", sharded->size(), [&] { read_all(*sharded); });
  measure("decode", "decoding, whole", n, [&] {
    for (int64_t i = 0; i < n; ++i) {
      const StoredImage stored = set->read(i);
      if (!stored.encoded.empty()) decode_image(stored.encoded, set->channels(), set->name(i));
    }
  });
  uint64_t drawn = 0;
  const auto training = [&](const AugmentConfig& augment, const std::shared_ptr<const ImageSet>& images) {
    const Augmenter augmenter(augment, {}, normalisation_of({}, images->channels()), S, 1);
    return [&sample, &drawn, augmenter, images] {
      for (int64_t i = 0; i < images->size(); ++i)
        augmenter.train(images->read(i), images->name(i), drawn++, sample.data());
    };
  };
  measure("basic", "decode + random crop + flip + normalise", n, training(AugmentConfig{}, set));
  if (sharded) measure("basic_shards", "the same, shards", sharded->size(), training(AugmentConfig{}, sharded));
  ImageOptions options;
  options.resolution = S, options.augment = deit(), options.seed = 1;
  const int64_t batch = std::max<int64_t>(2, n / 2 * 2);
  const auto source = std::make_shared<const ImageSource>(set, options);
  int64_t first = 0;
  measure("deit", "DeiT: RandAugment, erasing, mixup, cutmix", batch, [&] {
    source->get(first, batch);
    first += batch;
  });
  if (b.loader_threads > 1) {
    // One batch for each thread at a time, so that a pass is as long as a batch of one thread.
    Loader loader(source, 0, batch, batch, b.loader_threads, 2 * b.loader_threads);
    measure(
        "deit_loader", "the same, loader threads", batch * b.loader_threads,
        [&] {
          for (int i = 0; i < b.loader_threads; ++i) loader.next();
        },
        b.loader_threads);
  }
  const Augmenter evaluation({}, {}, normalisation_of({}, set->channels()), S, 1);
  measure("evaluation", "decode + resize + centre crop + normalise", n, [&] {
    for (int64_t i = 0; i < n; ++i) evaluation.evaluate(set->read(i), set->name(i), sample.data());
  });

  if (o.json) {
    Json j;
    j["in"] = b.in;
    j["pictures"] = n;
    j["unreadable"] = set->broken();
    j["size"] = S;
    j["mean_pixels"] = set->mean_pixels();
    j["mean_bytes"] = set->mean_bytes();
    for (const Figure& f : figures) {
      j[f.key]["images_per_second"] = f.rate();
      j[f.key]["images_per_core_second"] = f.rate_per_core();
      j[f.key]["threads"] = f.threads;
      j[f.key]["pass_seconds"] = to_json(f.seconds);
      j[f.key]["pass_cpu_seconds"] = to_json(f.cpu);
    }
    std::cout << j.dump(2) << "\n";
    return;
  }
  std::printf("%s: %lld pictures (%lld unreadable), %s pixels and %s each, to %lld x %lld\n", b.in.c_str(),
              static_cast<long long>(n), static_cast<long long>(set->broken()),
              format_count(set->mean_pixels()).c_str(), format_bytes(set->mean_bytes()).c_str(),
              static_cast<long long>(S), static_cast<long long>(S));
  for (const Figure& f : figures)
    std::printf("%-44s %7.1f images/s of processor time; by the clock %7.1f with %d thread%s\n", f.words.c_str(),
                f.rate_per_core(), f.rate(), f.threads, f.threads == 1 ? "" : "s");
}

}  // namespace accrete
