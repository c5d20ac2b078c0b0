"""Every key that a recipe may have at its top, with its meaning: what recipes are checked with, and their reference."""

KEYS = {
    "version": "`1`, the only version of recipes there is. Required.",
    "name": "A word that runs are called after: `runs/NAME-TIME`. Required.",
    "extends": "Another recipe, by path or by the name of a shipped one, that this one is laid over.",
    "plugins": "Python files whose plugins the recipe uses. Their code is run; the run keeps their hashes.",
    "model": "The network: a model by name, or `{uses: name, option: value}`. Required.",
    "data": "The images: a dataset, in the same way. Required.",
    "fallback_data": "A dataset in place of `data` where that is missing, unless the command line chose it.",
    "task": "Loss and metrics: a task. Default: the one that the model names.",
    "policy": "Which channels stay whole although they could be cut: a policy. Default: none; the graph alone decides.",
    "stages": "What is done, in order: a list of `{id: ..., uses: ..., option: value}`. Required.",
    "expect": "What the result must keep: `{metric: {min: number, max: number}}`, one or both. Missed: exit code 1.",
    "seed": "Decides weights, order and augmentation: a whole number. Default: `0`.",
    "threads": "CPU threads. Default: torch's own number.",
    "device": "`cpu`, `cuda`, or `auto`: a GPU where there is one. Default: `auto`.",
    "profiles": "Name -> what is laid over the recipe when that profile is chosen; stages are changed by their id.",
    "profile": "The profile without `--profile`. Default: `auto`, which takes `full` on a machine with a GPU and "
    "the data, and `quick` on any other.",
}
IN_PROFILE = ("seed", "threads", "device", "model", "data", "fallback_data", "task", "policy", "stages", "expect")
"""Keys that a profile may change."""
