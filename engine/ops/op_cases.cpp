#include "engine/ops/op_cases.h"

#include <algorithm>
#include <chrono>

#include "engine/core/random.h"
#include "engine/ops/op_rows.h"
#include "kernels/unary.h"

namespace accrete::ops {
namespace {

// ---- elementwise ----------------------------------------------------------------------------------------------------
const std::vector<Shape> kElementShapes = {Shape{},      Shape{0},        Shape{1},     Shape{3},
                                           Shape{7, 31}, Shape{2, 3, 43}, Shape{4, 33}, Shape{3, 129}};

struct Range {
  double low, high;
};
Range domain(Unary f) {
  switch (f) {
    case Unary::log:
    case Unary::sqrt:
      return {0.1, 3};
    case Unary::reciprocal:
      return {0.5, 2};
    case Unary::exp:
      return {-3, 3};
    default:
      return {-6, 6};
  }
}

void add_unary(std::vector<OpRow>& table) {
  for (int i = 0; i <= static_cast<int>(Unary::gelu_erf); ++i) {
    const Unary f = static_cast<Unary>(i);
    const auto [low, high] = domain(f);
    OpRow row;
    row.name = kernels::unary_name(f);
    row.functions = {"unary"};
    row.run = [f](const Tensors& x, const OpSettings&) { return Tensors{unary(f, x[0])}; };
    if (f == Unary::gelu_tanh || f == Unary::gelu_erf) {
      row.functions.push_back("gelu");
      row.run = [f](const Tensors& x, const OpSettings&) {
        return Tensors{gelu(x[0], f == Unary::gelu_tanh ? Gelu::tanh : Gelu::erf)};
      };
    }
    for (const Shape& s : kElementShapes) row.cases.push_back({{act(s, low, high)}, {}});
    row.speed = {{act(kSpeedShape, low, high)}, {}};
    row.value_tolerance = 1e-6, row.gradient_tolerance = 3e-6, row.bf16_tolerance = 0.006;
    row.why = kMath;
    table.push_back(std::move(row));
  }
}

void add_binary(std::vector<OpRow>& table) {
  constexpr const char* kNames[] = {"add", "sub", "mul", "div"};
  for (int i = 0; i < 4; ++i) {
    const Binary op = static_cast<Binary>(i);
    const double low = op == Binary::div ? 0.5 : -1, high = op == Binary::div ? 2 : 1;
    OpRow row;
    row.name = kNames[i];
    row.functions = {"binary", row.name};
    row.run = [op](const Tensors& x, const OpSettings&) {
      switch (op) {
        case Binary::add:
          return Tensors{add(x[0], x[1])};
        case Binary::sub:
          return Tensors{sub(x[0], x[1])};
        case Binary::mul:
          return Tensors{mul(x[0], x[1])};
        case Binary::div:
          return Tensors{div(x[0], x[1])};
      }
      return Tensors{};
    };
    for (const Shape& s : kElementShapes) row.cases.push_back({{act(s), act(s, low, high)}, {}});
    row.speed = {{act(kSpeedShape), act(kSpeedShape, low, high)}, {}};
    row.value_tolerance = row.gradient_tolerance = 1e-6;
    row.bf16_tolerance = op == Binary::div ? 0.008 : 0.005;  // d(a/b)/db rounds three times in bf16
    row.why = op == Binary::div ? "three roundings in the gradient of the divisor" : kExact;
    table.push_back(std::move(row));
  }
}

void add_elementwise(std::vector<OpRow>& table) {
  add_unary(table);
  add_binary(table);

  OpRow affine_row{.name = "affine", .functions = {"affine", "scale"}};
  affine_row.run = [](const Tensors& x, const OpSettings& s) {
    return Tensors{s.beta == 0.0f ? scale(x[0], s.alpha) : affine(x[0], s.alpha, s.beta)};
  };
  for (const Shape& s : kElementShapes) {
    affine_row.cases.push_back({{act(s)}, {.alpha = -1.7f, .beta = 0.6f}});
    affine_row.cases.push_back({{act(s)}, {.alpha = 0.3f}});
  }
  affine_row.speed = {{act(kSpeedShape)}, {.alpha = 0.5f, .beta = 1.0f}};
  affine_row.value_tolerance = affine_row.gradient_tolerance = 1e-6, affine_row.bf16_tolerance = 0.005;
  affine_row.why = kExact;
  table.push_back(std::move(affine_row));

  for (const bool multiply : {false, true}) {
    OpRow row{.name = multiply ? "column_scale" : "bias_add", .functions = {multiply ? "column_scale" : "bias_add"}};
    row.run = [multiply](const Tensors& x, const OpSettings&) {
      return Tensors{multiply ? column_scale(x[0], x[1]) : bias_add(x[0], x[1])};
    };
    for (const Shape& s : {Shape{1, 1}, Shape{0, 5}, Shape{3}, Shape{7, 31}, Shape{2, 5, 33}, Shape{65, 129}})
      row.cases.push_back({{act(s), vec(s[-1])}, {}});
    row.speed = {{act(kSpeedShape), vec(768)}, {}};
    row.value_tolerance = 1e-6, row.gradient_tolerance = 2e-6, row.bf16_tolerance = 0.006;
    row.why = kSums;
    table.push_back(std::move(row));
  }

  for (const DType narrow : {DType::bf16, DType::f16}) {
    OpRow row{.name = narrow == DType::bf16 ? "cast" : "cast_f16", .functions = {"cast"}};
    row.run = [narrow](const Tensors& x, const OpSettings&) {  // to the other type and back
      return Tensors{cast(x[0], x[0].dtype() == DType::f32 ? narrow : DType::f32)};
    };
    for (const Shape& s : kElementShapes) row.cases.push_back({{act(s)}, {}});
    row.speed = {{act(kSpeedShape)}, {}};
    row.value_tolerance = row.gradient_tolerance = row.bf16_tolerance = narrow == DType::bf16 ? 0.004 : 0.0005;
    row.f16_tolerance = row.bf16_tolerance;  // the run in f32 that is compared with rounds to `narrow`
    row.why = narrow == DType::bf16 ? "half a step of bf16 (2^-8)" : "half a step of f16 (2^-11)";
    table.push_back(std::move(row));
  }

  OpRow drop{.name = "dropout", .functions = {"dropout"}};
  drop.run = [](const Tensors& x, const OpSettings& s) { return Tensors{dropout(x[0], s.dropout, s.key, s.first)}; };
  for (const Shape& s : kElementShapes) {
    drop.cases.push_back({{act(s)}, {.dropout = 0.3f}});
    drop.cases.push_back({{act(s)}, {.dropout = 0.1f, .first = 1027}});
  }
  drop.cases.push_back({{act(Shape{3, 5})}, {.dropout = 0.0f}});
  drop.speed = {{act(kSpeedShape)}, {.dropout = 0.1f}};
  drop.value_tolerance = drop.gradient_tolerance = 1e-6, drop.bf16_tolerance = 0.005;
  drop.why = kExact;
  table.push_back(std::move(drop));
}

// ---- data movement and reductions -----------------------------------------------------------------------------------
void add_movement(std::vector<OpRow>& table) {
  const auto add_row = [&](std::string name, auto run, std::vector<OpCase> cases, OpCase speed) {
    OpRow row{.name = name, .functions = {name}};
    row.run = run;
    row.cases = std::move(cases);
    row.speed = std::move(speed);
    row.value_tolerance = row.gradient_tolerance = 1e-7;  // the test's own conversion to f32
    row.bf16_tolerance = 0;
    row.why = kMove;
    table.push_back(std::move(row));
  };
  add_row("reshape", [](const Tensors& x, const OpSettings& s) { return Tensors{reshape(x[0], s.shape)}; },
          {{{act(Shape{6, 35})}, {.shape = Shape{2, 3, 5, 7}}},
           {{act(Shape{1})}, {.shape = Shape{}}},
           {{act(Shape{0, 4})}, {.shape = Shape{2, 0}}}},
          {{act(kSpeedShape)}, {.shape = Shape{1024, 12, 64}}});
  add_row("transpose", [](const Tensors& x, const OpSettings&) { return Tensors{transpose(x[0])}; },
          {{{act(Shape{1, 1})}, {}},
           {{act(Shape{7, 31})}, {}},
           {{act(Shape{33, 65})}, {}},
           {{act(Shape{3, 1, 129})}, {}},
           {{act(Shape{2, 3, 33, 5})}, {}},
           {{act(Shape{0, 3})}, {}},
           {{act(Shape{2, 0, 3})}, {}}},
          {{act(kSpeedShape)}, {}});
  add_row("swap_middle", [](const Tensors& x, const OpSettings&) { return Tensors{swap_middle(x[0])}; },
          {{{act(Shape{1, 1, 1, 1})}, {}},
           {{act(Shape{2, 3, 5, 7})}, {}},
           {{act(Shape{1, 33, 2, 31})}, {}},
           {{act(Shape{2, 0, 3, 4})}, {}}},
          {{act(Shape{4, 256, 12, 64})}, {}});
  add_row("slice_last", [](const Tensors& x, const OpSettings& s) { return Tensors{slice_last(x[0], s.begin, s.end)}; },
          {{{act(Shape{5, 33})}, {.begin = 7, .end = 31}},
           {{act(Shape{2, 3, 1})}, {.begin = 0, .end = 1}},
           {{act(Shape{3, 7})}, {.begin = 3, .end = 3}},
           {{act(Shape{0, 7})}, {.begin = 1, .end = 3}},
           {{act(Shape{9})}, {.begin = 2, .end = 9}}},
          {{act(Shape{1024, 2304})}, {.begin = 768, .end = 1536}});
  add_row("slice_rows", [](const Tensors& x, const OpSettings& s) { return Tensors{slice_rows(x[0], s.begin, s.end)}; },
          {{{act(Shape{33, 5})}, {.begin = 7, .end = 31}},
           {{act(Shape{1, 3})}, {.begin = 0, .end = 1}},
           {{act(Shape{7, 2, 3})}, {.begin = 3, .end = 3}},
           {{act(Shape{9})}, {.begin = 2, .end = 9}}},
          {{act(Shape{2048, 768})}, {.begin = 512, .end = 1536}});
}

void add_reductions(std::vector<OpRow>& table) {
  for (const std::string name : {"sum", "mean", "sum_rows"}) {
    OpRow row{.name = name, .functions = {name}};
    row.run = [name](const Tensors& x, const OpSettings&) {
      return Tensors{name == "sum" ? sum(x[0]) : name == "mean" ? mean(x[0]) : sum_rows(x[0])};
    };
    // Values of one sign: the error of a sum is measured against the sum of magnitudes.
    for (const Shape& s : {Shape{1}, Shape{3}, Shape{7, 31}, Shape{2, 3, 43}, Shape{33, 129}, Shape{300, 3}})
      row.cases.push_back({{act(s, 0, 1)}, {}});
    if (name != "mean") row.cases.push_back({{act(Shape{0, 5})}, {}});
    row.speed = {{act(kSpeedShape, 0, 1)}, {}};
    row.value_tolerance = row.gradient_tolerance = 2e-6, row.bf16_tolerance = 0.004;
    row.why = "f32 sums of up to 4257 terms in blocks; the gradient is one rounding";
    table.push_back(std::move(row));
  }
}

// ---- products -------------------------------------------------------------------------------------------------------
void add_products(std::vector<OpRow>& table) {
  OpRow mm{.name = "matmul", .functions = {"matmul"}};
  mm.run = [](const Tensors& x, const OpSettings& s) { return Tensors{matmul(x[0], x[1], s.trans_a, s.trans_b)}; };
  struct Sizes {
    int64_t m, n, k, batch;
  };
  for (const Sizes z : {Sizes{1, 1, 1, 0}, {3, 7, 31, 0}, {33, 17, 65, 0}, {5, 129, 3, 2}, {0, 5, 3, 0}, {4, 3, 0, 0}})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        const auto shape = [&](int64_t r, int64_t c, bool t) {
          if (t) std::swap(r, c);
          return z.batch > 0 ? Shape{z.batch, r, c} : Shape{r, c};
        };
        mm.cases.push_back({{act(shape(z.m, z.k, ta)), act(shape(z.k, z.n, tb))}, {.trans_a = ta, .trans_b = tb}});
      }
  mm.speed = {{act(Shape{1024, 768}), act(Shape{768, 768})}, {}};
  mm.value_tolerance = mm.gradient_tolerance = 5e-6, mm.bf16_tolerance = 0.008;
  mm.why = kSums;
  table.push_back(std::move(mm));

  struct LinearSizes {
    Shape x;
    int64_t out;
  };
  const std::vector<LinearSizes> sizes = {{Shape{1, 1}, 1},     {Shape{3}, 7},    {Shape{7, 31}, 33},
                                          {Shape{2, 5, 33}, 9}, {Shape{0, 5}, 3}, {Shape{65, 3}, 129}};
  OpRow lin{.name = "linear", .functions = {"linear"}};
  lin.run = [](const Tensors& x, const OpSettings&) { return Tensors{linear(x[0], x[1], x[2])}; };
  lin.plain = [](const Tensors& x, const OpSettings&) { return Tensors{linear_plain(x[0], x[1], x[2])}; };
  OpRow lg{.name = "linear_gelu", .functions = {"linear_gelu"}};
  lg.run = [](const Tensors& x, const OpSettings& s) { return Tensors{linear_gelu(x[0], x[1], x[2], s.gelu)}; };
  lg.plain = [](const Tensors& x, const OpSettings& s) { return Tensors{linear_gelu_plain(x[0], x[1], x[2], s.gelu)}; };
  for (const auto& [x, out] : sizes)
    for (const bool bias : {true, false}) {
      const std::vector<OpInput> in = {act(x), act(Shape{out, x[-1]}), bias ? vec(out) : kAbsent};
      lin.cases.push_back({in, {}});
      for (const Gelu form : {Gelu::tanh, Gelu::erf}) lg.cases.push_back({in, {.gelu = form}});
    }
  OpRow mlp_row{.name = "mlp", .functions = {"mlp"}};
  mlp_row.run = [](const Tensors& x, const OpSettings& s) {
    return Tensors{mlp(x[0], x[1], x[2], x[3], x[4], s.gelu)};
  };
  mlp_row.plain = [](const Tensors& x, const OpSettings& s) {
    return Tensors{mlp_plain(x[0], x[1], x[2], x[3], x[4], s.gelu)};
  };
  for (const auto& [x, out] : sizes)
    for (const auto& [bias1, bias2] : {std::pair{true, true}, {false, false}, {true, false}})
      for (const Gelu form : {Gelu::tanh, Gelu::erf}) {
        const int64_t in = x[-1], hidden = 2 * out + 3;
        // Mostly of one sign: what two layers round would otherwise be compared with a sum that cancels.
        mlp_row.cases.push_back({{act(x, 0, 1), act(Shape{hidden, in}, -0.5, 1), bias1 ? vec(hidden, 0, 1) : kAbsent,
                                  act(Shape{out, hidden}, 0, 1), bias2 ? vec(out) : kAbsent},
                                 {.gelu = form}});
      }
  mlp_row.speed = {
      {act(kSpeedShape, -0.1, 0.1), act(Shape{3072, 768}), vec(3072), act(Shape{768, 3072}, -0.1, 0.1), vec(768)}, {}};
  mlp_row.value_tolerance = mlp_row.gradient_tolerance = 1e-5, mlp_row.bf16_tolerance = 0.015;
  mlp_row.why = kChain;
  lin.speed = {{act(kSpeedShape), act(Shape{2304, 768}), vec(2304)}, {}};
  lg.speed = {{act(kSpeedShape, -0.1, 0.1), act(Shape{3072, 768}), vec(3072)}, {}};
  lin.value_tolerance = lin.gradient_tolerance = 5e-6, lin.bf16_tolerance = 0.008;
  lg.value_tolerance = lg.gradient_tolerance = 1e-5, lg.bf16_tolerance = 0.015;
  lin.why = kSums;
  lg.why = kChain;
  table.push_back(std::move(lin));
  table.push_back(std::move(lg));
  table.push_back(std::move(mlp_row));
}

// ---- normalisation --------------------------------------------------------------------------------------------------
void add_norms(std::vector<OpRow>& table) {
  OpRow ln{.name = "layernorm", .functions = {"layernorm"}};
  ln.run = [](const Tensors& x, const OpSettings& s) { return Tensors{layernorm(x[0], x[1], x[2], s.eps)}; };
  ln.plain = [](const Tensors& x, const OpSettings& s) { return Tensors{layernorm_plain(x[0], x[1], x[2], s.eps)}; };
  OpRow rn{.name = "residual_layernorm", .functions = {"residual_layernorm"}};
  rn.run = [](const Tensors& x, const OpSettings& s) {
    const ResidualNorm r = residual_layernorm(x[0], x[1], x[2], x[3], s.eps, {x[4], s.dropout, s.key, s.first});
    return Tensors{r.sum, r.normed};
  };
  rn.plain = [](const Tensors& x, const OpSettings& s) {
    const ResidualNorm r = residual_layernorm_plain(x[0], x[1], x[2], x[3], s.eps, {x[4], s.dropout, s.key, s.first});
    return Tensors{r.sum, r.normed};
  };
  // One channel normalises to zero whatever x is; the derivative is zero but for rounding, so eps is large there.
  for (const Shape& s :
       {Shape{1, 1}, Shape{5, 3}, Shape{7}, Shape{2, 3, 31}, Shape{33, 65}, Shape{3, 129}, Shape{0, 7}})
    for (const bool beta : {true, false}) {
      const int64_t C = s[-1];
      const OpSettings set{.eps = C == 1 ? 0.1f : 1e-5f};
      ln.cases.push_back({{act(s, -1, 2), vec(C), beta ? vec(C) : kAbsent}, set});
      rn.cases.push_back({{act(s, -1, 2), act(s), vec(C), beta ? vec(C) : kAbsent, kAbsent}, set});
    }
  for (const Shape& s : {Shape{5, 3}, Shape{13, 7, 40}, Shape{3, 4, 5, 264}, Shape{9, 2, 129}, Shape{0, 3, 5}})
    for (const float p : {0.0f, 0.4f})
      for (const bool scale : {true, false})
        rn.cases.push_back({{act(s, -1, 2), act(s), vec(s[-1]), vec(s[-1]), scale ? vec(s[-1]) : kAbsent},
                            {.eps = 1e-5f, .dropout = p, .first = 6}});
  ln.speed = {{act(kSpeedShape), vec(768), vec(768)}, {}};
  rn.speed = {{act(kSpeedShape), act(kSpeedShape), vec(768), vec(768), kAbsent}, {}};
  ln.value_tolerance = rn.value_tolerance = 5e-6;
  ln.gradient_tolerance = rn.gradient_tolerance = 2e-5;
  ln.bf16_tolerance = 0.008;
  rn.bf16_tolerance = 0.012;  // the statistics are taken of the rounded sum, which the gradient sees as well
  ln.why = rn.why = kChain;
  table.push_back(std::move(ln));
  table.push_back(std::move(rn));

  OpRow sm{.name = "softmax", .functions = {"softmax"}};
  sm.run = [](const Tensors& x, const OpSettings& s) { return Tensors{softmax(x[0], s.causal)}; };
  for (const Shape& s : {Shape{1, 1}, Shape{3, 7}, Shape{31, 33}, Shape{2, 5, 129}, Shape{0, 3}})
    sm.cases.push_back({{act(s, -4, 4)}, {}});
  for (const Shape& s : {Shape{1, 1}, Shape{7, 7}, Shape{2, 31, 31}, Shape{3, 5, 33}})
    sm.cases.push_back({{act(s, -4, 4)}, {.causal = true}});
  sm.speed = {{act(Shape{12, 256, 256})}, {.causal = true}};
  sm.value_tolerance = sm.gradient_tolerance = 5e-6, sm.bf16_tolerance = 0.012;
  sm.why = "exp and a sum; the bf16 gradient uses rounded probabilities and cancels";
  table.push_back(std::move(sm));
}

// ---- attention ------------------------------------------------------------------------------------------------------
void add_attention(std::vector<OpRow>& table) {
  const auto options = [](const OpSettings& s) {
    return AttentionOptions{s.heads, s.causal, s.dropout, s.key, s.first};
  };
  OpRow at{.name = "attention", .functions = {"attention"}};
  at.run = [options](const Tensors& x, const OpSettings& s) { return Tensors{attention(x[0], options(s))}; };
  at.plain = [options](const Tensors& x, const OpSettings& s) { return Tensors{attention_plain(x[0], options(s))}; };
  struct Sizes {
    int64_t b, t, h, d;
  };
  for (const Sizes z : {Sizes{1, 1, 1, 1},
                        {2, 3, 3, 7},
                        {1, 31, 2, 8},
                        {2, 33, 1, 5},
                        {1, 129, 1, 3},
                        {1, 7, 2, 64},
                        {1, 3, 1, 128},
                        {0, 5, 2, 4},
                        {2, 0, 1, 4}})
    for (const bool causal : {false, true}) {
      OpSettings s{.causal = causal, .heads = z.h};
      const OpInput qkv = act(Shape{z.b, z.t, 3 * z.h * z.d}, -2, 2);
      at.cases.push_back({{qkv}, s});
      s.dropout = 0.25f, s.first = 3;
      if (z.t <= 33) at.cases.push_back({{qkv}, s});
    }
  at.speed = {{act(Shape{4, 256, 2304})}, {.causal = true, .heads = 12}};
  at.value_tolerance = 5e-6, at.gradient_tolerance = 2e-5, at.bf16_tolerance = 0.012;
  at.why = kChain;
  table.push_back(std::move(at));

  OpRow ac{.name = "attention_cached", .functions = {"attention_cached"}};
  ac.run = [](const Tensors& x, const OpSettings& s) {
    return Tensors{attention_cached(x[0], x[1], x[2], s.length, s.heads)};
  };
  struct Cached {
    int64_t b, q, capacity, length, h, d;
  };
  for (const Cached z : {Cached{1, 1, 1, 1, 1, 1}, {2, 1, 40, 33, 3, 7}, {1, 5, 9, 9, 2, 8}, {2, 31, 70, 65, 1, 5}})
    ac.cases.push_back({{act(Shape{z.b, z.q, 3 * z.h * z.d}, -2, 2), act(Shape{z.b, z.capacity, z.h * z.d}, -2, 2),
                         act(Shape{z.b, z.capacity, z.h * z.d}, -2, 2)},
                        {.heads = z.h, .length = z.length}});
  ac.speed = {{act(Shape{4, 1, 2304}), act(Shape{4, 1024, 768}), act(Shape{4, 1024, 768})},
              {.heads = 12, .length = 1000}};
  ac.value_tolerance = ac.gradient_tolerance = 5e-6, ac.bf16_tolerance = 0.012;
  ac.why = kChain;
  ac.no_gradient = "the cache is for generation only; use attention";
  table.push_back(std::move(ac));
}

// ---- embedding and loss ---------------------------------------------------------------------------------------------
void add_embedding_and_loss(std::vector<OpRow>& table) {
  OpRow em{.name = "embedding", .functions = {"embedding"}};
  em.run = [](const Tensors& x, const OpSettings& s) { return Tensors{embedding(x[0], x[1], x[2], s.first)}; };
  em.plain = [](const Tensors& x, const OpSettings& s) { return Tensors{embedding_plain(x[0], x[1], x[2], s.first)}; };
  struct Sizes {
    int64_t b, t, v, c, p, first;
  };
  for (const Sizes z :
       {Sizes{1, 1, 1, 1, 1, 0}, {2, 7, 5, 31, 9, 2}, {3, 5, 33, 3, 0, 0}, {2, 33, 129, 7, 33, 0}, {0, 3, 5, 4, 3, 0}})
    em.cases.push_back({{ids(Shape{z.b, z.t}, 0, static_cast<double>(z.v)), act(Shape{z.v, z.c}),
                         z.p > 0 ? act(Shape{z.p, z.c}) : kAbsent},
                        {.first = z.first}});
  em.speed = {{ids(Shape{4, 256}, 0, 50257), act(Shape{50257, 768}), act(Shape{1024, 768})}, {}};
  em.value_tolerance = em.gradient_tolerance = 2e-6, em.bf16_tolerance = 0.005;
  em.why = kExact;
  table.push_back(std::move(em));

  OpRow ce{.name = "cross_entropy", .functions = {"cross_entropy"}};
  ce.run = [](const Tensors& x, const OpSettings& s) { return Tensors{cross_entropy(x[0], x[1], s.smoothing)}; };
  ce.plain = [](const Tensors& x, const OpSettings& s) {
    return Tensors{cross_entropy_plain(x[0], x[1], s.smoothing)};
  };
  OpRow tl{.name = "token_losses", .functions = {"token_losses"}};
  tl.run = [](const Tensors& x, const OpSettings&) { return Tensors{token_losses(x[0], x[1])}; };
  for (const Shape& s : {Shape{1, 1}, Shape{5, 3}, Shape{2, 7, 31}, Shape{33, 129}, Shape{3, 1025}}) {
    const double V = static_cast<double>(s[-1]);
    std::vector<int64_t> rows = s.vector();
    rows.pop_back();
    const OpInput targets = ids(Shape(rows), 0, V), some_ignored = ids(Shape(rows), V > 1 ? -V / 2 : 0, V);
    ce.cases.push_back({{act(s, -4, 4), targets}, {}});
    ce.cases.push_back({{act(s, -4, 4), some_ignored}, {.smoothing = 0.1f}});
    tl.cases.push_back({{act(s, -4, 4), some_ignored}, {}});
  }
  ce.cases.push_back({{act(Shape{4, 7}), ids(Shape{4}, -3, 0)}, {}});  // every target ignored: loss 0, gradient 0
  ce.cases.push_back({{act(Shape{0, 7}), ids(Shape{0}, 0, 7)}, {}});
  ce.speed = tl.speed = {{act(Shape{1024, 50257}), ids(Shape{1024}, 0, 50257)}, {}};
  ce.value_tolerance = tl.value_tolerance = 2e-6;
  ce.gradient_tolerance = tl.gradient_tolerance = 5e-6;
  ce.bf16_tolerance = tl.bf16_tolerance = 0.005;
  ce.why = tl.why = "exp and a sum over the classes; losses are f32, the bf16 gradient is rounded once";
  tl.no_gradient = "it is a measurement; use cross_entropy";
  table.push_back(std::move(ce));
  table.push_back(std::move(tl));

  OpRow lc{.name = "linear_cross_entropy", .functions = {"linear_cross_entropy"}};
  lc.run = [](const Tensors& x, const OpSettings& s) {
    return Tensors{linear_cross_entropy(x[0], x[1], x[2], s.smoothing)};
  };
  lc.plain = [](const Tensors& x, const OpSettings& s) {
    return Tensors{linear_cross_entropy_plain(x[0], x[1], x[2], s.smoothing)};
  };
  OpRow lt{.name = "linear_token_losses", .functions = {"linear_token_losses"}};
  lt.run = [](const Tensors& x, const OpSettings&) { return Tensors{linear_token_losses(x[0], x[1], x[2])}; };
  for (const Shape& s : {Shape{1, 1, 1}, Shape{5, 3, 4}, Shape{33, 16, 129}, Shape{7, 40, 8}, Shape{0, 3, 7}}) {
    const auto V = static_cast<double>(s[2]);
    for (const double low : {0.0, V > 1 ? -V / 2 : 0.0}) {
      const std::vector<OpInput> in = {act(Shape{s[0], s[1]}), act(Shape{s[2], s[1]}), ids(Shape{s[0]}, low, V)};
      lc.cases.push_back({in, {.smoothing = low < 0 ? 0.1f : 0.0f}});
      lt.cases.push_back({in, {}});
    }
  }
  lc.speed = lt.speed = {{act(Shape{1024, 768}), act(Shape{50257, 768}), ids(Shape{1024}, 0, 50257)}, {}};
  lc.value_tolerance = 5e-6, lc.gradient_tolerance = 2e-5, lc.bf16_tolerance = 0.02;
  lc.why = "a product, exp and a sum over the classes; logits and their gradient are rounded once in between";
  lt.value_tolerance = 5e-6, lt.bf16_tolerance = 0.02, lt.why = lc.why;
  lt.no_gradient = "it is a measurement; use linear_cross_entropy";
  table.push_back(std::move(lc));
  table.push_back(std::move(lt));
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

const std::vector<OpRow>& op_table() {
  static const std::vector<OpRow> table = [] {
    std::vector<OpRow> t;
    add_elementwise(t);
    add_movement(t);
    add_reductions(t);
    add_products(t);
    add_norms(t);
    add_attention(t);
    add_embedding_and_loss(t);
    add_token_rows(t);
    add_image_rows(t);
    return t;
  }();
  return table;
}

const OpRow& op_row(const std::string& name) {
  for (const OpRow& row : op_table())
    if (row.name == name) return row;
  fail("op table", "no op named \"", name, "\"");
}

Tensors make_inputs(const OpCase& c, DType dtype, Device device, uint64_t seed, bool gradients) {
  Tensors out;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const OpInput& in = c.inputs[i];
    if (in.kind == OpInput::Kind::absent) {
      out.emplace_back();
      continue;
    }
    const auto n = static_cast<size_t>(in.shape.count());
    const RandomKey key = random_key(seed, "op input", i);
    const auto uniform = [&](size_t j) { return to_uniform(random_words(key, j / 4).v[j % 4]); };
    if (in.kind == OpInput::Kind::ids) {
      std::vector<int32_t> v(n);
      for (size_t j = 0; j < n; ++j)
        v[j] = static_cast<int32_t>(std::floor(in.low + (in.high - in.low) * static_cast<double>(uniform(j))));
      out.push_back(Tensor::from(v, in.shape, device));
      continue;
    }
    std::vector<float> v(n);
    for (size_t j = 0; j < n; ++j)
      v[j] = static_cast<float>(in.low + (in.high - in.low) * static_cast<double>(uniform(j)));
    Tensor t = Tensor::from(v, in.shape, device);
    if (in.kind == OpInput::Kind::activation) t = cast(t, dtype).detach();
    out.push_back(gradients && in.differentiable() ? require_grad(t) : t);
  }
  return out;
}

OpSpeed measure_speed(const OpRow& row, DType dtype, Device device, int repeats) {
  const bool gradients = row.no_gradient.empty();
  const Tensors inputs = make_inputs(row.speed, dtype, device, 1, gradients);
  OpSpeed speed;
  for (int i = -1; i < repeats; ++i) {  // the first round warms up
    Tape tape;
    const double start = now_seconds();
    const Tensors y = row.run(inputs, row.speed.settings);
    const double middle = now_seconds();
    double end = middle;
    if (gradients) {
      const Tensor dy = Tensor::zeros(y.back().shape(), y.back().dtype(), device);
      const double begin = now_seconds();
      backward(y.back(), dy);
      end = now_seconds() - begin + middle;
    }
    speed.cost = tape.cost();
    if (i < 0) continue;
    speed.forward_s = i == 0 ? middle - start : std::min(speed.forward_s, middle - start);
    speed.backward_s = i == 0 ? end - middle : std::min(speed.backward_s, end - middle);
  }
  return speed;
}

}  // namespace accrete::ops
