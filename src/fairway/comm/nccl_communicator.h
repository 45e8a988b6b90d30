// The body over NCCL. Internal to comm/, and its tests.
#pragma once

#include <memory>

#include "fairway/comm/communicator.h"

namespace fairway {

// One GPU a rank, also for one rank. Collective. Throws Error if the program was built without
// NCCL's header, or its library cannot be loaded.
std::unique_ptr<Communicator> make_nccl_communicator(CudaDevice& device, ProcessGroup& group);

}  // namespace fairway
