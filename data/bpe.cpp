#include "data/bpe.h"

#include <algorithm>
#include <exception>
#include <queue>
#include <thread>
#include <unordered_map>

#include "data/piece_cache.h"
#include "data/pretokenize.h"
#include "engine/core/error.h"
#include "engine/core/json.h"

namespace accrete {
namespace {

constexpr size_t kShortPiece = 48;           // symbols; below this, scanning an array beats a heap
constexpr size_t kBytesPerThread = 1 << 16;  // smaller stretches are not worth a thread

}  // namespace

void MergeTable::reserve(size_t count) {
  size_t size = 2;
  while (size < 2 * count + 2) size *= 2;
  slots_.assign(size, Slot{});
  mask_ = size - 1;
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = key_of(left, right);
  size_t i = slot_of(key);
  while (slots_[i].key != kFree && slots_[i].key != key) i = (i + 1) & mask_;
  slots_[i] = {key, merge};
}

Bpe::Bpe(Parts parts) : Tokenizer(static_cast<int64_t>(parts.vocab.size()), parts.added), parts_(std::move(parts)) {
  const auto& vocab = parts_.vocab;
  std::vector<bool> is_added(vocab.size());
  for (const AddedToken& token : added_tokens()) {
    check(vocab[token.id] == token.content, "bpe", "added token \"", printable(token.content), "\" has the id ",
          token.id, " that the vocabulary gives to \"", printable(vocab[token.id]), "\"");
    is_added[token.id] = true;
  }

  id_of_byte_.fill(-1);
  bytes_.resize(vocab.size());
  std::unordered_map<std::string_view, int32_t> id_of;
  id_of.reserve(vocab.size());
  for (size_t i = 0; i < vocab.size(); ++i) {
    const int32_t id = static_cast<int32_t>(i);
    check(id_of.emplace(vocab[i], id).second, "bpe", "token \"", printable(vocab[i]), "\" has two ids");
    if (is_added[i]) {
      bytes_[i] = vocab[i];
      continue;
    }
    check(!vocab[i].empty() && characters_to_bytes(vocab[i], bytes_[i]), "bpe", "token ", id, " \"",
          printable(vocab[i]), "\" is not written in the 256 characters of a byte-level vocabulary");
    if (bytes_[i].size() == 1) id_of_byte_[static_cast<uint8_t>(bytes_[i][0])] = id;
  }

  table_.reserve(parts_.merges.size());
  for (size_t rank = 0; rank < parts_.merges.size(); ++rank) {
    const auto [left, right] = parts_.merges[rank];
    const auto inside = [&](int32_t id) { return id >= 0 && id < vocab_size(); };
    check(inside(left) && inside(right), "bpe", "merge ", rank, " names a token outside the vocabulary");
    const auto result = id_of.find(vocab[left] + vocab[right]);
    if (result == id_of.end())
      fail("bpe", "merge ", rank, ", \"", printable(vocab[left]), "\" + \"", printable(vocab[right]),
           "\", makes a token that is not in the vocabulary");
    table_.insert(left, right, {static_cast<uint32_t>(rank), result->second});
  }
}

Bpe::~Bpe() = default;

std::string Bpe::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    check_id(id);
    text += bytes_[id];
  }
  return text;
}

// Repeats: find the listed pair of lowest rank (leftmost of equals), merge it. Quadratic, but for a word of a dozen
// bytes faster than anything cleverer.
void Bpe::merge_short(std::vector<int32_t>& symbols) const {
  constexpr uint32_t kNone = ~uint32_t{0};
  MergeTable::Merge merges[kShortPiece];
  size_t n = symbols.size();
  const auto look = [&](size_t i) {
    const MergeTable::Merge* found = table_.find(symbols[i], symbols[i + 1]);
    merges[i] = found ? *found : MergeTable::Merge{kNone, 0};
  };
  for (size_t i = 0; i + 1 < n; ++i) look(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (merges[i].rank < merges[best].rank) best = i;
    if (merges[best].rank == kNone) break;
    symbols[best] = merges[best].result;
    --n;
    for (size_t i = best + 1; i < n; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = best + 1; i + 1 < n; ++i) merges[i] = merges[i + 1];
    if (best > 0) look(best - 1);
    if (best + 1 < n) look(best);
  }
  symbols.resize(n);
}

// The same for pieces of any length in O(n log n): the candidates wait in a heap, the symbols form a linked list.
void Bpe::merge_long(std::vector<int32_t>& symbols) const {
  struct Link {
    int32_t id;  // -1: merged into its left neighbour
    int64_t previous, next;
  };
  struct Candidate {
    uint32_t rank;
    int64_t at;  // left symbol
    int32_t left, right, result;
    bool operator<(const Candidate& other) const {  // the heap gives the largest first
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const int64_t n = static_cast<int64_t>(symbols.size());
  std::vector<Link> links(symbols.size());
  for (int64_t i = 0; i < n; ++i) links[i] = {symbols[i], i - 1, i + 1 < n ? i + 1 : -1};
  std::vector<Candidate> first;
  const auto candidate = [&](int64_t at, auto&& use) {
    if (at < 0 || links[at].next < 0) return;
    const int32_t left = links[at].id, right = links[links[at].next].id;
    if (const auto* merge = table_.find(left, right)) use(Candidate{merge->rank, at, left, right, merge->result});
  };
  for (int64_t i = 0; i < n; ++i) candidate(i, [&](const Candidate& c) { first.push_back(c); });
  std::priority_queue<Candidate> heap(std::less<Candidate>(), std::move(first));
  const auto push = [&](int64_t at) { candidate(at, [&](const Candidate& c) { heap.push(c); }); };
  while (!heap.empty()) {
    const Candidate c = heap.top();
    heap.pop();
    Link& left = links[c.at];
    if (left.id != c.left || left.next < 0 || links[left.next].id != c.right) continue;  // out of date
    Link& right = links[left.next];
    left.id = c.result;
    right.id = -1;
    left.next = right.next;
    if (right.next >= 0) links[right.next].previous = c.at;
    push(left.previous);
    push(c.at);
  }
  symbols.clear();
  for (int64_t i = 0; i >= 0; i = links[i].next) symbols.push_back(links[i].id);
}

void Bpe::merge_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  std::vector<int32_t> symbols;
  symbols.reserve(piece.size());
  for (const char byte : piece) {
    const int32_t id = id_of_byte_[static_cast<uint8_t>(byte)];
    check(id >= 0, "bpe", "the vocabulary has no token for the byte ", static_cast<int>(static_cast<uint8_t>(byte)));
    symbols.push_back(id);
  }
  if (!parts_.merges.empty()) {
    if (symbols.size() <= kShortPiece) {
      merge_short(symbols);
    } else {
      merge_long(symbols);
    }
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void Bpe::encode_pieces(std::string_view text, size_t begin, size_t end, std::vector<int32_t>& ids) const {
  if (!parts_.use_regex) return merge_piece(text.substr(begin, end - begin), ids);
  std::unique_ptr<PieceCache> cache;
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      cache = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (!cache) cache = std::make_unique<PieceCache>();
  while (begin < end) {
    const size_t next = piece_end(text, begin);
    const std::string_view piece = text.substr(begin, next - begin);
    begin = next;
    if (piece.size() > PieceCache::kLongest) {
      merge_piece(piece, ids);
      continue;
    }
    const uint64_t hash = hash_piece(piece);
    const std::span<const int32_t> known = cache->find(piece, hash);
    if (known.data()) {
      ids.insert(ids.end(), known.begin(), known.end());
      continue;
    }
    const size_t before = ids.size();
    merge_piece(piece, ids);
    cache->insert(piece, hash, {ids.data() + before, ids.size() - before});
  }
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(cache));
}

void Bpe::encode_plain(std::string_view text, int threads, std::vector<int32_t>& ids) const {
  std::string prefixed;
  if (parts_.add_prefix_space && !text.starts_with(' ')) {
    prefixed = ' ' + std::string(text);
    text = prefixed;
  }
  const size_t most = std::max<size_t>(1, text.size() / kBytesPerThread);
  const size_t parts = std::min(static_cast<size_t>(std::max(1, threads)), most);
  if (parts == 1 || !parts_.use_regex) return encode_pieces(text, 0, text.size(), ids);

  const std::vector<size_t> cuts = piece_cuts(text, parts);
  std::vector<std::vector<int32_t>> results(cuts.size() - 1);
  std::vector<std::exception_ptr> errors(results.size());
  std::vector<std::thread> workers;
  for (size_t i = 0; i < results.size(); ++i) {
    workers.emplace_back([&, i] {
      try {
        encode_pieces(text, cuts[i], cuts[i + 1], results[i]);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  for (const std::vector<int32_t>& part : results) ids.insert(ids.end(), part.begin(), part.end());
}

}  // namespace accrete
