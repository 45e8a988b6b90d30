#include "fairway/data/tokenizer_train.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <deque>
#include <unordered_map>

#include "fairway/base/check.h"
#include "fairway/base/fields.h"
#include "fairway/data/tokenizer.h"
#include "fairway/io/atomic_file.h"

namespace fairway {

namespace {

constexpr int kByteVocab = 260;  // pad, bos, eos, unk and the 256 bytes

// Hands the documents to the trainer one by one. Errors wait in `error`: SentencePiece is not
// exception safe.
class Documents final : public sentencepiece::SentenceIterator {
 public:
  Documents(const TokenizerTraining& options)
      : options_(options), reader_(find_text_files(options.inputs)) {
    Next();
  }

  bool done() const override { return done_; }
  const std::string& value() const override { return current_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    try {
      done_ = !advance();
    } catch (...) {
      error = std::current_exception();
      done_ = true;
    }
  }

  std::exception_ptr error;
  int64_t bytes() const { return bytes_; }

 private:
  bool advance() {
    do {
      if (bytes_ >= options_.max_bytes) return false;
      while (waiting_.empty()) {
        TextBlock block;
        if (!reader_.next(block)) return false;
        auto documents = parse_documents(block, options_.text);
        std::move(documents.begin(), documents.end(), std::back_inserter(waiting_));
      }
      current_ = std::move(waiting_.front());
      waiting_.pop_front();
    } while (current_.empty());
    bytes_ += static_cast<int64_t>(current_.size());
    // The trainer passes over a whole document for one of these; as byte pieces every tokenizer has
    // them.
    constexpr std::string_view kReserved = "\u2585";
    std::replace(current_.begin(), current_.end(), '\0', ' ');
    for (size_t at = 0; (at = current_.find(kReserved, at)) != std::string::npos;)
      current_.replace(at, kReserved.size(), " ");
    return true;
  }

  const TokenizerTraining& options_;
  TextReader reader_;
  std::deque<std::string> waiting_;
  std::string current_;
  int64_t bytes_ = 0;
  bool done_ = false;
};

// SentencePiece's message without its source line and expression: "./src/x.cc(73) [a == b] What is
// wrong."
std::string reason(std::string message) {
  const size_t bracket = message.rfind("] ");
  if (bracket != std::string::npos) message.erase(0, bracket + 2);
  return message.empty() ? "it does not say why; give it more text or a smaller --vocab-size"
                         : message;
}

}  // namespace

void train_tokenizer(const TokenizerTraining& options, const std::filesystem::path& out) {
  if (options.vocab_size == kByteVocab) return save_byte_tokenizer(out);
  if (options.vocab_size < kByteVocab || options.vocab_size > 65536)
    usage_fail(
        "--vocab-size {}: must be {} (the byte tokenizer) or more, and at most 65536 (tokens are "
        "16 bits)",
        options.vocab_size, kByteVocab);
  if (options.inputs.empty()) usage_fail("--input: name the text to train on");
  check_can_write(out);

  Documents documents(options);
  if (documents.error) std::rethrow_exception(documents.error);
  require(!documents.done(), "{}: no text to train a tokenizer on", options.inputs.front());
  const bool identity = options.normalization == Normalization::identity;
  const std::unordered_map<std::string, std::string> arguments{
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"add_dummy_prefix", "false"},
      {"character_coverage", "0.999"},
      {"normalization_rule_name", std::string(enum_name(options.normalization))},
      // Runs of spaces and spaces at the ends are part of the text.
      {"remove_extra_whitespaces", identity ? "false" : "true"},
      {"pad_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"unk_id", "3"},
      // Whole documents, of any length: a line break inside a piece is fine.
      {"max_sentence_length", std::to_string(1 << 30)},
      {"num_threads", "1"},
      {"minloglevel", "2"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &documents, &model);
  if (documents.error) std::rethrow_exception(documents.error);
  require(status.ok(), "{}: SentencePiece cannot train {} pieces on {} bytes of text: {}",
          options.inputs.front(), options.vocab_size, documents.bytes(),
          reason(status.error_message()));
  const Tokenizer tokenizer = Tokenizer::from_bytes(model, out.string());
  require(tokenizer.vocab_size() == options.vocab_size,
          "{}: the text yields only {} of {} pieces; give it more text or a smaller --vocab-size",
          options.inputs.front(), tokenizer.vocab_size(), options.vocab_size);
  write_file(out, model);
}

}  // namespace fairway
