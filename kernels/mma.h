// Tensor-core products of one warp, and what feeds them: thin wrappers over the PTX instructions of sm_80 and later.
//
//   mma        C (16 x 8, f32) += A (16 x 16) B (16 x 8)     T: bf16 or f16     mma.sync.aligned.m16n8k16
//   ldmatrix   four 8 x 8 matrices of 16-bit numbers from shared memory into registers, also transposed
//   cp.async   16 bytes (or 4) from global to shared memory while the thread goes on
//
// Who holds what (PTX ISA, "Matrix Fragments for mma.m16n8k16"): lane l has g = l / 4 and t = l % 4; a register holds
// two neighbours, the lower index in the lower half.
//   A  a[0] row g, columns 2t, 2t+1    a[1] row g + 8    a[2] row g, columns 2t + 8, ...    a[3] row g + 8, 2t + 8
//   B  b[0] rows 2t, 2t+1, column g    b[1] rows 2t + 8, 2t + 9
//   C  c[0], c[1] row g, columns 2t, 2t+1    c[2], c[3] row g + 8
// So the C of one product, rounded to 16 bits, is an A of the next one without leaving the registers.
//
// Under the emulator the wrappers are collectives of a whole warp. There the sum runs over k upwards, in f32, starting
// with c; products of 16-bit numbers are exact. The hardware adds in an order of its own, so results agree to the bit
// only where no rounding happens (small integers).
#pragma once

#include <type_traits>

#include "kernels/vector.h"

namespace accrete::kernels {
inline namespace ACCRETE_BACKEND {

// Number types that the tensor cores multiply here.
template <class T>
inline constexpr bool kMmaType = std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

#if defined(__CUDACC__)

// Two numbers rounded to T, the first one in the lower half.
template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  static_assert(kMmaType<T>);
  uint32_t pair;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(kMmaType<T>);
  if constexpr (std::is_same_v<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

template <class T>
__device__ __forceinline__ uint32_t shared_address(Shared<T> x, int at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(x + at));
}

// r[m] = matrix m: row l/4, columns 2t, 2t+1. Its 8 rows of 16 bytes begin at x[at] of lanes 8m .. 8m+7.
template <class T>
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], Shared<T> x, int at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address<T>(x, at))
               : "memory");
}
// The same with every matrix transposed: r[m] = rows 2t, 2t+1 of column l/4.
template <class T>
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], Shared<T> x, int at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address<T>(x, at))
               : "memory");
}

// x[at], x[at + 1] = pair; at is even.
template <class T>
__device__ __forceinline__ void store_pair(Shared<T> x, int at, uint32_t pair) {
  *reinterpret_cast<uint32_t*>(x + at) = pair;
}
// 16 bytes from x[at] on; 16-byte aligned.
template <class T>
__device__ __forceinline__ Pack<T, kLaneWidth<T>> load_chunk(Shared<T> x, int at) {
  return *reinterpret_cast<const Pack<T, kLaneWidth<T>>*>(x + at);
}

// Copies of one thread that are on their way. A thread may use what it copied itself after wait(); the others after a
// barrier behind that.
class AsyncCopies {
 public:
  // to[at ..] = the 16 bytes at `from`, or zeros where `valid` is false (`from` is then not read). 16-byte aligned.
  template <class T>
  __device__ __forceinline__ void copy16(Shared<T> to, int at, const T* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address<T>(to, at)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
  }
  // to[at] = *from, or zero. For 4-byte types.
  template <class T>
  __device__ __forceinline__ void copy4(Shared<T> to, int at, const T* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address<T>(to, at)), "l"(from),
                 "r"(valid ? 4 : 0)
                 : "memory");
  }
  // Ends a group of copies.
  __device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  // Waits until all groups but the newest kPending have arrived.
  template <int kPending>
  __device__ __forceinline__ void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
  }
};

// 2^x with a relative error of about 2^-22; results below the normal numbers become 0.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#else

template <class T>
uint32_t pack_pair(float low, float high) {
  static_assert(kMmaType<T>);
  return static_cast<uint32_t>(from_float<T>(high).bits) << 16 | from_float<T>(low).bits;
}

template <class T>
float half_of(uint32_t pair, int half) {
  return to_float(T{static_cast<uint16_t>(pair >> (16 * half))});
}

// The lanes of a warp operation, typed; all 32 have to exist.
template <class Lane>
Lane& lane_of(void* const (&lanes)[32], int i) {
  if (!lanes[i]) emu::fail("a tensor-core operation needs a full warp; lane " + std::to_string(i) + " does not exist");
  return *static_cast<Lane*>(lanes[i]);
}

template <class T>
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, emu::Where where = emu::Where::current()) {
  static_assert(kMmaType<T>);
  struct Lane {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
  } mine{c, a, {b0, b1}};
  emu::warp_together(
      [](void* const(&lanes)[32]) {
        float A[16][16], B[16][8];
        for (int l = 0; l < 32; ++l) {
          const Lane& lane = lane_of<Lane>(lanes, l);
          const int g = l / 4, t = l % 4;
          for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i) A[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = half_of<T>(lane.a[i], half);
            for (int i = 0; i < 2; ++i) B[2 * t + i * 8 + half][g] = half_of<T>(lane.b[i], half);
          }
        }
        for (int l = 0; l < 32; ++l) {
          float* const out = lane_of<Lane>(lanes, l).c;
          for (int i = 0; i < 4; ++i) {
            const int row = l / 4 + i / 2 * 8, column = 2 * (l % 4) + i % 2;
            for (int k = 0; k < 16; ++k) out[i] += A[row][k] * B[k][column];
          }
        }
      },
      0xffffffffu, &mine, where);
}

// What a lane brings to ldmatrix: 8 numbers, checked like every read of shared memory.
template <bool kTransposed, class T>
void load_matrices(uint32_t (&r)[4], Shared<T> x, int at, const emu::Where& where) {
  static_assert(sizeof(T) == 2);
  if (at % 8 != 0) emu::fail("ldmatrix reads 16 bytes from element " + std::to_string(at) + ", which is not aligned");
  struct Lane {
    uint32_t* r;
    uint16_t row[8];
  } mine{r, {}};
  for (int j = 0; j < 8; ++j) mine.row[j] = static_cast<T>(x[at + j]).bits;
  emu::warp_together(
      [](void* const(&lanes)[32]) {
        for (int l = 0; l < 32; ++l) {
          for (int m = 0; m < 4; ++m) {
            uint32_t pair = 0;
            for (int half = 0; half < 2; ++half) {
              const int g = l / 4, j = 2 * (l % 4) + half;
              const Lane& source = lane_of<Lane>(lanes, 8 * m + (kTransposed ? j : g));
              pair |= static_cast<uint32_t>(source.row[kTransposed ? g : j]) << (16 * half);
            }
            lane_of<Lane>(lanes, l).r[m] = pair;
          }
        }
      },
      0xffffffffu, &mine, where);
}
template <class T>
void ldmatrix(uint32_t (&r)[4], Shared<T> x, int at, emu::Where where = emu::Where::current()) {
  load_matrices<false, T>(r, x, at, where);
}
template <class T>
void ldmatrix_transposed(uint32_t (&r)[4], Shared<T> x, int at, emu::Where where = emu::Where::current()) {
  load_matrices<true, T>(r, x, at, where);
}

template <class T>
void store_pair(Shared<T> x, int at, uint32_t pair) {
  if (at % 2 != 0) emu::fail("a pair is stored at element " + std::to_string(at) + ", which is not aligned");
  for (int half = 0; half < 2; ++half) x[at + half] = T{static_cast<uint16_t>(pair >> (16 * half))};
}
template <class T>
Pack<T, kLaneWidth<T>> load_chunk(Shared<T> x, int at) {
  if (at % kLaneWidth<T> != 0) {
    emu::fail("16 bytes are read from element " + std::to_string(at) + ", which is not aligned");
  }
  Pack<T, kLaneWidth<T>> pack;
  for (int j = 0; j < kLaneWidth<T>; ++j) pack.e[j] = x[at + j];
  return pack;
}

// Copies arrive as late as they may: until wait() the destination holds poison. So a read without the wait or without
// the barrier behind it is reported, and so is a copy into a buffer that another warp still reads.
class AsyncCopies {
 public:
  template <class T>
  void copy16(Shared<T> to, int at, const T* from, bool valid) {
    copy<16>(to, at, from, valid);
  }
  template <class T>
  void copy4(Shared<T> to, int at, const T* from, bool valid) {
    copy<4>(to, at, from, valid);
  }
  void commit() { ++group_; }
  template <int kPending>
  void wait() {
    int kept = 0;
    for (int i = 0; i < count_; ++i) {
      if (copies_[i].group < group_ - kPending) {
        std::memcpy(copies_[i].to, copies_[i].data, copies_[i].bytes);
      } else {
        copies_[kept++] = copies_[i];
      }
    }
    count_ = kept;
  }

 private:
  struct Copy {
    void* to;
    int bytes, group;
    unsigned char data[16];
  };
  static constexpr int kLimit = 128;

  template <int kBytes, class T>
  void copy(Shared<T> to, int at, const T* from, bool valid) {
    constexpr int kCount = kBytes / static_cast<int>(sizeof(T));
    if (at % kCount != 0 || (valid && reinterpret_cast<uintptr_t>(from) % kBytes != 0)) {
      emu::fail("cp.async of " + std::to_string(kBytes) + " bytes to element " + std::to_string(at) +
                ": an address is not aligned");
    }
    if (count_ == kLimit) emu::fail("more than " + std::to_string(kLimit) + " copies of one thread are on their way");
    Copy& c = copies_[count_++];
    c = Copy{&to[at], kBytes, group_, {}};
    if (valid) std::memcpy(c.data, from, kBytes);
    (void)&to[at + kCount - 1];  // checks the index
    for (int i = 0; i < kBytes; i += 4) std::memcpy(static_cast<char*>(c.to) + i, &emu::kPoison, 4);
  }

  Copy copies_[kLimit];
  int count_ = 0, group_ = 0;
};

inline float fast_exp2(float x) { return std::exp2(x); }

#endif

}  // namespace ACCRETE_BACKEND
}  // namespace accrete::kernels
