#include "fairway/quant/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "fairway/base/fp16.h"
#include "fairway/model/weights.h"

namespace fairway {

namespace {

// The matrices that read one input share its Hessian, and the factor with it: one rank's work.
struct Input {
  Tensor<const float> hessian;
  std::string name;          // of the first of its matrices
  std::vector<size_t> jobs;  // its matrices
  int rank = 0;
};

// Which rank takes which input: the costliest first, each to the rank that has least to do.
void share_out(std::vector<Input>& inputs, std::span<const GptqJob> jobs, int ranks) {
  const auto cost = [&](const Input& input) {
    // n³ for the factor, n² for each row that is quantized with it.
    const auto n = static_cast<double>(input.hessian.extent(0));
    double rows = n;
    for (const size_t i : input.jobs) rows += static_cast<double>(jobs[i].w.extent(0));
    return n * n * rows;
  };
  std::vector<Input*> order;
  order.reserve(inputs.size());
  for (Input& input : inputs) order.push_back(&input);
  std::stable_sort(order.begin(), order.end(),
                   [&](const Input* a, const Input* b) { return cost(*a) > cost(*b); });
  std::vector<double> load(static_cast<size_t>(ranks));
  for (Input* input : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += cost(*input);
    input->rank = static_cast<int>(least - load.begin());
  }
}

// A rank's results as bytes, one after the other; all ranks know their shapes.
void put(std::vector<std::byte>& bytes, const void* data, size_t size) {
  const auto* begin = static_cast<const std::byte*>(data);
  bytes.insert(bytes.end(), begin, begin + size);
}
void take(std::span<const std::byte>& bytes, void* data, size_t size) {
  check(bytes.size() >= size, "quantize_model: a rank sent too little");
  std::memcpy(data, bytes.data(), size);
  bytes = bytes.subspan(size);
}

struct Result {
  QuantizedMatrix matrix;
  GptqNotes notes;
};

// The matrices of rank's inputs, in the order of `inputs`.
std::vector<size_t> jobs_of(std::span<const Input> inputs, int rank) {
  std::vector<size_t> out;
  for (const Input& input : inputs)
    if (input.rank == rank) out.insert(out.end(), input.jobs.begin(), input.jobs.end());
  return out;
}

// Quantizes this rank's matrices; all results, job by job, at rank 0.
std::vector<Result> quantize_all(CpuDevice& device, std::vector<Input> inputs,
                                 std::vector<GptqJob> jobs, double damping, ProcessGroup& group) {
  share_out(inputs, jobs, group.size());
  std::vector<Tensor<const float>> hessians;
  std::vector<std::string> names;
  for (const Input& input : inputs) {
    if (input.rank != group.rank()) continue;
    hessians.push_back(input.hessian);
    names.push_back(input.name);
  }
  const std::vector<GptqFactor> factors = gptq_factors(device, hessians, names, damping);
  auto factor = factors.begin();
  for (const Input& input : inputs) {
    if (input.rank != group.rank()) continue;
    for (const size_t i : input.jobs) jobs[i].factor = &*factor;
    ++factor;
  }
  std::vector<GptqJob> own;
  for (const size_t i : jobs_of(inputs, group.rank())) own.push_back(jobs[i]);
  const std::vector<QuantizedMatrix> matrices = gptq(device, own);

  std::vector<std::byte> bytes;
  for (size_t i = 0; i < own.size(); ++i) {
    const QuantizedMatrix& q = matrices[i];
    put(bytes, &own[i].factor->notes, sizeof(GptqNotes));
    put(bytes, q.codes.data(), q.codes.size());
    put(bytes, q.scales.data(), q.scales.size() * sizeof(uint16_t));
  }
  const auto all = group.gather(bytes);
  if (!group.root()) return {};
  std::vector<Result> results(jobs.size());
  for (int rank = 0; rank < group.size(); ++rank) {
    std::span<const std::byte> left = all[static_cast<size_t>(rank)];
    for (const size_t i : jobs_of(inputs, rank)) {
      QuantizedMatrix& q = results[i].matrix;
      q.rows = jobs[i].w.extent(0), q.cols = jobs[i].w.extent(1), q.bits = jobs[i].options.bits;
      q.codes.resize(static_cast<size_t>(q.rows * q.cols));
      q.scales.resize(static_cast<size_t>(q.rows));
      take(left, &results[i].notes, sizeof(GptqNotes));
      take(left, q.codes.data(), q.codes.size());
      take(left, q.scales.data(), q.scales.size() * sizeof(uint16_t));
    }
    check(left.empty(), "quantize_model: a rank sent too much");
  }
  return results;
}

}  // namespace

QuantizedModel quantize_model(
    CpuDevice& device, const ModelConfig& config, const float* flat, const Hessians& hessians,
    const QuantConfig& quant, ProcessGroup& group,
    const std::function<void(const std::string&, const GptqNotes&)>& note) {
  quant.validate();
  QuantizedModel model;
  model.config = config;
  std::vector<GptqJob> jobs;
  std::vector<size_t> at;  // jobs' places in the model
  std::vector<Input> inputs;
  for_each_named(weights_view(config, flat), [&](const std::string& name, Tensor<const float> t) {
    StoredTensor stored;
    stored.name = name;
    stored.shape = t.shape;
    const Tensor<const float> h = hessians.of(name);
    if (h && t.size() > quant.keep_float_elements) {
      const bool embedding = name == "tok_emb.weight" || name == "lm_head.weight";
      GptqOptions options;
      options.bits = embedding ? quant.embed_bits : quant.bits;
      options.clip_sigmas = embedding ? quant.embed_clip_sigmas : quant.clip_sigmas;
      options.damping = quant.damping;
      options.block = quant.block;
      auto known = std::find_if(inputs.begin(), inputs.end(),
                                [&](const Input& input) { return input.hessian.data == h.data; });
      if (known == inputs.end()) known = inputs.insert(known, {h, name, {}});
      known->jobs.push_back(jobs.size());
      jobs.push_back({name, t, nullptr, options});
      at.push_back(model.tensors.size());
    } else {
      stored.half.reserve(static_cast<size_t>(t.size()));
      for (float x : t) {
        require(std::abs(x) < 65520.0f, "{}: holds {}, which float16 cannot", name, x);
        stored.half.push_back(float_to_fp16(x));
      }
    }
    model.tensors.push_back(std::move(stored));
  });
  std::vector<Result> results = quantize_all(device, inputs, jobs, quant.damping, group);
  if (!group.root()) return {};
  for (size_t i = 0; i < jobs.size(); ++i) {
    model.tensors[at[i]].matrix = std::move(results[i].matrix);
    if (note) note(jobs[i].name, results[i].notes);
  }
  return model;
}

}  // namespace fairway
