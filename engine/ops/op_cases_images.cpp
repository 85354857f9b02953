// Rows of the op table for grids of features: convolution and its norm, the ops of VOLO.
#include "engine/ops/images.h"
#include "engine/ops/op_rows.h"

namespace accrete::ops {
namespace {

void add_convolution(std::vector<OpRow>& table) {
  OpRow conv{.name = "conv2d", .functions = {"conv2d"}};
  conv.run = [](const Tensors& x, const OpSettings& s) {
    return Tensors{conv2d(x[0], x[1], x[2], {s.kernel, s.stride, s.pad})};
  };
  struct Sizes {
    Shape x;
    int64_t out, kernel, stride, pad;
  };
  for (const Sizes& z : {Sizes{Shape{1, 1, 1, 1}, 1, 1, 1, 0},
                         {Shape{2, 3, 5, 16}, 33, 1, 1, 0},
                         {Shape{1, 4, 5, 3}, 7, 1, 2, 0},
                         {Shape{2, 5, 7, 3}, 5, 3, 1, 1},
                         {Shape{2, 6, 5, 8}, 16, 3, 1, 1},
                         {Shape{1, 5, 4, 33}, 3, 3, 1, 0},
                         {Shape{1, 2, 3, 4}, 8, 3, 1, 2},
                         {Shape{1, 7, 6, 2}, 3, 3, 2, 1},
                         {Shape{2, 9, 11, 3}, 8, 7, 2, 3},
                         {Shape{1, 10, 7, 8}, 8, 5, 3, 4},
                         {Shape{2, 4, 6, 8}, 16, 2, 2, 0},
                         {Shape{1, 9, 14, 3}, 5, 4, 4, 0},
                         {Shape{0, 4, 4, 3}, 2, 3, 1, 1}})
    for (const bool bias : {true, false})
      conv.cases.push_back({{act(z.x), act(Shape{z.out, z.kernel * z.kernel * z.x[3]}), bias ? vec(z.out) : kAbsent},
                            {.kernel = z.kernel, .stride = z.stride, .pad = z.pad}});
  conv.speed = {{act(Shape{4, 56, 56, 64}), act(Shape{64, 576}), vec(64)}, {.kernel = 3, .pad = 1}};
  conv.value_tolerance = conv.gradient_tolerance = 5e-6, conv.bf16_tolerance = 0.008;
  conv.why = kSums;
  table.push_back(std::move(conv));

  OpRow bn{.name = "batch_norm", .functions = {"batch_norm"}};
  bn.run = [](const Tensors& x, const OpSettings& s) {  // on copies of the running statistics, which it moves
    return Tensors{batch_norm(x[0], x[1], x[2], x[3].clone(), x[4].clone(), {s.training, s.momentum, s.eps})};
  };
  for (const Shape& s : {Shape{2, 1}, Shape{5, 3}, Shape{7}, Shape{2, 3, 31}, Shape{33, 65}, Shape{1, 5, 8, 16},
                         Shape{3, 2060}, Shape{1100, 3}, Shape{0, 7}})
    for (const bool training : {true, false}) {
      const int64_t C = s[-1];
      if (training && s.rows() < 2) continue;
      // Two rows normalise to plus and minus one whatever they are; the derivative is then zero but for rounding.
      const OpSettings set{.eps = s.rows() < 4 ? 0.1f : 1e-5f, .training = training};
      for (const bool factors : {true, false})
        bn.cases.push_back({{act(s, -1, 2), factors ? vec(C) : kAbsent, factors ? vec(C) : kAbsent,
                             data(Shape{C}, -1, 1), data(Shape{C}, 0.3, 2)},
                            set});
    }
  bn.speed = {{act(Shape{4, 56, 56, 64}), vec(64), vec(64), data(Shape{64}, -1, 1), data(Shape{64}, 0.3, 2)},
              {.training = true}};
  bn.value_tolerance = 5e-6, bn.gradient_tolerance = 2e-5, bn.bf16_tolerance = 0.008;
  bn.why = kChain;
  table.push_back(std::move(bn));
}

void add_volo(std::vector<OpRow>& table) {
  OpRow outlook{.name = "outlook_attention", .functions = {"outlook_attention"}};
  outlook.run = [](const Tensors& x, const OpSettings& s) {
    return Tensors{outlook_attention(x[0], x[1], s.heads, s.scale)};
  };
  outlook.plain = [](const Tensors& x, const OpSettings& s) {
    return Tensors{outlook_attention_plain(x[0], x[1], s.heads, s.scale)};
  };
  struct Grid {
    int64_t b, h, w, heads, dim;
  };
  const auto inputs = [](const Grid& g) {
    return std::vector<OpInput>{act(Shape{g.b, g.h, g.w, g.heads * g.dim}),
                                act(Shape{g.b, (g.h + 1) / 2, (g.w + 1) / 2, g.heads * 81}, -3, 3)};
  };
  for (const Grid& g : {Grid{1, 1, 1, 1, 1},
                        {1, 2, 2, 1, 3},
                        {2, 4, 4, 3, 2},
                        {1, 5, 7, 2, 4},
                        {1, 3, 4, 4, 8},
                        {1, 4, 3, 1, 40},
                        {1, 7, 2, 3, 11},
                        {2, 6, 6, 2, 16},
                        {1, 1, 5, 1, 33},
                        {0, 4, 4, 2, 2}})
    outlook.cases.push_back({inputs(g), {.heads = g.heads, .scale = 0.7f}});
  outlook.speed = {inputs({4, 28, 28, 6, 32}), {.heads = 6, .scale = 0.1767767f}};
  outlook.value_tolerance = 5e-6, outlook.gradient_tolerance = 2e-5, outlook.bf16_tolerance = 0.008;
  outlook.why = kChain;
  table.push_back(std::move(outlook));

  OpRow pool{.name = "average_pool2", .functions = {"average_pool2"}};
  pool.run = [](const Tensors& x, const OpSettings&) { return Tensors{average_pool2(x[0])}; };
  for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{2, 4, 6, 3}, Shape{1, 5, 7, 8}, Shape{2, 3, 4, 31},
                         Shape{1, 2, 5, 16}, Shape{0, 4, 4, 3}})
    pool.cases.push_back({{act(s)}, {}});
  pool.speed = {{act(Shape{4, 28, 28, 192})}, {}};
  pool.value_tolerance = pool.gradient_tolerance = 1e-6, pool.bf16_tolerance = 0.005;
  pool.why = kExact;
  table.push_back(std::move(pool));

  OpRow cross{.name = "cross_attention", .functions = {"cross_attention"}};
  cross.run = [](const Tensors& x, const OpSettings& s) { return Tensors{cross_attention(x[0], x[1], s.heads)}; };
  cross.plain = [](const Tensors& x, const OpSettings& s) {
    return Tensors{cross_attention_plain(x[0], x[1], s.heads)};
  };
  struct Lengths {
    int64_t b, s, t, heads, dim;
  };
  for (const Lengths& z : {Lengths{1, 1, 1, 1, 1},
                           {2, 1, 17, 3, 7},
                           {2, 1, 33, 2, 8},
                           {1, 5, 3, 2, 8},
                           {1, 31, 70, 1, 5},
                           {1, 3, 129, 1, 32},
                           {1, 67, 2, 1, 64},
                           {0, 1, 5, 2, 4}})
    cross.cases.push_back(
        {{act(Shape{z.b, z.s, z.heads * z.dim}, -2, 2), act(Shape{z.b, z.t, 2 * z.heads * z.dim}, -2, 2)},
         {.heads = z.heads}});
  cross.speed = {{act(Shape{16, 1, 384}), act(Shape{16, 197, 768})}, {.heads = 12}};
  cross.value_tolerance = 5e-6, cross.gradient_tolerance = 2e-5, cross.bf16_tolerance = 0.012;
  cross.why = kChain;
  table.push_back(std::move(cross));

  OpRow mix{.name = "mix_tokens", .functions = {"mix_tokens"}};
  mix.run = [](const Tensors& x, const OpSettings& s) { return Tensors{mix_tokens(x[0], x[1], s.unit)}; };
  struct Boxed {
    Shape x;
    int64_t unit, cells;  // numbers of the box are below `cells`
  };
  for (const Boxed& z : {Boxed{Shape{1, 1, 1, 1}, 1, 2},
                         {Shape{4, 6, 8, 3}, 2, 4},
                         {Shape{3, 5, 7, 8}, 1, 6},
                         {Shape{2, 8, 8, 33}, 2, 5},
                         {Shape{2, 4, 4, 16}, 1, 1},
                         {Shape{0, 4, 4, 3}, 2, 2}})
    mix.cases.push_back({{act(z.x), ids(Shape{4}, 0, static_cast<double>(z.cells))}, {.unit = z.unit}});
  mix.speed = {{act(Shape{4, 28, 28, 192}), ids(Shape{4}, 0, 14)}, {.unit = 2}};
  mix.value_tolerance = mix.gradient_tolerance = 1e-7, mix.bf16_tolerance = 0;
  mix.why = kMove;
  table.push_back(std::move(mix));

  OpRow top{.name = "max_tokens", .functions = {"max_tokens"}};
  top.run = [](const Tensors& x, const OpSettings&) { return Tensors{max_tokens(x[0])}; };
  for (const Shape& s : {Shape{1, 1, 1}, Shape{3, 7, 31}, Shape{2, 33, 8}, Shape{2, 1, 5}, Shape{0, 5, 3}})
    top.cases.push_back({{act(s)}, {}});
  top.speed = {{act(Shape{4, 196, 1000})}, {}};
  top.value_tolerance = top.gradient_tolerance = 1e-7, top.bf16_tolerance = 0;
  top.why = kMove;
  top.no_gradient = "it is for evaluation; train on the outputs of the tokens themselves";
  table.push_back(std::move(top));

  OpRow repeat{.name = "repeat_tokens", .functions = {"repeat_tokens"}};
  repeat.run = [](const Tensors& x, const OpSettings& s) { return Tensors{repeat_tokens(x[0], s.length)}; };
  const auto numbers = [](Shape s) { return OpInput{s, -1, 1, OpInput::Kind::vector}; };
  for (const int64_t tokens : {1, 2, 7, 16, 0})
    for (const OpInput& x : {numbers(Shape{3, 5}), ids(Shape{4}, -2, 9), numbers(Shape{2, 3, 8}), numbers(Shape{0, 5})})
      repeat.cases.push_back({{x}, {.length = tokens}});
  repeat.speed = {{data(Shape{4, 1000}, 0, 1)}, {.length = 196}};
  repeat.value_tolerance = repeat.gradient_tolerance = 1e-7, repeat.bf16_tolerance = 0;
  repeat.why = kMove;
  repeat.no_gradient = "targets have none";
  table.push_back(std::move(repeat));
}

}  // namespace

void add_image_rows(std::vector<OpRow>& table) {
  add_convolution(table);
  add_volo(table);
}

}  // namespace accrete::ops
