# Every folder of src/fairway is one library with its own link list, so that a forbidden include
# does not build. `fairway_library(name SOURCES … DEPENDS …)` makes it; tests use `fairway_test`.

# GCC 12 finds false stringop-overflows inside fmt and false restricts inside std::string.
add_library(fairway_options INTERFACE)
target_compile_options(fairway_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wno-stringop-overflow -Wno-restrict
    -Wno-unknown-pragmas -fno-math-errno -march=${FAIRWAY_MARCH}>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
if(FAIRWAY_WERROR)
  target_compile_options(fairway_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>
    $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
if(FAIRWAY_SANITIZE)
  # Instrumented code makes GCC 12 see uninitialised reads inside std::function.
  target_compile_options(fairway_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized
    -fsanitize=${FAIRWAY_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(fairway_options INTERFACE -fsanitize=${FAIRWAY_SANITIZE})
endif()

# The include root of folder X holds only `fairway/X`: a folder sees another one's headers only by
# naming it in DEPENDS.
function(fairway_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  set(include_root ${CMAKE_BINARY_DIR}/include/${name})
  file(MAKE_DIRECTORY ${include_root}/fairway)
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${include_root}/fairway/${name} SYMBOLIC)
  if(ARG_SOURCES)
    add_library(fairway_${name} STATIC ${ARG_SOURCES})
    target_include_directories(fairway_${name} PUBLIC ${include_root})
    target_link_libraries(fairway_${name} PUBLIC ${ARG_DEPENDS} PRIVATE fairway_options ${ARG_PRIVATE_DEPENDS})
  else()
    add_library(fairway_${name} INTERFACE)
    target_include_directories(fairway_${name} INTERFACE ${include_root})
    target_link_libraries(fairway_${name} INTERFACE ${ARG_DEPENDS})
  endif()
endfunction()

function(fairway_test name)
  cmake_parse_arguments(ARG "GPU;SLOW" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE fairway_options ${ARG_DEPENDS} GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE FAIRWAY_TEST_DATA="${CMAKE_SOURCE_DIR}/tests")
  # SLOW: left out under sanitizers.
  set(labels)
  if(ARG_SLOW)
    set(labels LABELS slow)
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 TEST_FILTER "-*Gpu*" PROPERTIES TIMEOUT 600 ${labels}
    # Tests run side by side: idle OpenMP threads must not spin. What is no test of a GPU sees none.
    ENVIRONMENT "OMP_WAIT_POLICY=passive\\;CUDA_VISIBLE_DEVICES=")
  # GPU: some tests' names contain Gpu. They are one entry, labelled gpu: opening a GPU takes longer than most
  # of them, and where there is none they skip together.
  if(ARG_GPU AND FAIRWAY_WITH_CUDA)
    add_test(NAME gpu.${name} COMMAND ${name} --gtest_filter=*Gpu*)
    set_tests_properties(gpu.${name} PROPERTIES LABELS gpu RUN_SERIAL ON TIMEOUT 600
      SKIP_REGULAR_EXPRESSION "no GPU here")
    add_dependencies(gpu-tests ${name})
  endif()
endfunction()

# Tests of `name` that pass with what oneDNN has for processors without AVX-512, wherever they run.
function(fairway_avx2_test name filter)
  add_test(NAME avx2.${name} COMMAND ${name} --gtest_filter=${filter})
  set_tests_properties(avx2.${name} PROPERTIES TIMEOUT 600
    ENVIRONMENT "OMP_WAIT_POLICY=passive;CUDA_VISIBLE_DEVICES=;ONEDNN_MAX_CPU_ISA=AVX2")
endfunction()

# A test program that runs alone, and as so many ranks: `RANKS 2 3 4`. Its main() joins them (support/ranks.h).
function(fairway_ranks_test name)
  cmake_parse_arguments(ARG "" "" "RANKS;SOURCES;DEPENDS" ${ARGN})
  fairway_test(${name} ${ARG_UNPARSED_ARGUMENTS} DEPENDS ${ARG_DEPENDS}
    SOURCES ${ARG_SOURCES} ${CMAKE_SOURCE_DIR}/tests/support/ranks_main.cpp)
  if(NOT FAIRWAY_WITH_MPI)
    return()
  endif()
  foreach(ranks ${ARG_RANKS})
    add_test(NAME mpi.${name}.${ranks}
      # More ranks than cores must not spin while they wait.
      COMMAND ${MPIEXEC_EXECUTABLE} --allow-run-as-root --oversubscribe --mca mpi_yield_when_idle 1
        -np ${ranks} $<TARGET_FILE:${name}> --gtest_filter=-*Gpu*)
    # The leaks that a sanitizer finds are MPI's own.
    set_tests_properties(mpi.${name}.${ranks} PROPERTIES PROCESSORS 2 TIMEOUT 300
      LABELS "mpi$<$<NOT:$<EQUAL:${ranks},2>>:$<SEMICOLON>slow>"
      ENVIRONMENT "ASAN_OPTIONS=detect_leaks=0;CUDA_VISIBLE_DEVICES=")
    if("GPU" IN_LIST ARG_UNPARSED_ARGUMENTS AND FAIRWAY_WITH_CUDA)  # one GPU a rank
      add_test(NAME gpu.mpi.${name}.${ranks} COMMAND ${MPIEXEC_EXECUTABLE} --allow-run-as-root --oversubscribe
        -np ${ranks} $<TARGET_FILE:${name}> --gtest_filter=*Gpu*)
      set_tests_properties(gpu.mpi.${name}.${ranks} PROPERTIES LABELS gpu RUN_SERIAL ON TIMEOUT 600
        SKIP_REGULAR_EXPRESSION "no GPU here")
    endif()
  endforeach()
endfunction()

# CUDA sources of a library: files *_sm90.cu use instructions that only Hopper has, the others run on
# every GPU since Ampere.
set(FAIRWAY_CUDA_GENERIC_FLAGS -gencode arch=compute_80,code=sm_80 -gencode arch=compute_89,code=sm_89
  -gencode arch=compute_90,code=[sm_90,compute_90])
set(FAIRWAY_CUDA_SM90_FLAGS -gencode arch=compute_90a,code=sm_90a)
function(fairway_cuda_sources target)
  if(NOT FAIRWAY_WITH_CUDA)
    return()
  endif()
  target_sources(${target} PRIVATE ${ARGN})
  foreach(source ${ARGN})
    if(source MATCHES "_sm90\\.cu$")
      set(architectures ${FAIRWAY_CUDA_SM90_FLAGS})
    else()
      set(architectures ${FAIRWAY_CUDA_GENERIC_FLAGS})
    endif()
    if(source MATCHES "\\.cu$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
        "${architectures};--expt-relaxed-constexpr;-diag-suppress=20012,20208")
    endif()
  endforeach()
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
endfunction()
