#include <charconv>
#include <cstdlib>
#include <string_view>

#include "fairway/base/check.h"
#include "fairway/comm/mpi.h"
#include "fairway/comm/process_group.h"

namespace fairway {

namespace {

// What mpirun (Open MPI), srun --mpi=pmix, and PMI launchers set for each rank.
const char* launcher_mark() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name)) return name;
  return nullptr;
}

}  // namespace

std::unique_ptr<ProcessGroup> join_process_group() {
  const char* mark = launcher_mark();
  if (!mark) return make_single_process();
#if FAIRWAY_WITH_MPI
  return make_mpi_process_group();
#else
  fail(
      "{} says that an MPI launcher started this, but the program was built without MPI: install "
      "libopenmpi-dev and build it again, or start it alone",
      mark);
#endif
}

std::string launch_hint(const ProcessGroup& group) {
  if (group.size() > 1) return "";
  for (const char* name :
       {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}) {
    const char* value = std::getenv(name);
    const std::string_view text = value ? value : "";
    int tasks = 0;
    std::from_chars(text.data(), text.data() + text.size(), tasks);
    if (tasks > 1)
      return fmt::format(
          "; {} = {}: if that many were started to work together, they do not see one another, so "
          "start them with mpirun, or srun --mpi=pmix",
          name, tasks);
  }
  return "";
}

std::unique_ptr<Communicator> make_communicator(CpuDevice&, ProcessGroup& group) {
#if FAIRWAY_WITH_MPI
  if (group.size() > 1) return make_mpi_communicator(group);
#endif
  check(group.size() == 1, "make_communicator: several ranks without MPI");
  return make_single_communicator();
}

}  // namespace fairway
