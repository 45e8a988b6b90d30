// The unit of work of `fairway data build`: some blocks of text, tokenized, and how that travels
// from one rank to rank 0, which writes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fairway/comm/process_group.h"
#include "fairway/data/text_input.h"
#include "fairway/data/tokenizer.h"

namespace fairway {

// Documents, bos and its tokens each, one after the other. Empty ones are counted and left out.
struct BuildPart {
  std::vector<uint16_t> tokens;
  std::vector<uint64_t> ends;  // of each document in tokens
  std::vector<int64_t> bytes;  // of each document's text
  int64_t empty = 0;
};

// Throws Error as parse_documents does.
BuildPart tokenize_blocks(const std::vector<TextBlock>& blocks, const Tokenizer& tokenizer,
                          const TextOptions& options);

// To rank 0: parts, and in the end either that there are no more or why there will be none.
void send_part(ProcessGroup& group, const BuildPart& part);
void send_end(ProcessGroup& group);
void send_error(ProcessGroup& group, const std::string& message);

// At rank 0: the next part of rank `from`; receive_end: that it has no more. Both throw the other
// rank's Error where it sent one, and Error if it sent something else: then it has read other text.
BuildPart receive_part(ProcessGroup& group, int from);
void receive_end(ProcessGroup& group, int from);

}  // namespace fairway
