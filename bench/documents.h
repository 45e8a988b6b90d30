// Synthetic batches with document lengths like FineWeb's: their shares of attention are what a real
// run sees. Lengths are log-normal, median 475 tokens, p90 1,596 (tokens of a vocabulary of 8,192).
#pragma once

#include <cstdint>
#include <vector>

#include "fairway/data/loader.h"

namespace fairway::bench {

// `tokens` random tokens below `vocab`, in documents that start with bos = 1, cut at max_doc_len.
PackedBatch random_documents(int64_t tokens, int vocab, int64_t max_doc_len, uint64_t seed);

// Σ over tokens of the number of keys each one attends to.
double attention_pairs(const PackedBatch& batch);

}  // namespace fairway::bench
