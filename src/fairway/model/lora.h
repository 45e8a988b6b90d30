// Low-rank adapters of test-time training: one pair A [R, in], B [out, R] per adapted product.
//
// A document owns one flat buffer of `LoraLayout::size()` elements; its adapters are views into it.
// Gradients and the optimizer's second moments are buffers of the same layout.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fairway/base/bf16.h"
#include "fairway/base/tensor.h"
#include "fairway/model/config.h"

namespace fairway {

enum class Adapter { q, k, v, o, mlp };
inline constexpr int kAdapters = 5;

struct LoraConfig {
  int rank = 96;  // R
  bool k = true, o = true, mlp = true;
  // Columns of x Aᵀ of all adapters of attention's input, and of the MLP's.
  int64_t attn_columns() const { return key_columns() + query_columns(); }
  int64_t key_columns() const { return int64_t{1 + k} * rank; }    // of k and v
  int64_t query_columns() const { return int64_t{1 + o} * rank; }  // of q and o
  int64_t mlp_columns() const { return mlp ? rank : 0; }
  bool operator==(const LoraConfig&) const = default;
};

template <class T>
struct LowRank {
  T* a = nullptr;  // [R, in]
  T* b = nullptr;  // [out, R]
  int64_t in = 0, out = 0;
  explicit operator bool() const { return a != nullptr; }
};

class LoraLayout {
 public:
  // Where a pair begins in a document's buffer, in elements.
  struct Place {
    int64_t a = 0, b = 0, in = 0, out = 0;  // in = 0: switched off
  };

  // `slots` is the length of the route.
  LoraLayout(const ModelConfig& model, int slots, const LoraConfig& config);

  int rank() const { return config_.rank; }
  int slots() const { return slots_; }
  const LoraConfig& config() const { return config_; }
  // Elements of one document's buffer.
  int64_t size() const { return size_; }

  // The adapter of slot s inside `doc` (null if that kind is switched off).
  template <class T>
  LowRank<T> slot(T* doc, int s, Adapter kind) const {
    return view(doc, place(s, kind));
  }
  template <class T>
  LowRank<T> head(T* doc) const {
    return view(doc, head_);
  }
  const Place& place(int s, Adapter kind) const {
    return slot_[static_cast<size_t>(s * kAdapters + static_cast<int>(kind))];
  }
  const Place& head_place() const { return head_; }

  // f(name, offset of A, in, offset of B, out) for each adapter; names as in files:
  // "q_loras.{s}", "k_loras.{s}", "v_loras.{s}", "o_loras.{s}", "mlp_loras.{s}", "lm_head_lora".
  template <class F>
  void for_each(F&& f) const {
    static constexpr const char* kNames[kAdapters] = {"q", "k", "v", "o", "mlp"};
    for (int s = 0; s < slots_; ++s)
      for (int kind = 0; kind < kAdapters; ++kind)
        if (const Place& p = slot_[static_cast<size_t>(s * kAdapters + kind)]; p.in > 0)
          f(std::string(kNames[kind]) + "_loras." + std::to_string(s), p.a, p.in, p.b, p.out);
    f(std::string("lm_head_lora"), head_.a, head_.in, head_.b, head_.out);
  }

 private:
  template <class T>
  static LowRank<T> view(T* doc, const Place& p) {
    if (p.in == 0) return {};
    return {doc + p.a, doc + p.b, p.in, p.out};
  }
  LoraConfig config_;
  int slots_;
  int64_t size_ = 0;
  std::vector<Place> slot_;
  Place head_;
};

class LoraCopies;

// The adapters of the documents that share one packed buffer. Document b owns rows
// [doc_rows[b], doc_rows[b+1]) of the T inputs and [doc_head_rows[b], doc_head_rows[b+1]) of the N
// rows that reach the head. The views own nothing.
template <class T>
struct Lora {
  const LoraLayout* layout = nullptr;
  T* docs = nullptr;  // device memory: document b's layout->size() elements at docs + b·stride
  int64_t stride = 0;
  int64_t count = 0;
  Tensor<const int32_t> doc_rows, doc_head_rows;  // [count + 1] each, device memory
  std::span<const int32_t> host_doc_head_rows;    // doc_head_rows once more, in host memory
  // Their copies (model/lora_copies.h), document b's at copied + b·copies->stride(), and the row
  // tiles of both kinds of rows (LowRankCopies); null: there are none.
  const LoraCopies* copies = nullptr;
  const bf16* copied = nullptr;
  const int32_t *row_tiles = nullptr, *head_row_tiles = nullptr;
  int64_t most_rows = INT64_MAX;  // no document has more

  // The same adapters for tensors that hold the rows that reach the head alone.
  Lora of_head_rows() const {
    Lora lora = *this;
    lora.doc_rows = doc_head_rows;
    lora.row_tiles = head_row_tiles;
    return lora;
  }
};

}  // namespace fairway
