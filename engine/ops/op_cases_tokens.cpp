// Rows of the op table for sequences of tokens, targets for every class, and what goes into a vision transformer:
// images, patches, tables of positions.
#include "engine/ops/images.h"
#include "engine/ops/op_rows.h"

namespace accrete::ops {
namespace {

const Shape kSpeedTokens{4, 256, 768};

void add_sequences(std::vector<OpRow>& table) {
  OpRow seq{.name = "sequence", .functions = {"sequence"}};
  seq.run = [](const Tensors& x, const OpSettings&) { return Tensors{sequence(x[0], x[1], x[2], x[3])}; };
  enum class Positions { none, all, tokens_only };
  const auto sequence_case = [](Shape x, int64_t cls, int64_t extra, Positions p) {
    const int64_t N = x[1], C = x[2], placed = p == Positions::all ? cls + extra + N : N;
    return OpCase{{act(x), cls > 0 ? act(Shape{cls, C}) : kAbsent, extra > 0 ? act(Shape{extra, C}) : kAbsent,
                   p == Positions::none ? kAbsent : act(Shape{placed, C})},
                  {}};
  };
  seq.cases = {sequence_case(Shape{1, 1, 1}, 1, 0, Positions::all),
               sequence_case(Shape{3, 5, 7}, 1, 1, Positions::all),
               sequence_case(Shape{19, 3, 33}, 1, 1, Positions::all),
               sequence_case(Shape{2, 9, 16}, 1, 4, Positions::tokens_only),
               sequence_case(Shape{5, 4, 24}, 1, 0, Positions::none),
               sequence_case(Shape{3, 31, 8}, 0, 0, Positions::all),
               sequence_case(Shape{4, 2, 3}, 0, 3, Positions::tokens_only),
               sequence_case(Shape{2, 0, 5}, 1, 0, Positions::all),
               sequence_case(Shape{0, 3, 5}, 1, 0, Positions::all)};
  seq.speed = sequence_case(kSpeedTokens, 1, 0, Positions::all);
  seq.value_tolerance = 1e-6, seq.gradient_tolerance = 2e-6, seq.bf16_tolerance = 0.005;
  seq.why = "one sum; gradients of tables are f32 sums over the batch";
  table.push_back(std::move(seq));

  const auto add_moving = [&](std::string name, auto run, std::vector<OpCase> cases, OpCase speed) {
    OpRow row{.name = name, .functions = {name}};
    row.run = run;
    row.cases = std::move(cases);
    row.speed = std::move(speed);
    row.value_tolerance = row.gradient_tolerance = 1e-7;  // the test's own conversion to f32
    row.bf16_tolerance = 0;
    row.why = kMove;
    table.push_back(std::move(row));
  };
  add_moving("slice_tokens",
             [](const Tensors& x, const OpSettings& s) { return Tensors{slice_tokens(x[0], s.begin, s.end)}; },
             {{{act(Shape{1, 1, 1})}, {.begin = 0, .end = 1}},
              {{act(Shape{3, 7, 5})}, {.begin = 1, .end = 6}},
              {{act(Shape{9, 5, 40})}, {.begin = 0, .end = 1}},
              {{act(Shape{2, 31, 16})}, {.begin = 4, .end = 31}},
              {{act(Shape{2, 3, 4})}, {.begin = 2, .end = 2}},
              {{act(Shape{0, 3, 4})}, {.begin = 0, .end = 2}}},
             {{act(kSpeedTokens)}, {.begin = 1, .end = 256}});
  add_moving("concat_tokens", [](const Tensors& x, const OpSettings&) { return Tensors{concat_tokens(x[0], x[1])}; },
             {{{act(Shape{1, 1, 1}), act(Shape{1, 1, 1})}, {}},
              {{act(Shape{3, 2, 5}), act(Shape{3, 7, 5})}, {}},
              {{act(Shape{2, 31, 16}), act(Shape{2, 1, 16})}, {}},
              {{act(Shape{2, 0, 3}), act(Shape{2, 4, 3})}, {}},
              {{act(Shape{0, 2, 3}), act(Shape{0, 4, 3})}, {}}},
             {{act(Shape{4, 128, 768}), act(Shape{4, 128, 768})}, {}});
  add_moving("patchify", [](const Tensors& x, const OpSettings& s) { return Tensors{patchify(x[0], s.kernel)}; },
             {{{act(Shape{1, 1, 1, 1})}, {.kernel = 1}},
              {{act(Shape{2, 3, 4, 6})}, {.kernel = 2}},
              {{act(Shape{1, 2, 9, 3})}, {.kernel = 3}},
              {{act(Shape{2, 3, 16, 32})}, {.kernel = 16}},
              {{act(Shape{3, 1, 28, 14})}, {.kernel = 14}},
              {{act(Shape{0, 3, 8, 8})}, {.kernel = 4}}},
             {{act(Shape{4, 3, 224, 224})}, {.kernel = 16}});

  OpRow mean{.name = "mean_tokens", .functions = {"mean_tokens"}};
  mean.run = [](const Tensors& x, const OpSettings& s) { return Tensors{mean_tokens(x[0], s.begin)}; };
  mean.cases = {{{act(Shape{1, 1, 1}, 0, 1)}, {}},
                {{act(Shape{3, 7, 5}, 0, 1)}, {.begin = 1}},
                {{act(Shape{2, 40, 33}, 0, 1)}, {.begin = 2}},
                {{act(Shape{5, 197, 16}, 0, 1)}, {}},
                {{act(Shape{2, 9, 520}, 0, 1)}, {.begin = 8}},
                {{act(Shape{0, 3, 4}, 0, 1)}, {}}};
  mean.speed = {{act(kSpeedTokens)}, {}};
  mean.value_tolerance = mean.gradient_tolerance = 2e-6, mean.bf16_tolerance = 0.005;
  mean.why = "f32 sums of up to 197 numbers of one sign; bf16 rounds the result once";
  table.push_back(std::move(mean));
}

void add_branches(std::vector<OpRow>& table) {
  OpRow path{.name = "drop_path", .functions = {"drop_path"}};
  path.run = [](const Tensors& x, const OpSettings& s) { return Tensors{drop_path(x[0], s.dropout, s.key, s.first)}; };
  for (const Shape& s : {Shape{1}, Shape{9}, Shape{7, 31}, Shape{13, 3, 43}, Shape{6, 2, 2, 8}, Shape{0, 3, 5}}) {
    path.cases.push_back({{act(s)}, {.dropout = 0.3f}});
    path.cases.push_back({{act(s)}, {.dropout = 0.6f, .first = 1027}});
  }
  path.cases.push_back({{act(Shape{3, 5})}, {.dropout = 0.0f}});
  path.speed = {{act(kSpeedTokens)}, {.dropout = 0.1f}};
  path.value_tolerance = path.gradient_tolerance = 1e-6, path.bf16_tolerance = 0.005;
  path.why = kExact;
  table.push_back(std::move(path));

  OpRow end{.name = "residual_branch", .functions = {"residual_branch"}};
  end.run = [](const Tensors& x, const OpSettings& s) {
    return Tensors{residual_branch(x[0], x[1], {x[2], s.dropout, s.key, s.first})};
  };
  end.plain = [](const Tensors& x, const OpSettings& s) {
    return Tensors{residual_branch_plain(x[0], x[1], {x[2], s.dropout, s.key, s.first})};
  };
  for (const Shape& s : {Shape{1, 1}, Shape{9, 5}, Shape{5, 3, 31}, Shape{13, 7, 40}, Shape{3, 4, 5, 264},
                         Shape{300, 2, 3}, Shape{0, 3, 5}})
    for (const float p : {0.0f, 0.4f})
      for (const bool gamma : {true, false})
        end.cases.push_back({{act(s), act(s), gamma ? vec(s[-1]) : kAbsent}, {.dropout = p, .first = 6}});
  end.speed = {{act(kSpeedTokens), act(kSpeedTokens), vec(768)}, {.dropout = 0.1f}};
  end.value_tolerance = 1e-6, end.gradient_tolerance = 3e-6, end.bf16_tolerance = 0.006;
  end.why = kSums;
  table.push_back(std::move(end));
}

void add_soft_losses(std::vector<OpRow>& table) {
  OpRow soft{.name = "soft_cross_entropy", .functions = {"soft_cross_entropy"}};
  soft.run = [](const Tensors& x, const OpSettings&) { return Tensors{soft_cross_entropy(x[0], x[1])}; };
  soft.plain = [](const Tensors& x, const OpSettings&) { return Tensors{soft_cross_entropy_plain(x[0], x[1])}; };
  OpRow binary{.name = "binary_cross_entropy", .functions = {"binary_cross_entropy"}};
  binary.run = [](const Tensors& x, const OpSettings&) { return Tensors{binary_cross_entropy(x[0], x[1])}; };
  OpRow top{.name = "argmax", .functions = {"argmax"}};
  top.run = [](const Tensors& x, const OpSettings&) { return Tensors{argmax(x[0])}; };
  for (const Shape& s : {Shape{1, 1}, Shape{5}, Shape{5, 3}, Shape{2, 7, 31}, Shape{33, 129}, Shape{9, 1000},
                         Shape{2, 4104}, Shape{0, 7}}) {
    soft.cases.push_back({{act(s, -4, 4), data(s, 0, 1)}, {}});
    binary.cases.push_back({{act(s, -4, 4), data(s, 0, 1)}, {}});
    top.cases.push_back({{act(s, -4, 4)}, {}});
  }
  soft.speed = binary.speed = {{act(Shape{1024, 1000}), data(Shape{1024, 1000}, 0, 1)}, {}};
  top.speed = {{act(Shape{1024, 1000})}, {}};
  soft.value_tolerance = binary.value_tolerance = 2e-6;
  soft.gradient_tolerance =
      1e-5;  // the targets of a row sum to thousands, and what softmax rounds is multiplied by that
  binary.gradient_tolerance = 5e-6;
  soft.bf16_tolerance = binary.bf16_tolerance = 0.005;
  soft.why = binary.why = "exp and sums over the classes; losses are f32, the bf16 gradient is rounded once";
  top.value_tolerance = top.gradient_tolerance = top.bf16_tolerance = 0;
  top.why = "compares bits";
  top.no_gradient = "an index is no number to be differentiated; use cross_entropy";
  table.push_back(std::move(soft));
  table.push_back(std::move(binary));
  table.push_back(std::move(top));
}

void add_resampling(std::vector<OpRow>& table) {
  OpRow image{.name = "resize_images", .functions = {"resize_images"}};
  image.run = [](const Tensors& x, const OpSettings& s) { return Tensors{resize_images(x[0], s.height, s.width)}; };
  image.cases = {{{act(Shape{1, 1, 1, 1})}, {.height = 3, .width = 1}},
                 {{act(Shape{2, 3, 7, 5})}, {.height = 4, .width = 9}},
                 {{act(Shape{1, 2, 5, 33})}, {.height = 13, .width = 7}},
                 {{act(Shape{1, 3, 28, 28})}, {.height = 20, .width = 20}},
                 {{act(Shape{2, 1, 3, 40})}, {.height = 3, .width = 50}},
                 {{act(Shape{1, 1, 9, 6})}, {.height = 1, .width = 1}},
                 {{act(Shape{2, 2, 4, 4})}, {.height = 4, .width = 4}},
                 {{act(Shape{0, 3, 4, 4})}, {.height = 2, .width = 2}}};
  image.speed = {{act(Shape{4, 3, 224, 224})}, {.height = 160, .width = 160}};
  image.value_tolerance = 1e-6, image.gradient_tolerance = 2e-6, image.bf16_tolerance = 0.005;
  image.why = "weighted sums of 4 numbers, places in exact integers; bf16 rounds once";
  table.push_back(std::move(image));

  OpRow grid{.name = "resample_grid", .functions = {"resample_grid"}};
  grid.run = [](const Tensors& x, const OpSettings& s) {
    return Tensors{resample_grid(x[0], s.begin, {s.from_h, s.from_w}, {s.height, s.width}, s.offset)};
  };
  const auto grid_case = [](int64_t extra, GridSize from, GridSize to, int64_t C, double offset) {
    return OpCase{
        {act(Shape{extra + from.count(), C})},
        {.begin = extra, .height = to.h, .width = to.w, .from_h = from.h, .from_w = from.w, .offset = offset}};
  };
  grid.cases = {grid_case(0, {1, 1}, {2, 3}, 1, 0.0f),   grid_case(1, {3, 4}, {5, 2}, 7, 0.0f),
                grid_case(2, {7, 7}, {4, 5}, 40, 0.1f),  grid_case(1, {14, 14}, {8, 8}, 5, 0.1f),
                grid_case(0, {2, 5}, {9, 11}, 16, 0.0f), grid_case(1, {4, 4}, {4, 6}, 3, 0.1f),
                grid_case(1, {3, 3}, {3, 3}, 4, 0.1f)};
  grid.speed = grid_case(1, {14, 14}, {10, 10}, 768, 0.0f);
  grid.value_tolerance = 1e-6, grid.gradient_tolerance = 3e-6, grid.bf16_tolerance = 0.005;
  grid.why =
      "weights in double, rounded to f32; f32 sums of 16 terms, in backward of up to a hundred; bf16 rounds once";
  table.push_back(std::move(grid));
}

}  // namespace

void add_token_rows(std::vector<OpRow>& table) {
  add_sequences(table);
  add_branches(table);
  add_soft_losses(table);
  add_resampling(table);
}

}  // namespace accrete::ops
