// The bodies for one rank: nothing to exchange. Internal to comm/.
#pragma once

#include <memory>

#include "fairway/comm/communicator.h"

namespace fairway {

std::unique_ptr<Communicator> make_single_communicator();

}  // namespace fairway
