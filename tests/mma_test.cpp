// The wrappers of mma.h on the emulator: fragments and loads against plain loops, exact; copies that arrive late; and
// the mistakes that must be reported.
#if defined(ACCRETE_WITH_EMULATOR)

#include "kernels/mma.h"

#include <vector>

#include "kernels/attention_mma.h"
#include "tests/kernel_reference.h"

using namespace accrete;
using namespace accrete::kernels;
using namespace accrete::reference;

namespace {

constexpr WarpOrder kOrders[] = {WarpOrder::forward, WarpOrder::reverse, WarpOrder::shuffled};

// Small integers: products and sums of a few dozen are exact in bf16, f16 and f32, in any order.
template <class T>
std::vector<double> small_integers(int64_t n, uint64_t seed) {
  std::vector<double> v = random_values<float>(n, seed, -8.0, 8.0);
  for (double& x : v) x = std::floor(x);
  return v;
}

// d = c + a b by fragments that are filled as mma.h says.   a: (16, 16), b: (16, 8), c, d: (16, 8)
template <class T>
__global__ void fragments_kernel(float* d, const T* a, const T* b, const float* c) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const auto pair = [](const T* low, const T* high) { return pack_pair<T>(to_float(*low), to_float(*high)); };
  uint32_t fa[4], fb[2];
  for (int i = 0; i < 4; ++i) {
    const T* const at = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
    fa[i] = pair(at, at + 1);
  }
  for (int i = 0; i < 2; ++i) fb[i] = pair(b + (2 * t + 8 * i) * 8 + g, b + (2 * t + 8 * i + 1) * 8 + g);
  float fc[4];
  for (int i = 0; i < 4; ++i) fc[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma<T>(fc, fa, fb[0], fb[1]);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fc[i];
}

// r (2, 32, 4): registers of ldmatrix and of its transposed form from x (32, 8).
template <class T>
__global__ void ldmatrix_kernel(uint32_t* r, const T* x) {
  ACCRETE_SHARED(T, tile, 256);
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += 32) tile[i] = x[i];
  __syncwarp();
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t straight[4], turned[4];
  ldmatrix<T>(straight, tile, 8 * lane);
  ldmatrix_transposed<T>(turned, tile, 8 * lane);
  for (int m = 0; m < 4; ++m) r[4 * lane + m] = straight[m], r[128 + 4 * lane + m] = turned[m];
}

// scores (16 kM, kCols) = a b^T and sums (16 kM, kD) = round(scores) b through tiles, copies and both products.
template <class Tile, class T>
__global__ void products_kernel(float* scores, float* sums, const T* a, const T* b, int D) {
  ACCRETE_SHARED(T, own_tile, Tile::kOwn);
  ACCRETE_SHARED(T, tile, 2 * Tile::kPassing);
  AsyncCopies copies;
  copy_rows<Tile, Tile::kRows, T>(copies, own_tile, 0, a, D, Tile::kRows, D);
  copy_rows<Tile, Tile::kCols, T>(copies, tile, Tile::kPassing, b, D, Tile::kCols - 3, D);  // 3 rows do not exist
  copies.commit();
  copies.wait<0>();
  __syncthreads();
  OwnRows<Tile> own(own_tile);
  own.hold();
  constexpr int kN = Tile::kCols / 8;
  float s[Tile::kM][kN][4], y[Tile::kM][Tile::kDTiles][4];
  dot_rows<Tile, kN, T>(s, own, tile, Tile::kPassing);
  fill_zero(y);
  add_product<Tile, kN, T>(y, s, tile, Tile::kPassing);
  for (int m = 0; m < Tile::kM; ++m) {
    for (int e = 0; e < 4; ++e) {
      const int row = Tile::warp_row() + 16 * m + lane_row() + e / 2 * 8;
      for (int n = 0; n < kN; ++n) scores[row * Tile::kCols + 8 * n + lane_column() + e % 2] = s[m][n][e];
      for (int n = 0; n < Tile::kDTiles; ++n) sums[row * Tile::kD + 8 * n + lane_column() + e % 2] = y[m][n][e];
    }
  }
}

// Two groups of copies; with kPending 1 the second one is used too early.
template <int kPending>
__global__ void copies_kernel(float* y, const float* x) {
  ACCRETE_SHARED(float, tile, 3 * 32);
  AsyncCopies copies;
  const int lane = static_cast<int>(threadIdx.x);
  copies.copy4<float>(tile, lane, x + lane, true);
  copies.commit();
  copies.copy4<float>(tile, 32 + lane, x + 32 + lane, true);
  if (lane < 8) copies.copy16<float>(tile, 64 + 4 * lane, x, false);
  copies.commit();
  copies.wait<1>();
  y[lane] = tile[lane];
  copies.wait<kPending>();
  __syncwarp();
  y[32 + lane] = tile[32 + lane];
  y[64 + lane] = tile[95 - lane];
}

__global__ void misaligned_kernel(const bf16* x) {
  ACCRETE_SHARED(bf16, tile, 64);
  AsyncCopies copies;
  copies.copy16<bf16>(tile, 4, x, true);
}
__global__ void outside_kernel(const bf16* x) {
  ACCRETE_SHARED(bf16, tile, 60);
  AsyncCopies copies;
  copies.copy16<bf16>(tile, 56, x, true);
}
__global__ void half_warp_kernel() {
  float c[4] = {};
  const uint32_t a[4] = {};
  if (threadIdx.x < 16) mma<bf16>(c, a, 0, 0);
}
__global__ void unwritten_kernel() {
  ACCRETE_SHARED(bf16, tile, 256);
  for (int i = static_cast<int>(threadIdx.x); i < 255; i += 32) tile[i] = bf16{};
  __syncwarp();
  uint32_t r[4];
  ldmatrix<bf16>(r, tile, 8 * static_cast<int>(threadIdx.x));
}

template <class Fn>
std::string report(Fn fn) {
  try {
    fn();
  } catch (const EmulatorError& e) {
    return e.what();
  }
  return "";
}
void check_contains(const std::string& text, const char* part) {
  CHECK_MESSAGE(text.find(part) != std::string::npos, "expected \"" << part << "\" in: " << text);
}

}  // namespace

TEST_CASE_TEMPLATE("mma multiplies the fragments of a warp", T, bf16, f16) {
  const auto a = small_integers<T>(256, 1), b = small_integers<T>(128, 2), c = small_integers<T>(128, 3);
  for (WarpOrder order : kOrders) {
    Buffer<T> ba(a), bb(b);
    Buffer<float> bc(c), d(128);
    ACCRETE_LAUNCH(fragments_kernel<T>, dim3{1}, dim3{32}, 0, Emu{order}, d.p(), ba.p(), bb.p(), bc.p());
    std::vector<double> want = c;
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j)
        for (int k = 0; k < 16; ++k) want[i * 8 + j] += a[i * 16 + k] * b[k * 8 + j];
    check_buffer("d", d, want, kExact);
  }
}

TEST_CASE_TEMPLATE("ldmatrix gives every lane its pairs", T, bf16, f16) {
  std::vector<T> x(256);
  for (int i = 0; i < 256; ++i) x[i] = T{static_cast<uint16_t>(i * 77 + 5)};
  for (WarpOrder order : kOrders) {
    std::vector<uint32_t> r(256);
    ACCRETE_LAUNCH(ldmatrix_kernel<T>, dim3{1}, dim3{32}, 0, Emu{order}, r.data(), x.data());
    int wrong = 0;
    for (int l = 0; l < 32; ++l)
      for (int m = 0; m < 4; ++m)
        for (int half = 0; half < 2; ++half) {
          const int g = l / 4, j = 2 * (l % 4) + half;
          wrong += (r[4 * l + m] >> (16 * half) & 0xffff) != x[64 * m + 8 * g + j].bits;
          wrong += (r[128 + 4 * l + m] >> (16 * half) & 0xffff) != x[64 * m + 8 * j + g].bits;
        }
    CHECK(wrong == 0);
  }
}

TEST_CASE_TEMPLATE("products of tiles: both operands from swizzled shared memory, the result as an operand", T, bf16,
                   f16) {
  const auto test = [&]<class Tile>(int D) {
    CAPTURE(D);
    const auto a = small_integers<T>(Tile::kRows * D, 4), b = small_integers<T>((Tile::kCols - 3) * D, 5);
    std::vector<double> scores(Tile::kRows * Tile::kCols), sums(Tile::kRows * Tile::kD);
    for (int i = 0; i < Tile::kRows; ++i)
      for (int j = 0; j < Tile::kCols - 3; ++j) {
        double& s = scores[i * Tile::kCols + j];
        for (int d = 0; d < D; ++d) s += a[i * D + d] * b[j * D + d];
        const double rounded = to_float(from_float<T>(static_cast<float>(s)));
        for (int d = 0; d < D; ++d) sums[i * Tile::kD + d] += rounded * b[j * D + d];
      }
    for (WarpOrder order : kOrders) {
      Buffer<T> ba(a), bb(b);
      Buffer<float> s(Tile::kRows * Tile::kCols), y(Tile::kRows * Tile::kD);
      ACCRETE_LAUNCH(products_kernel<Tile, T>, dim3{1}, dim3{Tile::kThreads}, 0, Emu{order}, s.p(), y.p(), ba.p(),
                     bb.p(), D);
      check_buffer("scores", s, scores, kExact);
      check_buffer("sums", y, sums, kExact);
    }
  };
  test.template operator()<MmaTile<T, 32, 1, 4, 64, true>>(32);
  test.template operator()<MmaTile<T, 64, 1, 4, 32, false>>(56);
  test.template operator()<MmaTile<T, 64, 2, 2, 64, true>>(64);
  test.template operator()<MmaTile<T, 96, 1, 4, 32, true>>(88);
  test.template operator()<MmaTile<T, 128, 1, 4, 32, false>>(128);
}

TEST_CASE("the swizzle puts what is accessed together into different banks and keeps every element") {
  const auto test = [&]<int kD>() {
    CAPTURE(kD);
    std::vector<int> seen(64 * kD / 8);
    for (int row = 0; row < 64; ++row)
      for (int chunk = 0; chunk < kD / 8; ++chunk) ++seen[chunk_at<kD>(row, chunk) / 8];
    CHECK(seen == std::vector<int>(seen.size(), 1));
    int collisions = 0, different = 0;
    for (int row = 0; row < 64; row += 8)
      for (int chunk = 0; chunk < kD / 8; ++chunk) {
        uint32_t banks = 0;  // groups of four banks, which a chunk fills
        for (int r = 0; r < 8; ++r) {
          const uint32_t bank = 1u << (chunk_at<kD>(row + r, chunk) / 8 % 8);
          collisions += (banks & bank) != 0;
          banks |= bank;
          different += fragment_at<kD>(row, r, chunk & ~1, chunk & 1) != chunk_at<kD>(row + r, chunk);
          different += fragment_at<kD>(row, r + 8, chunk & ~1, chunk & 1) != chunk_at<kD>(row + r + 8, chunk);
        }
      }
    CHECK(collisions == 0);
    CHECK(different == 0);
  };
  test.operator()<32>();
  test.operator()<64>();
  test.operator()<96>();
  test.operator()<128>();
}

TEST_CASE("copies arrive when they are waited for") {
  const std::vector<double> x = random_values<float>(96, 6);
  std::vector<double> want(x.begin(), x.begin() + 64);
  want.resize(96);
  for (WarpOrder order : kOrders) {
    Buffer<float> bx(x), y(96);
    ACCRETE_LAUNCH(copies_kernel<0>, dim3{1}, dim3{32}, 0, Emu{order}, y.p(), bx.p());
    check_buffer("y", y, want, kExact);
    check_contains(report([&] { ACCRETE_LAUNCH(copies_kernel<1>, dim3{1}, dim3{32}, 0, Emu{order}, y.p(), bx.p()); }),
                   "read before any write");
  }
}

TEST_CASE("mistakes are reported") {
  alignas(16) const bf16 x[8] = {};
  const auto one = [](auto kernel, auto... args) {
    return report([&] { ACCRETE_LAUNCH(kernel, dim3{1}, dim3{1}, 0, Emu{}, args...); });
  };
  check_contains(one(misaligned_kernel, x), "not aligned");
  check_contains(one(outside_kernel, x), "outside the 60 elements");
  check_contains(report([] { ACCRETE_LAUNCH(half_warp_kernel, dim3{1}, dim3{32}, 0, Emu{}); }),
                 "is reached only by lanes 0x0000ffff");
  check_contains(report([] { ACCRETE_LAUNCH(half_warp_kernel, dim3{1}, dim3{16}, 0, Emu{}); }), "a full warp");
  check_contains(report([] { ACCRETE_LAUNCH(unwritten_kernel, dim3{1}, dim3{32}, 0, Emu{}); }),
                 "read before any write");
}

#endif
