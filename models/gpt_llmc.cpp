#include "models/gpt_llmc.h"

#include <array>
#include <cstring>

#include "models/weights.h"

namespace accrete {
namespace fs = std::filesystem;

namespace {

constexpr int32_t kMagic = 20240326;
constexpr size_t kHeaderBytes = 256 * 4;

using Header = std::array<int32_t, 8>;

Header header_of(const MappedFile& file) {
  Header h{};
  std::memcpy(h.data(), file.bytes().data(), sizeof h);
  return h;
}

// Tensors in the order of the file: our name inside a block (or whole), and the shape of one block's part.
struct Part {
  std::string name;
  Shape shape;
  bool in_block;
};

std::vector<Part> parts_of(const GptConfig& c, int64_t padded) {
  const int64_t C = c.embed_dim, F = c.hidden_dim();
  return {{"tokens.weight", {padded, C}, false}, {"positions.weight", {c.context, C}, false},
          {"norm1.weight", {C}, true},           {"norm1.bias", {C}, true},
          {"attn.qkv.weight", {3 * C, C}, true}, {"attn.qkv.bias", {3 * C}, true},
          {"attn.proj.weight", {C, C}, true},    {"attn.proj.bias", {C}, true},
          {"norm2.weight", {C}, true},           {"norm2.bias", {C}, true},
          {"mlp.fc1.weight", {F, C}, true},      {"mlp.fc1.bias", {F}, true},
          {"mlp.fc2.weight", {C, F}, true},      {"mlp.fc2.bias", {C}, true},
          {"norm.weight", {C}, false},           {"norm.bias", {C}, false}};
}

}  // namespace

bool is_llmc_model(const fs::path& path) {
  const MappedFile file(path);
  return file.bytes().size() >= kHeaderBytes && header_of(file)[0] == kMagic;
}

std::unique_ptr<Gpt> read_llmc(const fs::path& path, DType compute, Device device) {
  const MappedFile file(path);
  const std::string where = path.string();
  const auto bytes = file.bytes();
  check(bytes.size() >= kHeaderBytes, where, "too short for a model of llm.c; expected at least ", kHeaderBytes,
        " bytes; got ", bytes.size());
  const Header h = header_of(file);
  check(h[0] == kMagic, where, "is no model of llm.c; expected the magic number ", kMagic, "; got ", h[0]);
  check(h[1] == 3 || h[1] == 5, where, "version ", h[1], " is not known; expected 3 (f32) or 5 (bf16)");
  const auto size = [&](size_t i, const char* what, int32_t most) {
    check(h[i] >= 1 && h[i] <= most, where, what, " out of range; expected 1 to ", most, "; got ", h[i]);
    return static_cast<int64_t>(h[i]);
  };
  GptConfig c;
  c.context = size(2, "context", 1 << 24);
  c.vocab_size = size(3, "vocabulary", 1 << 24);
  c.depth = size(4, "number of blocks", 100000);
  c.num_heads = size(5, "number of heads", 1 << 16);
  c.embed_dim = size(6, "width", 1 << 20);
  const int64_t padded = size(7, "padded vocabulary", 1 << 24);
  check(padded >= c.vocab_size, where, "the padded vocabulary (", padded, ") is smaller than the vocabulary (",
        c.vocab_size, ")");
  const std::string dtype = h[1] == 3 ? "F32" : "BF16";
  const int64_t width = h[1] == 3 ? 4 : 2;
  const auto parts = parts_of(c, padded);
  int64_t expected = 0;
  for (const Part& p : parts) expected += p.shape.count() * width * (p.in_block ? c.depth : 1);
  check(static_cast<int64_t>(bytes.size() - kHeaderBytes) == expected, where, "expected ",
        expected + static_cast<int64_t>(kHeaderBytes), " bytes for these sizes; got ", bytes.size());

  auto model = std::make_unique<Gpt>(c, compute, device);
  ParamStore& store = model->params();
  const std::byte* at = bytes.data() + kHeaderBytes;
  for (const Part& p : parts) {
    const auto part_bytes = static_cast<size_t>(p.shape.count() * width);
    for (int64_t block = 0; block < (p.in_block ? c.depth : 1); ++block, at += part_bytes) {
      const std::string name = (p.in_block ? "blocks." + std::to_string(block) + "." : std::string()) + p.name;
      const Tensor target = store.value(store.find(name));
      auto values = values_of({name, dtype, p.shape.vector(), at, part_bytes});
      values.resize(static_cast<size_t>(target.count()));  // without rows of padding
      target.copy_from(Tensor::from(values, target.shape()));
    }
  }
  store.refresh();
  return model;
}

}  // namespace accrete
