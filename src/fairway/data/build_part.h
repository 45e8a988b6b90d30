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

// To rank 0: first how many bytes of input there are, then parts, in the end that there are no
// more; or at any time why there will be none.
void send_begin(ProcessGroup& group, int64_t input_bytes);
void send_part(ProcessGroup& group, const BuildPart& part);
void send_end(ProcessGroup& group);
void send_error(ProcessGroup& group, const std::string& message);

// The same at rank 0, from rank `from`. All throw the other rank's Error where it sent one, and
// Error if it has found other input than rank 0.
void receive_begin(ProcessGroup& group, int from, int64_t input_bytes);
BuildPart receive_part(ProcessGroup& group, int from);
void receive_end(ProcessGroup& group, int from);

}  // namespace fairway
