// Elementwise kernels on the CPU: plain loops that the compiler turns into vector code, cut into one piece per thread.
#include "kernels/elementwise.h"

#include "kernels/parallel.h"
#include "kernels/simd.h"
#include "kernels/unary_simd.h"

namespace accrete::kernels {

namespace {

constexpr int64_t kFunctionCost = 4;  // a transcendental function against a plain load and store

template <Binary Op, class V>
V apply(V a, V b) {
  if constexpr (Op == Binary::add) return a + b;
  if constexpr (Op == Binary::sub) return a - b;
  if constexpr (Op == Binary::mul) return a * b;
  if constexpr (Op == Binary::div) return a / b;
}

template <Binary Op, class T>
void binary(const Cpu& dev, T* y, const T* a, const T* b, int64_t n) {
  for_elements(dev, n, 1, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t i) { store(y + i, apply<Op>(load<V>(a + i), load<V>(b + i))); });
  });
}

// body(row, begin column, end column) over a matrix whose elements are independent
template <class Body>
void for_rows(const Cpu& dev, int64_t rows, int64_t cols, const Body& body) {
  if (rows >= dev.threads) {
    for_ranges(dev, rows, cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) body(r, int64_t{0}, cols);
    });
  } else {
    for_elements(dev, cols, rows, [&](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < rows; ++r) body(r, begin, end);
    });
  }
}

}  // namespace

template <class T>
void unary_forward(const Cpu& dev, Unary f, T* y, const T* x, int64_t n) {
  with_unary(f, [&]<Unary F>() {
    for_elements(dev, n, kFunctionCost, [=](int64_t begin, int64_t end) {
      if constexpr (kHasVectorForm<F>) {
        each(begin, end, [=]<class V>(int64_t i) { store(y + i, unary_value<F>(load<V>(x + i))); });
      } else {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y[i] = from_float<T>(unary_value<F>(to_float(x[i])));
      }
    });
  });
}

template <class T>
void unary_backward(const Cpu& dev, Unary f, T* dx, const T* x, const T* dy, int64_t n) {
  with_unary(f, [&]<Unary F>() {
    for_elements(dev, n, kFunctionCost, [=](int64_t begin, int64_t end) {
      if constexpr (kHasVectorForm<F>) {
        each(begin, end,
             [=]<class V>(int64_t i) { store(dx + i, unary_derivative<F>(load<V>(x + i)) * load<V>(dy + i)); });
      } else {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i)
          dx[i] = from_float<T>(unary_derivative<F>(to_float(x[i])) * to_float(dy[i]));
      }
    });
  });
}

template <class T>
void binary_forward(const Cpu& dev, Binary op, T* y, const T* a, const T* b, int64_t n) {
  switch (op) {
    case Binary::add:
      return binary<Binary::add>(dev, y, a, b, n);
    case Binary::sub:
      return binary<Binary::sub>(dev, y, a, b, n);
    case Binary::mul:
      return binary<Binary::mul>(dev, y, a, b, n);
    case Binary::div:
      return binary<Binary::div>(dev, y, a, b, n);
  }
}

template <class T>
void affine(const Cpu& dev, T* y, const T* x, float alpha, float beta, int64_t n) {
  for_elements(dev, n, 1, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t i) { store(y + i, alpha * load<V>(x + i) + beta); });
  });
}

template <class T>
void bias_add(const Cpu& dev, T* y, const T* x, const float* bias, int64_t rows, int64_t cols) {
  for_rows(dev, rows, cols, [=](int64_t r, int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t c) {
      const int64_t i = r * cols + c;
      store(y + i, load<V>(x + i) + load<V>(bias + c));
    });
  });
}

template <class T>
void column_scale(const Cpu& dev, T* y, const T* x, const float* scale, int64_t rows, int64_t cols) {
  for_rows(dev, rows, cols, [=](int64_t r, int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t c) {
      const int64_t i = r * cols + c;
      store(y + i, load<V>(x + i) * load<V>(scale + c));
    });
  });
}

template <class T>
void fill(const Cpu& dev, T* x, float value, int64_t n) {
  for_elements(dev, n, 1, [=](int64_t begin, int64_t end) {
    each(begin, end, [=]<class V>(int64_t i) { store(x + i, V{} + value); });
  });
}

template <class T>
void spread(const Cpu& dev, T* x, const float* value, float factor, int64_t n) {
  fill(dev, x, factor * value[0], n);
}

#define ACCRETE_INSTANTIATE(T)                                                             \
  template void unary_forward<T>(const Cpu&, Unary, T*, const T*, int64_t);                \
  template void unary_backward<T>(const Cpu&, Unary, T*, const T*, const T*, int64_t);     \
  template void binary_forward<T>(const Cpu&, Binary, T*, const T*, const T*, int64_t);    \
  template void affine<T>(const Cpu&, T*, const T*, float, float, int64_t);                \
  template void bias_add<T>(const Cpu&, T*, const T*, const float*, int64_t, int64_t);     \
  template void column_scale<T>(const Cpu&, T*, const T*, const float*, int64_t, int64_t); \
  template void fill<T>(const Cpu&, T*, float, int64_t);                                   \
  template void spread<T>(const Cpu&, T*, const float*, float, int64_t);
ACCRETE_INSTANTIATE(float)
ACCRETE_INSTANTIATE(bf16)
ACCRETE_INSTANTIATE(f16)
#undef ACCRETE_INSTANTIATE

}  // namespace accrete::kernels
