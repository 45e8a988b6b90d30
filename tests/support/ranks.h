// For tests that mpirun runs too: every rank runs every test.
#pragma once

#include <memory>

#include "fairway/comm/process_group.h"

namespace fairway::testing {

extern std::unique_ptr<ProcessGroup> group;  // MPI starts once in a process

// Whether every rank can have a GPU of its own. Collective.
bool gpu_for_every_rank();

}  // namespace fairway::testing
