// Products with stored rows on the emulator (three warp orders), a GPU and the CPU against f64, in every precision.
#include "kernels/subspace.h"
#include "tests/kernel_reference.h"
#include "training/quantise.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::reference;
using Values = std::vector<double>;

namespace {

// Any table or bytes as the 32-bit words that a buffer of any device can hold.
template <class Row>
Values words_of(const std::vector<Row>& table) {
  std::vector<int32_t> words(table.size() * sizeof(Row) / 4);
  if (!table.empty()) std::memcpy(words.data(), table.data(), words.size() * 4);
  return {words.begin(), words.end()};
}

// Blocks of tiles with gaps between them, and their rows as they are stored and as numbers.
struct Problem {
  Precision precision;
  int64_t rank, flat = 0;
  std::vector<SubspaceTile> tiles;
  std::vector<SubspaceChunk> chunks;
  std::vector<SubspaceBlock> blocks;
  std::vector<std::byte> bytes;
  std::vector<std::vector<float>> rows;  // of each coefficient, over the flat buffer; zeros outside of its block

  Problem(Precision p, int64_t rank) : precision(p), rank(rank) {}

  void add_block(int64_t n_rows, const std::vector<int64_t>& counts, size_t tiles_in_a_chunk) {
    const auto block = static_cast<int64_t>(blocks.size());
    SubspaceBlock b{static_cast<int64_t>(chunks.size()), 0, n_rows};
    for (size_t i = 0; i < counts.size(); ++i) {
      if (i % tiles_in_a_chunk == 0)
        chunks.push_back({static_cast<int64_t>(tiles.size()), static_cast<int64_t>(tiles.size()), block});
      ++chunks.back().last;
      tiles.push_back({flat, counts[i], 0, block});
      flat += (counts[i] + 35) / 4 * 4;
    }
    b.last = static_cast<int64_t>(chunks.size());
    blocks.push_back(b);
  }

  void draw() {
    const int bits = bits_of(precision);
    rows.assign(blocks.size() * static_cast<size_t>(rank), std::vector<float>(static_cast<size_t>(flat), 0.0f));
    for (SubspaceTile& t : tiles) {
      t.offset = static_cast<int64_t>(bytes.size());
      for (int64_t q = 0; q < blocks[static_cast<size_t>(t.block)].rows; ++q) {
        std::vector<float> x;
        for (const double v : random_values<float>(t.count, static_cast<uint64_t>(t.begin + 7 * q + 1)))
          x.push_back(static_cast<float>(v));
        std::vector<std::byte> tight(static_cast<size_t>(encoded_bytes(precision, t.count)));
        encode(precision, tight.data(), x.data(), t.count);
        float* row = rows[static_cast<size_t>(t.block * rank + q)].data() + t.begin;
        decode(precision, row, tight.data(), t.count);
        // With both parts filled up to 16 bytes.
        const int64_t codes = bits < 16 ? (t.count + 63) / 64 * 4 : 0;
        const size_t begin = bytes.size();
        bytes.resize(begin + static_cast<size_t>(subspace_row_bytes(bits, t.count)));
        std::copy(tight.begin(), tight.begin() + codes, bytes.begin() + static_cast<ptrdiff_t>(begin));
        std::copy(tight.begin() + codes, tight.end(),
                  bytes.begin() + static_cast<ptrdiff_t>(begin) + subspace_codes_at(bits, t.count));
      }
    }
  }

  // fn(Subspace) with the tables where the context finds them.
  template <class Fn>
  void with(Fn&& fn) const {
    Buffer<int32_t> b(words_of(bytes)), t(words_of(tiles)), c(words_of(chunks)), l(words_of(blocks));
    fn(Subspace{.bytes = reinterpret_cast<const uint8_t*>(b.p()),
                .bits = bits_of(precision),
                .tiles = reinterpret_cast<const SubspaceTile*>(t.p()),
                .chunks = reinterpret_cast<const SubspaceChunk*>(c.p()),
                .blocks = reinterpret_cast<const SubspaceBlock*>(l.p()),
                .n_tiles = static_cast<int64_t>(tiles.size()),
                .n_chunks = static_cast<int64_t>(chunks.size()),
                .n_blocks = static_cast<int64_t>(blocks.size()),
                .rank = rank});
  }
};

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const char* name : {"f32", "bf16", "q8", "q4", "q2", "q1"}) {
    Problem p(precision_of(name), 11);  // a full turn of rows and a begun one
    p.add_block(11, {4096, 4096, 1000}, 2);
    p.add_block(3, {1}, 2);
    p.add_block(0, {100}, 2);
    p.add_block(8, {77, 64, 4095}, 2);
    p.draw();
    all.push_back(std::move(p));
    Problem many(precision_of(name), 2);  // more chunks than a warp has lanes
    many.add_block(2, std::vector<int64_t>(40, 33), 1);
    many.draw();
    all.push_back(std::move(many));
  }
  all.emplace_back(Precision::f32, 0);  // no row at all
  all.back().add_block(0, {50}, 1);
  all.emplace_back(Precision::q4, 5);  // no block
  return all;
}

double length(const std::vector<float>& x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("P^T g: 1e-7 of |row| |g|, zeros where there is no row, and nothing of g outside of the tiles") {
  for (const Problem& p : problems()) {
    CAPTURE(static_cast<int>(p.precision));
    Values g = random_values<float>(p.flat, 3, -1.0, 3.0);
    std::vector<bool> inside(g.size(), false);
    for (const SubspaceTile& t : p.tiles) std::fill_n(inside.begin() + static_cast<ptrdiff_t>(t.begin), t.count, true);
    double norm = 0;
    for (size_t k = 0; k < g.size(); ++k) {
      if (!inside[k]) g[k] = std::numeric_limits<double>::quiet_NaN();
      if (inside[k]) norm += g[k] * g[k];
    }
    norm = std::sqrt(norm);
    on_backends([&](const auto& ctx, SameBits& same) {
      const auto size = static_cast<int64_t>(p.blocks.size()) * p.rank;
      Buffer<float> out(size), parts(static_cast<int64_t>(p.chunks.size()) * p.rank), from(g);
      p.with([&](const Subspace& s) { subspace_project(ctx, out.p(), parts.p(), from.p(), s); });
      CHECK(out.intact());
      CHECK(parts.intact());
      const Values got = out.values();
      for (size_t i = 0; i < got.size(); ++i) {
        double want = 0;
        for (size_t k = 0; k < g.size(); ++k)
          if (p.rows.size() && inside[k]) want += static_cast<double>(p.rows[i][k]) * g[k];
        CHECK(std::fabs(got[i] - want) <= 1e-7 * length(p.rows[i]) * norm);
      }
      same(got);
    });
  }
}

TEST_CASE("start + P x: rounded once; start's bits without a change; gaps stay as they were") {
  for (const Problem& p : problems()) {
    CAPTURE(static_cast<int>(p.precision));
    const auto size = static_cast<int64_t>(p.blocks.size()) * p.rank;
    Values start = random_values<float>(p.flat, 4);
    if (p.flat > 10) start[3] = -0.0, start[4] = static_cast<double>(1e-42f);
    for (const bool changed : {true, false}) {
      const Values x = changed ? random_values<float>(size, 5) : Values(static_cast<size_t>(size), 0.0);
      on_backends([&](const auto& ctx, SameBits& same) {
        Buffer<float> out(p.flat), from(start), in_place(start), by(x);
        p.with([&](const Subspace& s) {
          subspace_expand(ctx, out.p(), from.p(), by.p(), s);
          subspace_expand(ctx, in_place.p(), in_place.p(), by.p(), s);
        });
        CHECK(out.intact());
        const Values got = out.values(), there = in_place.values();
        int64_t wrong = 0, written = 0;
        for (const SubspaceTile& t : p.tiles)
          for (int64_t k = t.begin; k < t.begin + t.count; ++k, ++written) {
            const auto at = static_cast<size_t>(k);
            double want = start[at], sizes = 0;
            for (int64_t q = 0; q < p.rank; ++q) {
              const auto i = static_cast<size_t>(t.block * p.rank + q);
              if (p.rows.empty()) continue;
              want += x[i] * static_cast<double>(p.rows[i][at]);
              sizes += 2 * std::fabs(x[i]);  // rows are of size 2
            }
            // Half a unit of the result, and what f32 sums of eight products lose.
            wrong += std::fabs(got[at] - want) > 0x1p-24 * std::fabs(want) + 2e-7 * sizes;
            wrong += there[at] != got[at];
            if (!changed) wrong += std::memcmp(&got[at], &start[at], sizeof(double)) != 0;
          }
        CHECK(wrong == 0);
        CHECK(std::count_if(got.begin(), got.end(), [](double v) { return std::isnan(v); }) == p.flat - written);
        same(got);
      });
    }
  }
}
