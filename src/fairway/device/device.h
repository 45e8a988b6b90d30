// Where computation happens. An op has one overload per device, `op(CpuDevice&, …)` and
// `op(CudaDevice&, …)`; code above the ops is a template over the device, so a missing body is a
// link error and a build without CUDA needs none of it.
//
// A device type provides:
//   using Buffer                                     owning memory of the device, zeroed
//   using Graphs                                     work issued again and again: graphs.h
//   name()                                           for people: what it is
//   Buffer allocate(size_t bytes)
//   void upload(void* device, const void* host, size_t bytes)
//   void download(void* host, const void* device, size_t bytes)
//   void copy(void* to, const void* from, size_t bytes)   both on the device, not overlapping
//   void zero(void* device, size_t bytes)
//   void synchronize()                               all work issued so far is done
#pragma once

namespace fairway {

class CpuDevice;
class CudaDevice;

}  // namespace fairway
