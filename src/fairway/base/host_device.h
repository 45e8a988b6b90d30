// Marks small pure functions that kernels call as well as the host.
#pragma once

#if defined(__CUDACC__)
#define FAIRWAY_HOST_DEVICE __host__ __device__
#else
#define FAIRWAY_HOST_DEVICE
#endif
