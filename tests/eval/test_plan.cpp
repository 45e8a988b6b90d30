// The plans: every target exactly once, whatever the stream and the settings.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>

#include "fairway/eval/plan.h"
#include "fairway/io/safetensors.h"

namespace fairway {
namespace {

// Documents as (tokens of each, bos included) → the positions of bos; a leading piece without bos
// may precede them.
struct Stream {
  int64_t size = 0;
  std::vector<int64_t> bos;
};
Stream make_stream(int64_t leading, const std::vector<int64_t>& lengths) {
  Stream s{leading, {}};
  for (int64_t n : lengths) {
    s.bos.push_back(s.size);
    s.size += n;
  }
  return s;
}

// How often each target is scored; every window must be a valid one.
std::vector<int> coverage(int64_t targets, std::span<const Window> windows) {
  std::vector<int> count(static_cast<size_t>(targets), 0);
  for (const Window& w : windows) {
    EXPECT_LE(0, w.begin);
    EXPECT_LE(w.begin, w.score_from);
    EXPECT_LT(w.score_from, w.end);
    EXPECT_LE(w.end, targets);
    for (int64_t t = w.score_from; t < w.end; ++t) ++count.at(static_cast<size_t>(t));
  }
  return count;
}
std::vector<int> once(int64_t targets) {
  return std::vector<int>(static_cast<size_t>(targets), 1);
}

struct Settings {
  int64_t chunk, window, stride, batch, max_doc_len, docs, pass;
  int ranks;
};

void check_all_plans(const Stream& s, const Settings& k) {
  const int64_t targets = s.size - 1;
  const auto documents = plan_documents(s.size, s.bos, 0);

  // Documents tile the targets.
  int64_t at = 0;
  for (const Document& d : documents) {
    EXPECT_EQ(d.begin, at);
    at += d.targets();
  }
  EXPECT_EQ(at, targets);

  const auto chunked = plan_chunked(documents, k.batch, k.max_doc_len);
  EXPECT_EQ(coverage(targets, chunked), once(targets));
  for (const Window& w : chunked) {
    EXPECT_EQ(w.begin, w.score_from);
    EXPECT_LE(w.rows(), k.max_doc_len);
    EXPECT_EQ(w.begin / k.batch, (w.end - 1) / k.batch) << "a segment crosses a span";
    for (int64_t b : s.bos) EXPECT_FALSE(w.begin < b && b < w.end) << "a segment crosses a bos";
  }

  const auto sliding = plan_sliding(documents, k.window, k.stride);
  EXPECT_EQ(coverage(targets, sliding), once(targets));
  for (const Window& w : sliding) {
    // The one window of the grid that scores the row: the first that ends after it.
    const int64_t index = w.score_from < k.window ? 0 : (w.score_from - k.window) / k.stride + 1;
    const auto d = std::find_if(documents.begin(), documents.end(), [&](const Document& x) {
      return w.score_from < x.begin + x.targets();
    });
    EXPECT_EQ(w.begin, std::max(d->begin, index * k.stride));
    EXPECT_EQ(w.end, std::min({d->begin + d->targets(), index * k.stride + k.window, targets}));
  }

  std::vector<Window> ttt = plan_untrained(documents, k.chunk);
  std::vector<int> trained(documents.size(), 0);
  int64_t longest = targets, all_work = 0;
  std::vector<std::pair<size_t, int64_t>> batch_work;  // documents and rows of each
  for (const auto& batch : plan_batches(documents, k.chunk, k.window, k.docs, k.pass, k.ranks)) {
    batch_work.emplace_back(batch.size(), 0);
    EXPECT_LE(static_cast<int64_t>(batch.size()), k.docs);
    int64_t rows = 0;
    for (int64_t i : batch) {
      const Document& d = documents.at(static_cast<size_t>(i));
      ++trained.at(static_cast<size_t>(i));
      EXPECT_LE(d.targets(), longest) << "not longest first";
      longest = d.targets();
      rows += std::min(d.targets(), k.window);
      for (int64_t c = 0; c < num_chunks(d, k.chunk); ++c) {
        const Window w = chunk_window(d, c, k.chunk, k.window);
        EXPECT_GE(w.begin, d.begin);
        EXPECT_EQ(w.rows(), std::min(w.end - d.begin, k.window));
        EXPECT_EQ(w.score_from, d.begin + c * k.chunk);
        EXPECT_LE(w.scored(), k.chunk);
        ttt.push_back(w);
        batch_work.back().second += w.rows();
      }
    }
    all_work += batch_work.back().second;
    EXPECT_TRUE(rows <= k.pass || batch.size() == 1);
  }
  for (size_t i = 0; i < documents.size(); ++i)
    EXPECT_EQ(trained[i], documents[i].targets() > k.chunk ? 1 : 0);
  EXPECT_EQ(coverage(targets, ttt), once(targets));
  for (const auto& [docs, work] : batch_work)
    EXPECT_TRUE(k.ranks == 1 || docs == 1 || 4 * k.ranks * work <= all_work)
        << "too much for one rank";

  // Shares follow one another, and none is more than a window larger than it should be.
  int64_t all_rows = 0, most_rows = 0;
  for (const Window& w : sliding) {
    all_rows += w.rows();
    most_rows = std::max(most_rows, w.rows());
  }
  std::vector<Window> shared;
  for (int rank = 0; rank < k.ranks; ++rank) {
    int64_t rows = 0;
    for (const Window& w : plan_share(sliding, rank, k.ranks)) {
      shared.push_back(w);
      rows += w.rows();
    }
    EXPECT_LT(rows * k.ranks, all_rows + most_rows * k.ranks);
  }
  EXPECT_EQ(shared, sliding);

  size_t next = 0;
  for (const WindowGroup& g : group_windows(chunked, k.pass)) {
    EXPECT_EQ(g.first, next);
    int64_t rows = 0, scored = 0;
    for (size_t i = g.first; i < g.last; ++i) {
      rows += chunked.at(i).rows();
      scored += chunked.at(i).scored();
    }
    EXPECT_EQ(rows, g.rows);
    EXPECT_EQ(scored, g.scored);
    EXPECT_TRUE(rows <= k.pass || g.last == g.first + 1);
    next = g.last;
  }
  EXPECT_EQ(next, chunked.size());
}

TEST(Plan, EveryTargetOnceOnRandomStreams) {
  std::mt19937 random(1);
  const auto below = [&](int64_t n) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(n));
  };
  for (int trial = 0; trial < 400; ++trial) {
    std::vector<int64_t> lengths(static_cast<size_t>(1 + below(12)));
    for (int64_t& n : lengths) n = 1 + below(trial % 3 == 0 ? 3 : 60);
    const Stream s = make_stream(trial % 4 == 0 ? below(20) : 0, lengths);
    if (s.size < 2) continue;
    Settings k;
    k.chunk = 1 + below(20);
    k.window = k.chunk + below(40);
    k.stride = 1 + below(k.window);
    k.batch = 1 + below(80);
    k.max_doc_len = 1 + below(50);
    k.docs = 1 + below(5);
    k.pass = 1 + below(120);
    k.ranks = static_cast<int>(1 + below(6));
    SCOPED_TRACE(trial);
    check_all_plans(s, k);
  }
}

TEST(Plan, Documents) {
  using D = std::vector<Document>;
  // bos at 0, 3, 4 of 6 tokens: the second document is a lone bos and has one target, the next bos.
  EXPECT_EQ(plan_documents(6, std::vector<int64_t>{0, 3, 4}, 0), (D{{0, 4}, {3, 2}, {4, 2}}));
  // A bos at the very end has no target of its own.
  EXPECT_EQ(plan_documents(4, std::vector<int64_t>{0, 3}, 0), (D{{0, 4}, {3, 1}}));
  // What precedes the first bos is not dropped.
  EXPECT_EQ(plan_documents(5, std::vector<int64_t>{2}, 0), (D{{0, 3}, {2, 3}}));
  EXPECT_EQ(plan_documents(6, std::vector<int64_t>{0, 3, 4}, 2), (D{{0, 4}, {3, 2}}));
  EXPECT_EQ(plan_documents(6, std::vector<int64_t>{0, 3, 4}, 9).size(), 3u);
}

TEST(Plan, OneTokenDocumentsLeaveNoWindow) {
  const auto documents = plan_documents(1, std::vector<int64_t>{0}, 0);
  EXPECT_TRUE(plan_chunked(documents, 4, 4).empty());
  EXPECT_TRUE(plan_sliding(documents, 4, 2).empty());
  EXPECT_TRUE(plan_untrained(documents, 4).empty());
  EXPECT_TRUE(plan_batches(documents, 4, 4, 1, 4, 1).empty());
}

TEST(Plan, SlidingByHand) {
  const auto one = plan_documents(12, std::vector<int64_t>{0}, 0);
  EXPECT_EQ(plan_sliding(one, 6, 4), (std::vector<Window>{{0, 6, 0}, {4, 10, 6}, {8, 11, 10}}));
  // A bos at 7: the second window scores rows of both documents.
  const auto two = plan_documents(12, std::vector<int64_t>{0, 7}, 0);
  EXPECT_EQ(plan_sliding(two, 6, 4),
            (std::vector<Window>{{0, 6, 0}, {4, 7, 6}, {7, 10, 7}, {8, 11, 10}}));
}

TEST(Plan, ChunksByHand) {
  const Document d{100, 12};  // 11 targets: chunks of 4, 4, 3
  EXPECT_EQ(num_chunks(d, 4), 3);
  EXPECT_EQ(chunk_window(d, 0, 4, 6), (Window{100, 104, 100}));
  EXPECT_EQ(chunk_window(d, 1, 4, 6), (Window{102, 108, 104}));
  EXPECT_EQ(chunk_window(d, 2, 4, 6), (Window{105, 111, 108}));
}

TEST(Plan, MaxDocLenCountsFromTheSegmentStart) {
  const auto documents = plan_documents(12, std::vector<int64_t>{0, 7}, 0);
  // Spans end at 5 and 10; the second span's first segment starts at 5 and the bos at 7 cuts it.
  EXPECT_EQ(plan_chunked(documents, 5, 3),
            (std::vector<Window>{{0, 3, 0}, {3, 5, 3}, {5, 7, 5}, {7, 10, 7}, {10, 11, 10}}));
}

TEST(Plan, GoldenDocuments) {
  const SafetensorsFile golden(FAIRWAY_TEST_DATA "/golden/a.safetensors");
  const auto tokens = golden.read<int32_t>("tokens");
  const auto expected = golden.read<int32_t>("ttt.docs");  // (start, length) of each
  std::vector<int64_t> bos;
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] == 1) bos.push_back(static_cast<int64_t>(i));
  const auto documents = plan_documents(static_cast<int64_t>(tokens.size()), bos, 0);
  ASSERT_EQ(documents.size() * 2, expected.size());
  for (size_t i = 0; i < documents.size(); ++i)
    EXPECT_EQ(documents[i], (Document{expected[2 * i], expected[2 * i + 1]}));
}

}  // namespace
}  // namespace fairway
