// What `fairway run` does after training: the recipe's [run] table.
#pragma once

#include <string>
#include <vector>

namespace fairway {

struct RunConfig {
  // Evaluations of the artifact. ttt is the score; the others say where it comes from.
  std::vector<std::string> modes = {"chunked", "sliding", "ttt"};
  // Text the Hessians are computed on; empty: the training shards.
  std::vector<std::string> calibration;

  // Throws UsageError naming the key whose value is impossible.
  void validate() const;

  bool operator==(const RunConfig&) const = default;

  template <class Self, class F>
  static void visit_fields(Self& c, F&& f) {
    f("modes", c.modes, "evaluations of the artifact: chunked, sliding, ttt");
    f("calibration", c.calibration,
      "shards the quantizer calibrates on (empty: the training shards)");
  }
};

}  // namespace fairway
