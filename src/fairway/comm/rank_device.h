// The device of one rank among several on a host.
#pragma once

#include "fairway/comm/process_group.h"
#include "fairway/device/choose.h"

namespace fairway {

// `choice` for this rank: its own GPU, its share of the cores unless a number of threads was asked
// for.
inline DeviceChoice for_rank(DeviceChoice choice, const ProcessGroup& group) {
  choice.ordinal = group.local_rank();
  if (choice.threads == 0) choice.threads = group.local_threads();
  return choice;
}

}  // namespace fairway
