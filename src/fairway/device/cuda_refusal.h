// Why no GPU can be used on a machine, and what to do about it.
#pragma once

#include <string>

namespace fairway {

// What CUDA says of the machine. Versions as CUDA writes them: 13000 is 13.0.
struct CudaMachine {
  int driver = 0;     // the newest CUDA that the driver can serve; 0: there is no driver
  int runtime = 0;    // the CUDA that this program was built with
  std::string error;  // of counting the GPUs, where that failed for another reason
  int gpus = 0;
  std::string name;    // of the first GPU
  int capability = 0;  // of that one: 80 is 8.0
};

// In words, to follow a colon; empty if the first GPU can be used.
std::string cuda_refusal(const CudaMachine& machine);

}  // namespace fairway
