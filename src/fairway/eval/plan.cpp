#include "fairway/eval/plan.h"

#include <algorithm>

#include "fairway/base/check.h"

namespace fairway {

std::vector<Document> plan_documents(int64_t stream_size, std::span<const int64_t> bos,
                                     int64_t max_docs) {
  std::vector<Document> documents;
  const auto add = [&](int64_t begin, int64_t end) {
    if (begin < end && (max_docs == 0 || static_cast<int64_t>(documents.size()) < max_docs))
      documents.push_back({begin, std::min(end + 1, stream_size) - begin});
  };
  int64_t begin = 0;
  for (const int64_t b : bos) {
    add(begin, b);
    begin = b;
  }
  add(begin, stream_size);
  return documents;
}

std::vector<Window> plan_chunked(std::span<const Document> documents, int64_t batch_tokens,
                                 int64_t max_doc_len) {
  std::vector<Window> windows;
  if (documents.empty()) return windows;
  const int64_t origin = documents.front().begin;
  for (const Document& d : documents) {
    const int64_t document_end = d.begin + d.targets();
    for (int64_t begin = d.begin; begin < document_end;) {
      const int64_t span_end = begin + batch_tokens - (begin - origin) % batch_tokens;
      const int64_t end = std::min({document_end, span_end, begin + max_doc_len});
      windows.push_back({begin, end, begin});
      begin = end;
    }
  }
  return windows;
}

std::vector<Window> plan_sliding(std::span<const Document> documents, int64_t window,
                                 int64_t stride) {
  std::vector<Window> windows;
  if (documents.empty()) return windows;
  const int64_t origin = documents.front().begin;
  const int64_t last = documents.back().begin + documents.back().targets();
  auto d = documents.begin();
  for (int64_t begin = origin, scored = origin; scored < last; begin += stride) {
    const int64_t end = std::min(begin + window, last);
    while (scored < end) {
      while (scored >= d->begin + d->targets()) ++d;
      const int64_t cut = std::min(end, d->begin + d->targets());
      windows.push_back({std::max(begin, d->begin), cut, scored});
      scored = cut;
    }
  }
  return windows;
}

int64_t num_chunks(const Document& document, int64_t chunk_size) {
  return (document.targets() + chunk_size - 1) / chunk_size;
}

Window chunk_window(const Document& document, int64_t c, int64_t chunk_size, int64_t window) {
  const int64_t first = c * chunk_size;
  const int64_t last = std::min(first + chunk_size, document.targets());
  check(first < last && chunk_size <= window, "chunk_window: no such chunk");
  return {document.begin + std::max<int64_t>(0, last - window), document.begin + last,
          document.begin + first};
}

namespace {

// Batches are at most so large a part of a rank's fair share that ranks end about together.
constexpr int64_t kBatchesOfRank = 4;

// Rows that a document's windows have together.
int64_t rows_of_chunks(const Document& document, int64_t chunk_size, int64_t window) {
  int64_t rows = 0;
  for (int64_t c = 0; c < num_chunks(document, chunk_size); ++c)
    rows += chunk_window(document, c, chunk_size, window).rows();
  return rows;
}

}  // namespace

std::vector<std::vector<int64_t>> plan_batches(std::span<const Document> documents,
                                               int64_t chunk_size, int64_t window,
                                               int64_t batch_docs, int64_t pass_tokens, int ranks) {
  std::vector<int64_t> order;
  int64_t all_work = 0;
  const auto work = [&](int64_t i) {
    return rows_of_chunks(documents[static_cast<size_t>(i)], chunk_size, window);
  };
  for (int64_t i = 0; i < std::ssize(documents); ++i) {
    if (num_chunks(documents[static_cast<size_t>(i)], chunk_size) <= 1) continue;
    order.push_back(i);
    all_work += work(i);
  }
  const int64_t batch_work = ranks > 1 ? all_work / (kBatchesOfRank * ranks) : all_work;
  const auto targets = [&](int64_t i) { return documents[static_cast<size_t>(i)].targets(); };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return targets(a) > targets(b); });
  std::vector<std::vector<int64_t>> batches;
  int64_t rows = 0, done = 0;  // in one pass and in all passes of the last batch
  for (const int64_t i : order) {
    const int64_t longest = std::min(targets(i), window), all = work(i);
    if (batches.empty() || std::ssize(batches.back()) == batch_docs ||
        rows + longest > pass_tokens || done + all > batch_work) {
      batches.emplace_back();
      rows = done = 0;
    }
    batches.back().push_back(i);
    rows += longest;
    done += all;
  }
  return batches;
}

std::vector<Window> plan_untrained(std::span<const Document> documents, int64_t chunk_size) {
  std::vector<Window> windows;
  for (const Document& d : documents)
    if (num_chunks(d, chunk_size) == 1)
      windows.push_back(chunk_window(d, 0, chunk_size, chunk_size));
  return windows;
}

std::vector<WindowGroup> group_windows(std::span<const Window> windows, int64_t pass_tokens) {
  std::vector<WindowGroup> groups;
  for (size_t i = 0; i < windows.size(); ++i) {
    if (groups.empty() || groups.back().rows + windows[i].rows() > pass_tokens)
      groups.push_back({i, i, 0, 0});
    WindowGroup& g = groups.back();
    ++g.last;
    g.rows += windows[i].rows();
    g.scored += windows[i].scored();
  }
  return groups;
}

std::span<const Window> plan_share(std::span<const Window> windows, int rank, int ranks) {
  int64_t all = 0;
  for (const Window& w : windows) all += w.rows();
  // The first window behind `part` of `ranks` parts of the rows.
  const auto cut = [&](int64_t part) {
    size_t i = 0;
    for (int64_t rows = 0; i < windows.size() && rows * ranks < all * part; ++i)
      rows += windows[i].rows();
    return i;
  };
  const size_t first = cut(rank);
  return windows.subspan(first, cut(rank + 1) - first);
}

}  // namespace fairway
