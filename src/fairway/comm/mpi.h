// The bodies over MPI. Internal to comm/.
#pragma once

#include <memory>

#include "fairway/comm/communicator.h"

namespace fairway {

// All ranks of MPI_COMM_WORLD. Initializes MPI; destroying it finalizes MPI.
std::unique_ptr<ProcessGroup> make_mpi_process_group();

// Over host memory; the same ranks.
std::unique_ptr<Communicator> make_mpi_communicator(const ProcessGroup& group);

}  // namespace fairway
