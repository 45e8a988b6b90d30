#include "fairway/recipe/run_config.h"

#include "fairway/base/fields.h"
#include "fairway/eval/config.h"

namespace fairway {

void RunConfig::validate() const {
  if (modes.empty()) usage_fail("[run] modes: must name at least one of chunked, sliding, ttt");
  for (const auto& mode : modes) {
    EvalMode parsed{};
    parse_field("[run] modes", mode, parsed);
  }
}

}  // namespace fairway
