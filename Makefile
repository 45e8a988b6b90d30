# make            install what is missing, then build      -> build/apps/fairway/fairway
# make demo       text in, a scored artifact out, in a few minutes on two cores
# make test       the whole test suite;  make test-gpu the part that needs a GPU
# make bench-gpu  the program's speed on a GPU (docs/performance.md)
# make bundle     source and libraries as one tarball, for machines without a network -> build/fairway-offline.tar.gz
# make sanitize   the suite under AddressSanitizer and UndefinedBehaviorSanitizer
# make tsan       what uses std::thread (training batches, shard building, checkpoints) under ThreadSanitizer
# make fuzz       the readers of files against the fuzzer's corpora, and a few seconds more (docs/fuzzing.md);
#                 make fuzz-long TARGET=artifact RUNS=10000000 for long
# make tidy       clang-tidy on the program itself;  make format rewrites, make format-check only looks
BUILD ?= build
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=

ifneq ($(shell command -v ccache),)
CMAKE_FLAGS += -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache
endif

sources = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')
# Builds that only check the host's code leave the GPU's out.
CPU_ONLY = -DFAIRWAY_CUDA=OFF

.PHONY: all deps check-deps build-all demo test test-gpu bench-gpu bundle sanitize tsan fuzz fuzz-build fuzz-long tidy format format-check clean
.DEFAULT_GOAL := all

deps:
	@scripts/install-deps.sh

check-deps:
	@scripts/install-deps.sh --checks

$(BUILD)/build.ninja: | deps
	cmake -B $(BUILD) -G Ninja $(CMAKE_FLAGS)

all: deps $(BUILD)/build.ninja
	cmake --build $(BUILD) -j $(JOBS) --target fairway

build-all: deps $(BUILD)/build.ninja
	cmake --build $(BUILD) -j $(JOBS)

demo: all
	scripts/demo.sh $(BUILD)/apps/fairway/fairway

test: build-all
	ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

# What needs a GPU; says so and passes where there is none.
test-gpu: deps $(BUILD)/build.ninja
	cmake --build $(BUILD) -j $(JOBS) --target gpu-tests
	ctest --test-dir $(BUILD) --output-on-failure -L gpu

bench-gpu: all
	$(BUILD)/apps/fairway/fairway bench step --device cuda
	$(BUILD)/apps/fairway/fairway bench step --device cuda --no-loop
	$(BUILD)/apps/fairway/fairway bench ops --device cuda
	$(BUILD)/apps/fairway/fairway bench ttt --device cuda --documents 120 --doc-tokens 2100
	$(BUILD)/apps/fairway/fairway bench quantize --device cuda
	$(BUILD)/apps/fairway/fairway bench checkpoint --device cuda

bundle:
	scripts/offline-bundle.sh $(BUILD)/fairway-offline.tar.gz

sanitize: deps
	cmake -B $(BUILD)-sanitize -G Ninja $(CMAKE_FLAGS) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO='-O1 -g1' -DFAIRWAY_SANITIZE=address,undefined $(CPU_ONLY)
	cmake --build $(BUILD)-sanitize -j $(JOBS)
	ctest --test-dir $(BUILD)-sanitize --output-on-failure -j $(JOBS) -LE slow

# Only what starts std::threads, and OpenMP with one thread: with more, GCC's run-time library makes
# ThreadSanitizer report races that are none.
tsan: deps
	cmake -B $(BUILD)-tsan -G Ninja $(CMAKE_FLAGS) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO='-O1 -g1' -DFAIRWAY_SANITIZE=thread $(CPU_ONLY)
	cmake --build $(BUILD)-tsan -j $(JOBS) --target data_threads_test train_threads_test train_test
	$(BUILD)-tsan/tests/data/data_threads_test
	$(BUILD)-tsan/tests/train/train_threads_test
	OMP_NUM_THREADS=1 $(BUILD)-tsan/tests/train/train_test \
	  --gtest_filter='Training.OnlyTheNewest*:Training.NotFinite*:Training.Interrupt*'

FUZZ_TARGETS = artifact checkpoint compressed manifest model recipe safetensors shard text tokenizer
# Of the work that libFuzzer does besides running a target, what a fast one can do without.
FUZZ = -entropic=0 -reload=0 -print_funcs=0 -print_pcs=0 -timeout=10 -rss_limit_mb=1000 -verbosity=0
TARGET ?= artifact
RUNS ?= 10000000

fuzz-build: check-deps
	cmake -B $(BUILD)-fuzz -G Ninja $(CMAKE_FLAGS) -DCMAKE_CXX_COMPILER=clang++ -DFAIRWAY_FUZZ=ON
	cmake --build $(BUILD)-fuzz -j $(JOBS)

# First every file of the corpora, then two seconds of new ones; what is found stays in the build folder.
fuzz: fuzz-build
	@for t in $(FUZZ_TARGETS); do \
	  mkdir -p $(BUILD)-fuzz/found/$$t && echo "$$t: $$(ls fuzz/corpus/$$t | wc -l) files" && \
	  $(BUILD)-fuzz/fuzz/fuzz_$$t $(FUZZ) -runs=0 fuzz/corpus/$$t && \
	  $(BUILD)-fuzz/fuzz/fuzz_$$t $(FUZZ) -max_total_time=2 -artifact_prefix=$(BUILD)-fuzz/ \
	    $(BUILD)-fuzz/found/$$t fuzz/corpus/$$t || exit 1; \
	done

# Continues from what earlier runs found.
fuzz-long: fuzz-build
	mkdir -p $(BUILD)-fuzz/found/$(TARGET)
	$(BUILD)-fuzz/fuzz/fuzz_$(TARGET) $(FUZZ) -verbosity=1 -print_final_stats=1 -runs=$(RUNS) \
	  -artifact_prefix=$(BUILD)-fuzz/ $(BUILD)-fuzz/found/$(TARGET) fuzz/corpus/$(TARGET)

tidy: check-deps $(BUILD)/build.ninja
	run-clang-tidy -quiet -j $(JOBS) -p $(BUILD) -extra-arg=-Wno-unknown-warning-option \
	  -extra-arg=-Wno-unused-command-line-argument '$(CURDIR)/(src|apps|bench)/.*\.cpp$$'

format: check-deps
	clang-format -i $(sources)

format-check: check-deps
	clang-format --dry-run -Werror $(sources)

clean:
	rm -rf $(BUILD) $(BUILD)-sanitize $(BUILD)-tsan $(BUILD)-fuzz
