// Byte-level byte-pair encoding (Sennrich et al. 2016; the byte form of GPT-2): a text is split into pieces, each piece
// starts as single bytes, and neighbours are merged by a ranked list until no listed pair is left.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <utility>

#include "data/tokenizer.h"

namespace accrete {

// Pairs of ids -> rank and merged id: open addressing, 16 bytes a slot.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t result;
  };
  void reserve(size_t count);
  // A later rank for the same pair replaces the earlier one, as the Hugging Face reader does.
  void insert(int32_t left, int32_t right, Merge merge);
  const Merge* find(int32_t left, int32_t right) const {  // nullptr when the pair does not merge
    const uint64_t key = key_of(left, right);
    for (size_t i = slot_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return &slots_[i].merge;
      if (slots_[i].key == kFree) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};  // no pair of non-negative ids
  struct Slot {
    uint64_t key = kFree;
    Merge merge{};
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull >> 20) & mask_; }

  std::vector<Slot> slots_ = std::vector<Slot>(1);
  size_t mask_ = 0;
};

class PieceCache;

class Bpe : public Tokenizer {
 public:
  struct Parts {
    std::vector<std::string> vocab;                   // id -> token, in the characters of the byte table
    std::vector<std::pair<int32_t, int32_t>> merges;  // in rank order; left + right is in the vocabulary
    std::vector<AddedToken> added;
    bool add_prefix_space = false;  // a space in front of each text that does not start with one
    bool use_regex = true;          // false: no split into pieces
  };
  // Throws when a merge or token makes no sense; the message names it.
  explicit Bpe(Parts parts);
  ~Bpe() override;

  std::string kind() const override { return parts_.merges.empty() && !parts_.use_regex ? "bytes" : "bpe"; }
  std::string decode(std::span<const int32_t> ids) const override;
  void save(const std::filesystem::path& folder, int64_t context) const override;
  const Parts& parts() const { return parts_; }

 protected:
  void encode_plain(std::string_view text, int threads, std::vector<int32_t>& ids) const override;
  bool keeps_bytes() const override { return kind() == "bytes"; }

 private:
  void encode_pieces(std::string_view text, size_t begin, size_t end, std::vector<int32_t>& ids) const;
  void merge_piece(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;

  Parts parts_;
  std::vector<std::string> bytes_;         // id -> what the token adds to a text
  std::array<int32_t, 256> id_of_byte_{};  // -1: the vocabulary has no token for this byte
  MergeTable table_;
  mutable std::mutex mutex_;                               // guards idle_
  mutable std::vector<std::unique_ptr<PieceCache>> idle_;  // one for each thread that is encoding, kept for the next
};

}  // namespace accrete
