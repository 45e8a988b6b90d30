// fairway train: shards → RUN/model.safetensors.

#include <memory>
#include <string>

#include "commands.h"
#include "fairway/data/shard.h"
#include "fairway/train/run.h"
#include "recipe_options.h"

namespace fairway {

void add_train(CLI::App& app, ProcessGroup& group) {
  struct Options {
    std::string recipe, out;
    bool restart = false, memory = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "train",
      "Train a model on shards, as a recipe says. Ctrl-C writes a checkpoint and "
      "stops (under mpirun, send it SIGUSR1); the same command continues from it");
  add_recipe_options(*command, options->recipe);
  command
      ->add_option("--out", options->out,
                   "directory of the run: model.safetensors (the moving average of the weights), "
                   "metrics.jsonl (one line a step), checkpoints/. One that holds checkpoints is "
                   "continued from the newest")
      ->required()
      ->type_name("RUN");
  command->add_flag("--restart", options->restart,
                    "delete what an earlier run left in RUN and start over");
  command->add_flag("--memory", options->memory, "print the memory taken, by name");
  command->callback([options, command, &group] {
    const Recipe recipe = chosen_recipe(*command, options->recipe);
    check_tokenizer(recipe, find_shards(recipe.data.train));
    TrainRun run;
    run.model = recipe.model;
    run.data = recipe.data;
    run.optim = recipe.optim;
    run.train = recipe.train;
    run.out = options->out;
    run.restart = options->restart;
    run.memory_report = options->memory;
    run.group = &group;
    train(run);
  });
}

}  // namespace fairway
