#include "fairway/train/checkpoint_writer.h"

#include <chrono>

namespace fairway {

namespace {

size_t bytes_of(const std::vector<std::pair<std::string, int64_t>>& tensors) {
  size_t bytes = 0;
  for (const auto& [name, count] : tensors) bytes += static_cast<size_t>(count) * sizeof(float);
  return bytes;
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::filesystem::path directory, RunIdentity identity, int keep,
                                   const std::vector<std::pair<std::string, int64_t>>& tensors)
    : directory_(std::move(directory)),
      identity_(std::move(identity)),
      keep_(keep),
      memory_(bytes_of(tensors)) {
  auto* at = reinterpret_cast<float*>(memory_.data());
  for (const auto& [name, count] : tensors) {
    snapshot_.emplace_back(name, std::span(at, static_cast<size_t>(count)));
    at += count;
  }
  // Memory that is new takes twenty times as long to fill as any later time.
  going_on_ = std::async(std::launch::async, [bytes = std::span(memory_.data(), memory_.bytes())] {
    for (size_t page = 0; page < bytes.size(); page += 4096) bytes[page] = std::byte{0};
  });
}

void CheckpointWriter::write(const RunPosition& position, const Fill& fill) {
  finish();
  for (const auto& [name, values] : snapshot_) fill(name, values);
  going_on_ = std::async(std::launch::async, [this, position] {
    std::vector<CheckpointTensor> tensors;
    for (const auto& [name, values] : snapshot_) tensors.push_back({name, values});
    save_checkpoint(checkpoint_path(directory_, position.step), position, identity_, tensors);
    prune_checkpoints(directory_, keep_);
  });
}

void CheckpointWriter::check_last() {
  if (going_on_.valid() && going_on_.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
    going_on_.get();
}

void CheckpointWriter::finish() {
  if (going_on_.valid()) going_on_.get();
}

}  // namespace fairway
