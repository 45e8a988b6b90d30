// The device of one rank among several on a host.
#pragma once

#include "fairway/comm/process_group.h"
#include "fairway/device/choose.h"

namespace fairway {

// `choice` for this rank: its own GPU, its share of the cores unless a number of threads was asked
// for.
inline DeviceChoice for_rank(DeviceChoice choice, const ProcessGroup& group) {
  choice.ordinal = group.local_rank();
  choice.threads = group.threads(choice.threads);
  return choice;
}

}  // namespace fairway
