// An exchange in the JSON files of `plan` and `bench exchange`.
#pragma once

#include <nlohmann/json.hpp>

#include "fairway/plan/exchange.h"

namespace fairway {

inline nlohmann::ordered_json exchange_json(const Exchange& e) {
  return {{"what", e.what},
          {"kind", name_of(e.kind)},
          {"bytes", e.bytes},
          {"sent_bytes", e.sent},
          {"seconds", e.seconds}};
}

}  // namespace fairway
