#include "fairway/data/build_part.h"

#include <array>
#include <cstring>
#include <span>

#include "fairway/base/check.h"

namespace fairway {

namespace {

enum class Kind : uint64_t { begin, part, end, error };

// A message begins with this; the lists of a part, or the text of an error, follow.
struct Head {
  Kind kind = Kind::end;
  uint64_t documents = 0, tokens = 0;
  int64_t empty = 0;
  int64_t input_bytes = 0;
};

void send(ProcessGroup& group, const Head& head,
          std::initializer_list<std::span<const std::byte>> lists) {
  std::vector<std::byte> message(sizeof head);
  std::memcpy(message.data(), &head, sizeof head);
  for (const auto& list : lists) message.insert(message.end(), list.begin(), list.end());
  group.send(0, message);
}

struct Message {
  Head head;
  std::vector<std::byte> bytes;  // with the head
};

[[noreturn]] void other_input(int from) {
  fail("--input: rank {} finds other text than rank 0; every rank must see the same files", from);
}

Message receive(ProcessGroup& group, int from, Kind expected) {
  Message m;
  m.bytes = group.receive(from);
  check(m.bytes.size() >= sizeof m.head, "build_shards: a message without its head");
  std::memcpy(&m.head, m.bytes.data(), sizeof m.head);
  if (m.head.kind == Kind::error)
    fail("{}", std::string(reinterpret_cast<const char*>(m.bytes.data()) + sizeof m.head,
                           m.bytes.size() - sizeof m.head));
  if (m.head.kind != expected) other_input(from);
  return m;
}

}  // namespace

BuildPart tokenize_blocks(const std::vector<TextBlock>& blocks, const Tokenizer& tokenizer,
                          const TextOptions& options) {
  BuildPart out;
  WordCache cache;
  for (const TextBlock& block : blocks)
    for (const std::string& text : parse_documents(block, options)) {
      const size_t begin = out.tokens.size();
      out.tokens.push_back(tokenizer.bos());
      tokenizer.encode(text, out.tokens, &cache);
      if (out.tokens.size() == begin + 1) {  // no text, or nothing left of it after normalization
        out.tokens.pop_back();
        ++out.empty;
        continue;
      }
      out.ends.push_back(out.tokens.size());
      out.bytes.push_back(static_cast<int64_t>(text.size()));
    }
  return out;
}

void send_begin(ProcessGroup& group, int64_t input_bytes) {
  send(group, {.kind = Kind::begin, .input_bytes = input_bytes}, {});
}

void send_part(ProcessGroup& group, const BuildPart& part) {
  send(group,
       {.kind = Kind::part,
        .documents = part.ends.size(),
        .tokens = part.tokens.size(),
        .empty = part.empty},
       {std::as_bytes(std::span(part.ends)), std::as_bytes(std::span(part.bytes)),
        std::as_bytes(std::span(part.tokens))});
}

void send_end(ProcessGroup& group) {
  send(group, {.kind = Kind::end}, {});
}

void send_error(ProcessGroup& group, const std::string& message) {
  send(group, {.kind = Kind::error}, {std::as_bytes(std::span(message))});
}

void receive_begin(ProcessGroup& group, int from, int64_t input_bytes) {
  if (receive(group, from, Kind::begin).head.input_bytes != input_bytes) other_input(from);
}

BuildPart receive_part(ProcessGroup& group, int from) {
  const Message m = receive(group, from, Kind::part);
  BuildPart part;
  part.ends.resize(m.head.documents);
  part.bytes.resize(m.head.documents);
  part.tokens.resize(m.head.tokens);
  part.empty = m.head.empty;
  const std::array<std::span<std::byte>, 3> lists{std::as_writable_bytes(std::span(part.ends)),
                                                  std::as_writable_bytes(std::span(part.bytes)),
                                                  std::as_writable_bytes(std::span(part.tokens))};
  size_t at = sizeof m.head;
  for (const auto& list : lists) {
    check(m.bytes.size() - at >= list.size(), "build_shards: a message is cut short");
    if (!list.empty()) std::memcpy(list.data(), m.bytes.data() + at, list.size());
    at += list.size();
  }
  return part;
}

void receive_end(ProcessGroup& group, int from) {
  receive(group, from, Kind::end);
}

}  // namespace fairway
