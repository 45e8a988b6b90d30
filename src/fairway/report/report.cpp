#include "fairway/report/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "fairway/base/check.h"
#include "fairway/report/table.h"

namespace fairway {

namespace {

using Json = nlohmann::ordered_json;

std::string row_name(const Report::Line& line) {
  const std::string model = line.model == "float" ? "float model" : "artifact";
  return line.mode == "ttt" ? model + ", test-time training" : model + ", " + line.mode;
}

Json score_object(const Score& s) {
  Json j;
  j["nats_per_token"] = s.nats_per_token;
  j["bpb"] = nullptr;
  if (s.bpb) j["bpb"] = *s.bpb;
  j["tokens"] = s.tokens;
  j["bytes"] = nullptr;
  if (s.bytes) j["bytes"] = *s.bytes;
  j["seconds"] = s.seconds;
  j["device"] = s.device;
  j["ranks"] = s.ranks;
  j["matmul_precision"] = s.matmul_precision;
  return j;
}

// Each of what computed the scores, once.
std::string all_computed_by(const std::vector<Report::Line>& lines) {
  std::vector<std::string> all;
  for (const auto& line : lines)
    if (std::string one = computed_by(line.score);
        std::find(all.begin(), all.end(), one) == all.end())
      all.push_back(std::move(one));
  return fmt::format("{}", fmt::join(all, "; "));
}

}  // namespace

std::string computed_by(const Score& score) {
  return fmt::format("{}{}, {}", score.ranks > 1 ? fmt::format("{} × ", score.ranks) : "",
                     score.device, score.matmul_precision);
}

std::string to_markdown(const Report& report) {
  std::vector<std::vector<std::string>> rows{
      {"", "nats/token", "bits/byte", "tokens", "bytes of text", "seconds"}};
  for (const auto& line : report.lines) {
    const Score& s = line.score;
    rows.push_back({row_name(line), fmt::format("{:.4f}", s.nats_per_token),
                    s.bpb ? fmt::format("{:.4f}", *s.bpb) : "-",
                    grouped(static_cast<uint64_t>(s.tokens)),
                    s.bytes ? grouped(static_cast<uint64_t>(*s.bytes)) : "-",
                    fmt::format("{:.1f}", s.seconds)});
  }
  std::string out = markdown_table(rows);
  const uint64_t total = report.artifact_bytes + report.source_bytes;
  out += fmt::format("\nArtifact: {} bytes", grouped(report.artifact_bytes));
  if (report.source_bytes)
    out += fmt::format(" + {} bytes of compressed source = {}", grouped(report.source_bytes),
                       grouped(total));
  out += fmt::format(", {:.2f}% of {}.\n",
                     100.0 * static_cast<double>(total) / static_cast<double>(kArtifactBudget),
                     grouped(kArtifactBudget));
  out += fmt::format("Training: {} steps, {} tokens in {:.1f} s; quantization: {:.1f} s.\n",
                     grouped(static_cast<uint64_t>(report.train_steps)),
                     grouped(static_cast<uint64_t>(report.train_tokens)), report.train_seconds,
                     report.quantize_seconds);
  out += fmt::format("Scored by: {}.\n", all_computed_by(report.lines));
  return out;
}

std::string to_json(const Report& report) {
  Json j;
  j["evaluations"] = Json::array();
  for (const auto& line : report.lines) {
    Json e;
    e["model"] = line.model;
    e["mode"] = line.mode;
    e.update(score_object(line.score));
    j["evaluations"].push_back(std::move(e));
  }
  j["artifact_bytes"] = report.artifact_bytes;
  j["source_bytes"] = report.source_bytes;
  j["budget_bytes"] = kArtifactBudget;
  j["train_steps"] = report.train_steps;
  j["train_tokens"] = report.train_tokens;
  j["train_seconds"] = report.train_seconds;
  j["quantize_seconds"] = report.quantize_seconds;
  return j.dump(2) + "\n";
}

std::string to_json(const Score& score) {
  return score_object(score).dump(2) + "\n";
}

Score score_from_json(std::string_view text, const std::string& where) {
  const auto j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto number = [&](const char* key) { return j.contains(key) && j[key].is_number(); };
  const auto text_of = [&](const char* key) { return j.contains(key) && j[key].is_string(); };
  const auto number_or_null = [&](const char* key) {
    return number(key) || (j.contains(key) && j[key].is_null());
  };
  require(
      j.is_object() && number("nats_per_token") && number_or_null("bpb") && number("tokens") &&
          number_or_null("bytes") && number("seconds") && text_of("device") &&
          j.contains("ranks") && j["ranks"].is_number_integer() && text_of("matmul_precision"),
      "{}: not the result of an evaluation, or one of an earlier version; delete it to evaluate "
      "again",
      where);
  Score s;
  s.nats_per_token = j["nats_per_token"].get<double>();
  if (!j["bpb"].is_null()) s.bpb = j["bpb"].get<double>();
  s.tokens = j["tokens"].get<int64_t>();
  if (!j["bytes"].is_null()) s.bytes = j["bytes"].get<int64_t>();
  s.seconds = j["seconds"].get<double>();
  s.device = j["device"].get<std::string>();
  s.ranks = j["ranks"].get<int>();
  s.matmul_precision = j["matmul_precision"].get<std::string>();
  return s;
}

}  // namespace fairway
