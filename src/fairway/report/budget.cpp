#include "fairway/report/budget.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "evaluator_sources.h"
#include "fairway/base/check.h"
#include "fairway/report/report.h"
#include "fairway/report/table.h"

namespace fairway {

namespace {

// "blocks.3.attn.c_q.weight" → "blocks.*.attn.c_q.weight"
std::string group_of(const TensorBytes& t) {
  if (t.bits == 0) return "float16 tensors";
  if (!t.name.starts_with("blocks.")) return t.name;
  return "blocks.*." + t.name.substr(t.name.find('.', 7) + 1);
}

struct Group {
  std::string name;
  uint64_t elements = 0, codes = 0, scales = 0, half = 0;
};

std::vector<Group> groups(const ArtifactBytes& bytes) {
  std::vector<Group> out;
  for (const TensorBytes& t : bytes.tensors) {
    const std::string name = group_of(t);
    auto it = std::find_if(out.begin(), out.end(), [&](const Group& g) { return g.name == name; });
    if (it == out.end()) it = out.insert(out.end(), Group{name});
    it->elements += static_cast<uint64_t>(t.elements);
    it->codes += t.codes;
    it->scales += t.scales;
    it->half += t.half;
  }
  return out;
}

struct Sums {
  uint64_t codes = 0, coded_numbers = 0;
  double model_bits = 0;
};
Sums sums(const ArtifactBytes& bytes) {
  Sums s;
  for (const TensorBytes& t : bytes.tensors) {
    s.codes += t.codes;
    if (t.bits) s.coded_numbers += static_cast<uint64_t>(t.elements);
    s.model_bits += t.model_bits;
  }
  return s;
}

}  // namespace

uint64_t evaluator_source_bytes() {
  return kEvaluatorSourceBytes;
}

bool Budget::fits() const {
  return total() <= kArtifactBudget;
}

double histogram_entropy_bits(const QuantizedModel& model) {
  double bits = 0;
  for (const StoredTensor& t : model.tensors) {
    std::array<uint64_t, 256> count{};
    for (int8_t code : t.matrix.codes) ++count[static_cast<size_t>(code + 128)];
    const auto n = static_cast<double>(t.matrix.codes.size());
    for (uint64_t c : count)
      if (c) bits -= static_cast<double>(c) * std::log2(static_cast<double>(c) / n);
  }
  return bits;
}

std::string to_markdown(const Budget& budget) {
  std::vector<std::vector<std::string>> rows{
      {"", "numbers", "codes", "scales", "float16", "bytes"}};
  const auto cell = [](uint64_t n) { return n ? grouped(n) : std::string("-"); };
  for (const Group& g : groups(budget.artifact))
    rows.push_back({g.name, grouped(g.elements), cell(g.codes), cell(g.scales), cell(g.half),
                    grouped(g.codes + g.scales + g.half)});
  rows.push_back({"container", "", "", "", "", grouped(budget.artifact.container)});
  rows.push_back({"artifact", "", "", "", "", grouped(budget.artifact.total)});
  rows.push_back(
      {"evaluator's sources, xz -9e", "", "", "", "", grouped(evaluator_source_bytes())});
  rows.push_back({"total", "", "", "", "", grouped(budget.total())});
  rows.push_back({"budget", "", "", "", "", grouped(kArtifactBudget)});

  std::string out = markdown_table(rows);

  const Sums s = sums(budget.artifact);
  if (s.coded_numbers) {
    const auto line = [&](const char* what, double bytes) {
      out += fmt::format("  {:<34} {:>12} bytes, {:.4f} bits a code\n", what,
                         grouped(static_cast<uint64_t>(bytes + 0.5)),
                         bytes * 8 / static_cast<double>(s.coded_numbers));
    };
    out += fmt::format("\n{} codes:\n", grouped(s.coded_numbers));
    line("as stored", static_cast<double>(s.codes));
    line("entropy under the coder's model", s.model_bits / 8);
    line("entropy of each matrix's histogram", budget.code_entropy_bits / 8);
    if (budget.brotli) {
      line("Brotli 11, as bytes", static_cast<double>(budget.brotli->codes));
      line("Brotli 11, in two byte planes", static_cast<double>(budget.brotli->codes_planes));
    }
  }
  return out;
}

std::string to_json(const Budget& budget) {
  nlohmann::ordered_json j;
  j["tensors"] = nlohmann::ordered_json::array();
  for (const TensorBytes& t : budget.artifact.tensors)
    j["tensors"].push_back({{"name", t.name},
                            {"bits", t.bits},
                            {"numbers", t.elements},
                            {"codes_bytes", t.codes},
                            {"scales_bytes", t.scales},
                            {"float16_bytes", t.half},
                            {"model_entropy_bits", t.model_bits}});
  const Sums s = sums(budget.artifact);
  j["container_bytes"] = budget.artifact.container;
  j["artifact_bytes"] = budget.artifact.total;
  j["source_bytes"] = evaluator_source_bytes();
  j["total_bytes"] = budget.total();
  j["budget_bytes"] = kArtifactBudget;
  j["fits"] = budget.fits();
  j["codes"] = s.coded_numbers;
  j["codes_bytes"] = s.codes;
  j["model_entropy_bytes"] = s.model_bits / 8;
  j["histogram_entropy_bytes"] = budget.code_entropy_bits / 8;
  j["brotli11_bytes"] = nullptr;
  j["brotli11_planes_bytes"] = nullptr;
  if (budget.brotli) {
    j["brotli11_bytes"] = budget.brotli->codes;
    j["brotli11_planes_bytes"] = budget.brotli->codes_planes;
  }
  return j.dump(2) + "\n";
}

}  // namespace fairway
