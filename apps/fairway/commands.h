// The subcommands. Each lives in <command>.cpp and registers itself: options, help, and a callback
// that does the work by calling the libraries. A callback throws UsageError for a wrong command
// line, Error for work that could not be done; main() turns them into one line on stderr and an
// exit status. Those that several ranks can share take the process group. To add one: declare it
// here, list its file in CMakeLists.txt, call it in main().
#pragma once

#include <CLI/CLI.hpp>

namespace fairway {

class ProcessGroup;

void add_tokenizer(CLI::App& app);
void add_data(CLI::App& app, ProcessGroup& group);
void add_train(CLI::App& app, ProcessGroup& group);
void add_quantize(CLI::App& app, ProcessGroup& group);
void add_eval(CLI::App& app, ProcessGroup& group);
void add_run(CLI::App& app, ProcessGroup& group);
void add_inspect(CLI::App& app);
void add_plan(CLI::App& app);
void add_bench(CLI::App& app, ProcessGroup& group);
// A part of `bench`, whose App it takes.
void add_bench_data(CLI::App& bench);

}  // namespace fairway
