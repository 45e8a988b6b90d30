// What is scored when: pure functions from positions in the token stream to windows. SPEC §6.
//
// A stream of n tokens has n − 1 targets. Target t is token t + 1, predicted by the row of input t;
// it is named by t everywhere. Every plan scores each of its targets exactly once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fairway {

// One attention segment: the inputs [begin, end) of the stream, of which the rows [score_from, end)
// are scored; the rows before only give context.
struct Window {
  int64_t begin = 0, end = 0, score_from = 0;
  int64_t rows() const { return end - begin; }
  int64_t scored() const { return end - score_from; }
  bool operator==(const Window&) const = default;
};

// The tokens [begin, begin + size) of one document: its bos, its tokens, and the next document's
// bos, which is its last target. It has size − 1 targets.
struct Document {
  int64_t begin = 0, size = 0;
  int64_t targets() const { return size - 1; }
  bool operator==(const Document&) const = default;
};

// The first `max_docs` (0: all) documents of a stream of `stream_size` tokens that has a bos at
// each of `bos` (ascending). What precedes the first bos is a document too: no token is dropped.
std::vector<Document> plan_documents(int64_t stream_size, std::span<const int64_t> bos,
                                     int64_t max_docs);

// All targets of `documents` in spans of `batch_tokens` from the first document's begin; a segment
// starts at each span, at each document and every `max_doc_len` tokens of a segment.
std::vector<Window> plan_chunked(std::span<const Document> documents, int64_t batch_tokens,
                                 int64_t max_doc_len);

// All targets of `documents` in windows of `window` tokens that start every `stride` tokens of the
// stream. The first scores all its rows, later ones their last `stride`; the last is cut where the
// stream ends. Attention does not cross documents, so each window comes as one Window for every
// document that it scores rows of, without the documents before. 1 ≤ stride ≤ window.
std::vector<Window> plan_sliding(std::span<const Document> documents, int64_t window,
                                 int64_t stride);

// Test-time training: the targets of a document, in chunks of `chunk_size`.
int64_t num_chunks(const Document& document, int64_t chunk_size);
// The window that ends with chunk c and scores it: at most `window` ≥ chunk_size tokens long.
Window chunk_window(const Document& document, int64_t c, int64_t chunk_size, int64_t window);

// Documents trained side by side: indices into `documents` of all that have more than one chunk,
// longest first, in batches of at most `batch_docs` whose longest windows together hold at most
// `pass_tokens` tokens (or of one document). For several ranks, which take the batches one by one,
// none but a single document is more than a quarter of a rank's fair share of the work. Shorter
// documents are never trained; see plan_untrained.
std::vector<std::vector<int64_t>> plan_batches(std::span<const Document> documents,
                                               int64_t chunk_size, int64_t window,
                                               int64_t batch_docs, int64_t pass_tokens, int ranks);
// The windows of the documents that have one chunk.
std::vector<Window> plan_untrained(std::span<const Document> documents, int64_t chunk_size);

// Consecutive windows that share a packed buffer: [first, last) index pairs, each of at most
// `pass_tokens` rows or of one window.
struct WindowGroup {
  size_t first = 0, last = 0;
  int64_t rows = 0, scored = 0;
};
std::vector<WindowGroup> group_windows(std::span<const Window> windows, int64_t pass_tokens);

// The windows that fall to one of several ranks: consecutive ones, about as many rows as any other
// rank's. Each window is one rank's.
std::span<const Window> plan_share(std::span<const Window> windows, int rank, int ranks);

}  // namespace fairway
