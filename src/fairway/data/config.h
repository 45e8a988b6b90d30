// The recipe's [data] table: which shards to read and the tokenizer that made them.
#pragma once

#include <string>
#include <vector>

namespace fairway {

struct DataConfig {
  std::vector<std::string> train;  // shard files or globs, read in this order
  std::vector<std::string> val;
  std::string tokenizer;       // a .model file, or "bytes"
  int bos = 1;                 // the token that starts each document
  int cu_seqlens_bucket = 64;  // cu_seqlens is padded to a multiple of this

  bool operator==(const DataConfig&) const = default;

  template <class Self, class F>
  static void visit_fields(Self& c, F&& f) {
    f("train", c.train, "training shards: files or globs");
    f("val", c.val, "validation shards: files or globs");
    f("tokenizer", c.tokenizer, "tokenizer model file, or 'bytes' for the byte tokenizer");
    f("bos", c.bos, "token that starts each document");
    f("cu_seqlens_bucket", c.cu_seqlens_bucket, "segment lists are padded to a multiple of this");
  }
};

}  // namespace fairway
