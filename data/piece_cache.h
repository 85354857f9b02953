// Remembers the ids of pieces that were encoded before: in real text nearly every piece is a repeated word.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace accrete {

// 64-bit hash of a short string, for tables in memory only.
inline uint64_t hash_piece(std::string_view piece) {
  constexpr uint64_t kOdd = 0x9E3779B97F4A7C15ull;
  uint64_t h = piece.size() * kOdd;
  const char* p = piece.data();
  size_t left = piece.size();
  const auto mix = [&](uint64_t word) {
    h = (h ^ word) * kOdd;
    h ^= h >> 32;
  };
  for (; left >= 8; p += 8, left -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    mix(word);
  }
  uint64_t word = 0;
  std::memcpy(&word, p, left);
  mix(word);
  return h;
}

// Piece -> ids, at most kMaxPieces entries; when full, it starts again from nothing. Not safe for several threads.
class PieceCache {
 public:
  static constexpr size_t kLongest = 64;  // bytes; longer pieces hardly ever repeat
  static constexpr size_t kMaxPieces = size_t{1} << 17;

  PieceCache() : slots_(1024) {}

  // nullopt-like: an empty span with data() == nullptr when the piece is not known.
  std::span<const int32_t> find(std::string_view piece, uint64_t hash) const {
    const Slot& slot = slots_[position(piece, hash)];
    if (slot.length == 0) return {};
    return {ids_.data() + slot.first_id, slot.ids};
  }

  // The piece must not be known yet, and must not be empty.
  void insert(std::string_view piece, uint64_t hash, std::span<const int32_t> ids) {
    if (count_ == kMaxPieces) {
      slots_.assign(slots_.size(), Slot{});
      text_.clear();
      ids_.clear();
      count_ = 0;
    } else if (2 * count_ >= slots_.size()) {
      grow();
    }
    slots_[position(piece, hash)] = {hash, static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(ids_.size()),
                                     static_cast<uint16_t>(piece.size()), static_cast<uint16_t>(ids.size())};
    text_ += piece;
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++count_;
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t text = 0, first_id = 0;
    uint16_t length = 0, ids = 0;  // length 0: free
  };

  // The slot of the piece, or the free one where it belongs.
  size_t position(std::string_view piece, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      const Slot& slot = slots_[i];
      if (slot.length == 0) return i;
      if (slot.hash == hash && slot.length == piece.size() &&
          std::memcmp(text_.data() + slot.text, piece.data(), piece.size()) == 0)
        return i;
    }
  }

  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    const size_t mask = slots_.size() - 1;
    for (const Slot& slot : old) {
      if (slot.length == 0) continue;
      size_t i = slot.hash & mask;
      while (slots_[i].length != 0) i = (i + 1) & mask;
      slots_[i] = slot;
    }
  }

  std::vector<Slot> slots_;
  std::string text_;
  std::vector<int32_t> ids_;
  size_t count_ = 0;
};

}  // namespace accrete
