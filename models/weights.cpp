#include "models/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/core/json.h"
#include "engine/core/npz.h"
#include "engine/core/suggest.h"

namespace accrete {
namespace {

template <class T>
T load_at(const std::byte* data, size_t i) {  // files of other writers may be unaligned
  T value;
  std::memcpy(&value, data + i * sizeof(T), sizeof(T));
  return value;
}

template <class Get>
std::vector<float> converted(size_t n, Get get) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = get(i);
  return out;
}

// (count, rows, cols) -> (count, cols, rows), in tiles that stay in the first-level cache.
std::vector<float> transpose(const std::vector<float>& in, int64_t count, int64_t rows, int64_t cols) {
  constexpr int64_t kTile = 32;
  std::vector<float> out(in.size());
  for (int64_t i = 0; i < count; ++i) {
    const float* x = in.data() + i * rows * cols;
    float* y = out.data() + i * rows * cols;
    for (int64_t r0 = 0; r0 < rows; r0 += kTile)
      for (int64_t c0 = 0; c0 < cols; c0 += kTile)
        for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r)
          for (int64_t c = c0; c < std::min(cols, c0 + kTile); ++c) y[c * rows + r] = x[r * cols + c];
  }
  return out;
}

// Our numbers in the order of the file.
std::vector<float> in_file_order(std::vector<float> values, const TensorName& t) {
  if (t.transposed) return transpose(values, 1, t.shape[0], t.shape[1]);
  if (t.kernel <= 1) return values;
  return transpose(values, t.shape[0], t.kernel * t.kernel, t.shape[1] / (t.kernel * t.kernel));
}

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

int index_of(const ParamStore& store, const TensorName& t) {
  const int index = store.find(t.ours);
  check(index >= 0, "weights", "the model has no parameter \"", t.ours, "\"");
  return index;
}

// The numbers of the parameter that the stored tensor holds; shares memory.
Tensor part_of(const ParamStore& store, int index, const TensorName& t) {
  const Tensor whole = store.value(index);
  const Shape& s = t.shape;
  const int64_t row = s.rank() > 0 && s[0] > 0 ? s.count() / s[0] : 0;  // numbers in an entry of the first axis
  const int64_t first = t.first_row * row;
  check(first + s.count() <= whole.count(), "weights", "\"", t.ours, "\" of shape ", whole.shape(), " has no ", s,
        " from row ", t.first_row);
  return whole.flat(first, s.count());
}

}  // namespace

Shape TensorName::stored_shape() const {
  if (stored) return *stored;
  if (kernel > 0) return Shape{shape[0], shape[1] / (kernel * kernel), kernel, kernel};
  return transposed ? Shape{shape[1], shape[0]} : shape;
}

std::string_view without_wrappers(std::string_view name) {
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view wrapper : {"module.", "_orig_mod."})
      if (name.starts_with(wrapper)) name.remove_prefix(wrapper.size()), again = true;
  }
  return name;
}

void add_found(FoundTensors& found, std::string_view name, const SafetensorsEntry& entry, std::string_view where) {
  const auto [at, fresh] = found.emplace(name, entry);
  check(fresh, where, "\"", printable(at->second.name), "\" and \"", printable(entry.name),
        "\" are the same tensor; expected one of them");
}

void check_tensors(const std::vector<TensorName>& wanted, const FoundTensors& found, std::string_view where) {
  std::map<std::string_view, const TensorName*> by_name;
  for (const TensorName& w : wanted) by_name.emplace(w.theirs, &w);
  std::vector<std::string> missing, misshaped, surplus;
  for (const auto& [name, entry] : found)
    if (!by_name.contains(name)) surplus.push_back(printable(name));
  // Spelling help looks at a bounded number of names: a hostile file may hold millions.
  const std::vector<std::string> candidates(surplus.begin(),
                                            surplus.begin() + static_cast<long>(std::min<size_t>(surplus.size(), 500)));
  for (const TensorName& w : wanted) {
    const auto it = found.find(w.theirs);
    if (it == found.end()) {
      const std::string near = nearest(w.theirs, candidates);
      missing.push_back(w.theirs + (near.empty() ? "" : " (the file has " + near + ")"));
    } else if (it->second.shape != w.stored_shape().vector()) {
      misshaped.push_back(w.theirs + " (expected " + shape_text(w.stored_shape().vector()) + ", got " +
                          shape_text(it->second.shape) + ")");
    }
  }
  if (missing.empty() && misshaped.empty() && surplus.empty()) return;
  std::string text;
  const auto add = [&text](const char* what, const std::vector<std::string>& names) {
    if (!names.empty())
      text += (text.empty() ? "" : "; ") + std::to_string(names.size()) + " " + what + ": " + joined(names);
  };
  add("missing", missing);
  add("of another shape", misshaped);
  add("not known to this model", surplus);
  fail(where, "the tensors do not fit the model: ", text);
}

std::vector<float> values_of(const SafetensorsEntry& e, bool transposed) {
  std::vector<float> v;
  if (e.dtype == "F32") {
    v.resize(e.bytes / 4);
    if (e.bytes > 0) std::memcpy(v.data(), e.data, e.bytes);
  } else if (e.dtype == "F64") {
    v = converted(e.bytes / 8, [&](size_t i) { return static_cast<float>(load_at<double>(e.data, i)); });
  } else if (e.dtype == "F16") {
    v = converted(e.bytes / 2, [&](size_t i) { return to_float(f16{load_at<uint16_t>(e.data, i)}); });
  } else if (e.dtype == "BF16") {
    v = converted(e.bytes / 2, [&](size_t i) { return to_float(bf16{load_at<uint16_t>(e.data, i)}); });
  } else {
    fail("weights", "\"", printable(e.name), "\" has the type ", e.dtype, "; expected F32, BF16, F16 or F64");
  }
  return transposed ? transpose(v, 1, e.shape[0], e.shape[1]) : v;
}

std::vector<float> values_of(const SafetensorsEntry& e, const TensorName& t) {
  std::vector<float> v = values_of(e, t.transposed);
  if (t.kernel <= 1) return v;
  return transpose(v, t.shape[0], t.shape[1] / (t.kernel * t.kernel), t.kernel * t.kernel);
}

void load_tensors(ParamStore& store, const std::vector<TensorName>& wanted, const FoundTensors& found) {
  const SegmentScope segment(Segment::data);
  std::map<int, int64_t> held;  // numbers of each parameter that the table holds
  for (const TensorName& w : wanted) {
    const int index = index_of(store, w);
    part_of(store, index, w).copy_from(Tensor::from(values_of(found.find(w.theirs)->second, w), w.shape));
    held[index] += w.shape.count();
  }
  for (const auto& [index, count] : held) {
    const ParamEntry& e = store.entries()[static_cast<size_t>(index)];
    check(count == e.count(), "weights", "the table holds ", count, " numbers of \"", e.name, "\" of shape ", e.shape);
  }
  store.refresh();
}

namespace {

// The tensors of the table without their values, and how they are fetched one by one.
class Values {
 public:
  Values(const ParamStore& store, const std::vector<TensorName>& table, DType dtype)
      : store_(store), table_(table), dtype_(dtype) {
    check(is_float(dtype), "weights", "expected f32, bf16 or f16; got ", name_of(dtype));
    const char* type = dtype == DType::f32 ? "F32" : dtype == DType::bf16 ? "BF16" : "F16";
    for (const TensorName& t : table) entries.push_back({t.theirs, type, t.stored_shape().vector(), nullptr, 0});
  }
  std::vector<SafetensorsEntry> entries;

  const void* fetch(size_t i) {
    const TensorName& t = table_[i];
    const auto count = static_cast<size_t>(t.shape.count());
    if (t.ours.empty()) {
      values_.assign(count, 0.0f);
    } else {
      values_ = in_file_order(part_of(store_, index_of(store_, t), t).to_vector<float>(), t);
    }
    if (dtype_ == DType::f32) return values_.data();
    narrow_.resize(count);
    std::transform(values_.begin(), values_.end(), narrow_.begin(), [this](float x) {
      return dtype_ == DType::bf16 ? from_float<bf16>(x).bits : from_float<f16>(x).bits;
    });
    return narrow_.data();
  }

 private:
  const ParamStore& store_;
  const std::vector<TensorName>& table_;
  DType dtype_;
  std::vector<float> values_;
  std::vector<uint16_t> narrow_;
};

}  // namespace

void save_tensors(const std::filesystem::path& path, const ParamStore& store, const std::vector<TensorName>& table,
                  DType dtype, const TextMap& metadata) {
  Values values(store, table, dtype);
  save_safetensors(
      path, values.entries, [&](size_t i) { return values.fetch(i); }, metadata);
}

void save_npz(const std::filesystem::path& path, const ParamStore& store, DType dtype) {
  const std::vector<TensorName> table = own_names(store);
  Values values(store, table, dtype);
  save_npz(path, values.entries, [&](size_t i) { return values.fetch(i); });
}

std::vector<TensorName> own_names(const ParamStore& store) {
  std::vector<TensorName> table;
  for (const ParamEntry& e : store.entries()) table.push_back({e.name, e.name, e.shape, false});
  return table;
}

void load_own(ParamStore& store, const std::filesystem::path& path) {
  const bool npz = path.extension() == ".npz";
  const Npz arrays = npz ? Npz::open(path) : Npz();
  const Safetensors tensors = npz ? Safetensors() : Safetensors::open(path);
  FoundTensors found;
  for (const SafetensorsEntry& e : npz ? arrays.entries() : tensors.entries()) found.emplace(e.name, e);
  const auto table = own_names(store);
  check_tensors(table, found, path.string());
  load_tensors(store, table, found);
}

}  // namespace accrete
