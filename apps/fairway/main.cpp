// The program: one subcommand a job, one exit status a result.
//   0  the work was done          2  the command line or recipe is wrong
//   1  it could not be done; one line on stderr says what, where and what to do

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "commands.h"
#include "fairway/base/check.h"

namespace fairway {
namespace {

constexpr int kFailed = 1, kUsage = 2;
constexpr const char* kNoOutput = "cannot write to standard output; is the disk full?";

int complain(std::string message, int status) {
  // One line, and nothing from a hostile file that a terminal would obey.
  for (char& c : message)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  std::fflush(stdout);
  fmt::print(stderr, "fairway: {}\n", message);
  return status;
}

// The innermost subcommand that was named, as one would type it: "fairway data build".
std::string command_path(const CLI::App& app) {
  const auto named = app.get_subcommands();
  return app.get_name() + (named.empty() ? "" : " " + command_path(*named.front()));
}

int run(int argc, char** argv) {
  CLI::App app(
      "Trains a small language model on your text, packs it into an artifact of at most 16 MB, "
      "and\n"
      "scores the artifact in bits per byte.",
      "fairway");
  app.set_version_flag("--version", "fairway " FAIRWAY_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.footer(
      "'fairway COMMAND --help' explains a command. docs/journey.md walks through all of it.");
  // In the order of the journey; each from its own file.
  add_tokenizer(app);
  add_data(app);
  add_train(app);
  add_quantize(app);
  add_eval(app);
  add_run(app);
  add_inspect(app);
  add_bench(app);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    return complain(fmt::format("{}; see '{} --help'", e.what(), command_path(app)), kUsage);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) return complain(kNoOutput, kFailed);
  return 0;
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) {
  using namespace fairway;
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error like a full disk
  try {
    return run(argc, argv);
  } catch (const UsageError& e) {
    return complain(e.what(), kUsage);
  } catch (const Error& e) {
    return complain(e.what(), kFailed);
  } catch (const std::bad_alloc&) {
    return complain("out of memory; use a smaller batch, or fewer documents at a time", kFailed);
  } catch (const std::logic_error& e) {
    return complain(fmt::format("this is a bug in fairway: {}; please report it", e.what()),
                    kFailed);
  } catch (const std::exception& e) {
    return complain(std::ferror(stdout) ? kNoOutput : e.what(), kFailed);
  }
}
