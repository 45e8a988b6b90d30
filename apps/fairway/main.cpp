// The program: one subcommand a job, one exit status a result.
//   0  the work was done          2  the command line or recipe is wrong
//   1  it could not be done; one line on stderr says what, where and what to do
// Under mpirun or srun every rank runs this; what one rank fails at ends all of them.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <system_error>
#include <thread>

#include "commands.h"
#include "fairway/base/check.h"
#include "fairway/comm/process_group.h"

namespace fairway {
namespace {

constexpr int kFailed = 1, kUsage = 2;
constexpr const char* kNoOutput = "cannot write to standard output; is the disk full?";

// How long a rank waits before it speaks: where several fail alike, the first of them ends the
// others before they do. On many ranks the last ones share a turn, so that all end soon.
std::chrono::milliseconds turn_to_speak(int rank) {
  return std::chrono::milliseconds(std::min(500 * rank, 4500));
}

int complain(const ProcessGroup* group, std::string message, int status) {
  if (group && group->size() > 1) {
    std::this_thread::sleep_for(turn_to_speak(group->rank()));
    message = fmt::format("rank {} of {}: {}", group->rank(), group->size(), message);
  }
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

// Only some commands have work to share out.
void require_one_rank(const CLI::App& app, const ProcessGroup& group) {
  static const std::set<std::string> kShared = {"fairway data build",
                                                "fairway train",
                                                "fairway quantize",
                                                "fairway eval",
                                                "fairway run",
                                                "fairway bench step",
                                                "fairway bench exchange",
                                                "fairway bench checkpoint"};
  const std::string path = command_path(app);
  if (group.size() > 1 && kShared.count(path) == 0)
    usage_fail("'{}' runs as one process: start it without mpirun or srun", path);
}

int run(int argc, char** argv, ProcessGroup& group) {
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
  add_data(app, group);
  add_train(app, group);
  add_quantize(app, group);
  add_eval(app, group);
  add_run(app, group);
  add_inspect(app);
  add_plan(app);
  add_bench(app, group);
  app.parse_complete_callback([&] { require_one_rank(app, group); });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    return complain(&group, fmt::format("{}; see '{} --help'", e.what(), command_path(app)),
                    kUsage);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) return complain(&group, kNoOutput, kFailed);
  return 0;
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) {
  using namespace fairway;
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error like a full disk
  std::unique_ptr<ProcessGroup> group;
  const auto complain = [&](const std::string& message, int status) {
    return fairway::complain(group.get(), message, status);
  };
  const int status = [&] {
    try {
      group = join_process_group();
      // What is said is said once, by rank 0; errors are every rank's own.
      if (!group->root() && !std::freopen("/dev/null", "w", stdout))
        fail("/dev/null: cannot be opened");
      return run(argc, argv, *group);
    } catch (const UsageError& e) {
      return complain(e.what(), kUsage);
    } catch (const SharedError& e) {
      if (!group->root()) group->broadcast(true);  // rank 0, which is done, ends this one
      return complain(e.what(), kFailed);
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
  }();
  // The other ranks wait for this one: they end with it.
  if (status != 0 && group) group->abort(status);
  return status;
}
