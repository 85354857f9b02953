// Token-label files: written, read, refused; targets against torchvision's RoI-align.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "data/token_labels.h"
#include "engine/core/config.h"
#include "engine/core/error.h"
#include "tests/program_testing.h"

using namespace accrete;

namespace {

std::span<const std::byte> span_of(const std::string& bytes) { return std::as_bytes(std::span(bytes)); }

// Two pictures of the classes 0 and 2, 3 classes, 2 x 2 cells, 2 scores each.
std::string small_file(const TempFolder& folder) {
  TokenLabelWriter writer(folder / "small.bin", {3, 2, 2, 2}, {0, 2});
  writer.append(std::vector<float>{1, 2, 3, 4, 0.5, 0.5, 0.5, 0.5}, std::vector<int32_t>{0, 1, 2, 0, 1, 2, 0, 1});
  writer.append(std::vector<float>(8, 1.0f), std::vector<int32_t>{0, 0, 0, 0, 1, 1, 1, 1});
  writer.commit();
  return file_bytes(folder / "small.bin");
}

std::string refusal(const std::string& bytes) {
  try {
    TokenLabels::from_memory(span_of(bytes), "t");
  } catch (const Error& error) {
    return error.what();
  }
  return "(accepted)";
}

template <class T>
std::string changed(std::string bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  return bytes;
}

}  // namespace

TEST_CASE("RoI-align, softmax and smoothing are torchvision's") {
  const Json golden = read_json(ACCRETE_SOURCE_DIR "/tests/golden/augment.json")["token_labels"];
  const TempFolder folder;
  const auto sizes = golden["shape"].get<std::vector<int64_t>>();
  const TokenLabelShape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
  TokenLabelWriter writer(folder / "token_labels.bin", shape, {5});
  writer.append(golden["scores"].get<std::vector<float>>(), golden["classes"].get<std::vector<int32_t>>());
  writer.commit();
  const TokenLabels labels = TokenLabels::open(folder.path());
  CHECK(labels.shape() == shape);
  CHECK(labels.size() == 1);
  CHECK(labels.label(0) == 5);
  const auto C = static_cast<size_t>(shape.classes);
  REQUIRE(golden["cases"].size() == 4);
  for (const Json& row : golden["cases"]) {
    const auto v = row["view"].get<std::vector<double>>();
    View view{v[0], v[1], v[2], v[3], false};
    std::vector<float> tokens(9 * C), whole(C), mirrored(9 * C), same(C);
    labels.targets(0, view, 3, 0.1, tokens.data(), whole.data());
    const auto three = row["3"].get<std::vector<double>>(), one = row["1"].get<std::vector<double>>();
    REQUIRE(three.size() == tokens.size());
    // Both are f32 sums of a few products; probabilities are below 1.
    for (size_t i = 0; i < tokens.size(); ++i) CHECK(std::abs(tokens[i] - three[i]) < 2e-6);
    for (size_t i = 0; i < C; ++i) CHECK(std::abs(whole[i] - one[i]) < 2e-6);
    view.flipped = true;
    labels.targets(0, view, 3, 0.1, mirrored.data(), same.data());
    CHECK(same == whole);
    for (size_t y = 0; y < 3; ++y)
      for (size_t x = 0; x < 3; ++x)
        for (size_t c = 0; c < C; ++c) CHECK(mirrored[(y * 3 + x) * C + c] == tokens[(y * 3 + 2 - x) * C + c]);
    // t (1 - s + s/C) + s/C sums to 1 + s/C ... with s = 0 to 1.
    double sum = 0;
    for (const float p : whole) sum += p;
    CHECK(sum == doctest::Approx(1 - 0.1 + 0.1 / 7 + 0.1));
    labels.targets(0, view, 1, 0, nullptr, whole.data());
    sum = 0;
    for (const float p : whole) sum += p;
    CHECK(sum == doctest::Approx(1));
  }
}

TEST_CASE("The axes of a view are those of the map") {
  const TempFolder folder;
  TokenLabelWriter writer(folder / "t.bin", {4, 2, 2, 1}, {0});
  writer.append(std::vector<float>(4, 9.0f), std::vector<int32_t>{0, 1, 2, 3});  // 0 1 above 2 3
  writer.commit();
  const TokenLabels labels = TokenLabels::open(folder / "t.bin");
  const auto best = [&](const View& view) {
    std::vector<float> whole(4);
    labels.targets(0, view, 1, 0, nullptr, whole.data());
    return std::max_element(whole.begin(), whole.end()) - whole.begin();
  };
  CHECK(best({0, 0, 0.5, 0.5}) == 0);
  CHECK(best({0.5, 0, 1, 0.5}) == 1);  // right
  CHECK(best({0, 0.5, 0.5, 1}) == 2);  // below
  CHECK(best({0.5, 0.5, 1, 1, true}) == 3);
  std::vector<float> far(4), whole(4);
  labels.targets(0, {-9, -9, -8, -8}, 1, 0, far.data(), whole.data());  // beyond the map: every class alike
  for (const float p : far) CHECK(p == doctest::Approx(0.25));
}

TEST_CASE("Damaged files are refused with the reason") {
  const TempFolder folder;
  const std::string good = small_file(folder);
  REQUIRE(good.size() == 32 + 2 * (4 + 2 * 4 * 4));
  CHECK(refusal(good) == "(accepted)");
  CHECK(refusal("").find("is no file of token labels") != std::string::npos);
  CHECK(refusal("X" + good.substr(1)).find("is no file of token labels") != std::string::npos);
  CHECK(refusal(good.substr(0, 31)).find("is no file of token labels") != std::string::npos);
  CHECK(refusal(good.substr(0, good.size() - 1)) == "[t] is cut short or damaged: 2 maps need 104 bytes; got 103");
  CHECK(refusal(good + "x").find("got 105") != std::string::npos);
  CHECK(refusal(changed(good, 8, uint32_t{0})).find("1..65536 classes; got 0") != std::string::npos);
  CHECK(refusal(changed(good, 8, uint32_t{70000})).find("got 70000") != std::string::npos);
  CHECK(refusal(changed(good, 12, uint32_t{257})).find("grids of 1..256 cells a side; got 257 x 2") !=
        std::string::npos);
  CHECK(refusal(changed(good, 20, uint32_t{4})).find("keep 1..3 scores of a cell; got 4") != std::string::npos);
  CHECK(refusal(changed(good, 24, ~uint64_t{0})).find("cannot be") != std::string::npos);
  CHECK(refusal(changed(good, 24, uint64_t{1} << 40)).find("cut short") != std::string::npos);
  CHECK(refusal(changed(good, 24, uint64_t{0})).find("at least one picture") != std::string::npos);

  // What is only seen when a map is used: scores that are not finite, classes that do not exist.
  std::vector<float> whole(3);
  const std::string infinite = changed(good, 40, uint16_t{0x7c00}), beyond = changed(good, 40 + 16, uint16_t{3});
  for (const std::string& bytes : {infinite, beyond}) {
    const TokenLabels labels = TokenLabels::from_memory(span_of(bytes), "t");
    CHECK_THROWS_WITH(labels.targets(0, {}, 1, 0, nullptr, whole.data()),
                      "[t] the map of picture 0 is damaged; expected finite scores of the classes 0..2");
    labels.targets(1, {}, 1, 0, nullptr, whole.data());
    CHECK(whole[0] == doctest::Approx(whole[1]));
  }
  const TokenLabels labels = TokenLabels::from_memory(span_of(good), "t");
  CHECK_THROWS_AS(labels.targets(2, {}, 1, 0, nullptr, whole.data()), Error);
  CHECK_THROWS_AS(labels.label(-1), Error);
  labels.check_fits(3, std::vector<int32_t>{0, 2});
  CHECK_THROWS_WITH(labels.check_fits(3, std::vector<int32_t>{0, 1}),
                    "[t] token labels were made in another order: picture 1 has the class 2; expected 1");
  CHECK_THROWS_WITH(labels.check_fits(4, std::vector<int32_t>{0, 2}),
                    "[t] token labels tell 3 classes apart; expected 4, those of the data set");
  CHECK_THROWS_AS(labels.check_fits(3, std::vector<int32_t>{0}), Error);
  CHECK_THROWS_AS(TokenLabels::open(folder / "missing.bin"), Error);
}

TEST_CASE("The writer refuses what the reader would, and leaves nothing half written") {
  const TempFolder folder;
  const auto path = folder / "t.bin";
  CHECK_THROWS_AS(TokenLabelWriter(path, {3, 2, 2, 4}, {0}), Error);
  CHECK_THROWS_AS(TokenLabelWriter(path, {3, 2, 2, 1}, {3}), Error);
  CHECK_THROWS_AS(TokenLabelWriter(path, {3, 2, 2, 1}, {}), Error);
  {
    TokenLabelWriter writer(path, {3, 1, 1, 2}, {0, 1});
    const std::vector<float> scores = {1, 2};
    CHECK_THROWS_AS(writer.append(scores, std::vector<int32_t>{0}), Error);
    CHECK_THROWS_AS(writer.append(scores, std::vector<int32_t>{0, 3}), Error);
    CHECK_THROWS_AS(writer.append(scores, std::vector<int32_t>{1, 1}), Error);
    CHECK_THROWS_AS(writer.append(std::vector<float>{1, 1e6f}, std::vector<int32_t>{0, 1}), Error);
    CHECK_THROWS_AS(writer.append(std::vector<float>{1, NAN}, std::vector<int32_t>{0, 1}), Error);
    writer.append(scores, std::vector<int32_t>{0, 1});
    CHECK_THROWS_AS(writer.commit(), Error);
  }
  CHECK(!std::filesystem::exists(path));
  CHECK(std::filesystem::is_empty(folder.path()));
}
