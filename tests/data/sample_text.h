// Text for tests: made-up prose with line breaks, tabs, runs of spaces, digits and some accents.
#pragma once

#include <string>
#include <vector>

#include "fairway/base/rng.h"

namespace fairway {

inline std::string sample_document(uint64_t number) {
  static const char* const kWords[] = {"the",   "fair",  "way",    "of",   "small", "models",
                                       "learn", "from",  "bits",   "and",  "bytes", "naïve",
                                       "token", "score", "shards", "loop", "café",  "don't"};
  static const char* const kBetween[] = {" ",  " ",  " ",  " ",    " ",  ", ",
                                         ". ", "\n", "  ", "\n\n", "\t", " 1989 "};
  const Philox random(1, number);
  std::string text;
  const uint64_t words = 5 + random.below(0, 200);
  for (uint64_t i = 1; i <= words; ++i) {
    text += kWords[random.below(2 * i, std::size(kWords))];
    text += kBetween[random.below(2 * i + 1, std::size(kBetween))];
  }
  return text;
}

inline std::vector<std::string> sample_documents(size_t count) {
  std::vector<std::string> documents;
  for (size_t i = 0; i < count; ++i) documents.push_back(sample_document(i));
  return documents;
}

}  // namespace fairway
