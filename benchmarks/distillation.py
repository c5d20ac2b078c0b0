"""The digits recipe's network, cut, in; what fine-tuning gets back with and without a teacher out, as a table.

    python benchmarks/distillation.py

Baseline, sparse network and cut are those of recipes/digits.yaml, but for the ratio; every row is fine-tuned from the
same cut, with the recipe's settings. One thread; accuracy on the 360 validation images: mean over the seeds, and in
brackets that of each seed less what the row without a teacher reached with it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from compress.recipes import load
from compress.stages import run
from compress.training.journal import read

POINTS = "[features.6, features.13, features.19]"
ROWS = {  # stage id -> what it says beside the settings of every row
    "alone": "",
    "logits-of-sparse": ", teacher: sparse, distill: logits",
    "logits-of-baseline": ", teacher: baseline, distill: logits",
    "features-of-sparse": f", teacher: sparse, distill: {{uses: features, points: {POINTS}}}",
    "both-of-sparse": f", teacher: sparse, distill: [logits, {{uses: features, points: {POINTS}}}]",
}
RECIPE = """
version: 1
name: distillation
seed: {seed}
threads: 1
device: cpu
model: {{uses: vgg-cifar, depth: 11, width: 0.125}}
data: {{uses: digits}}
stages:
  - {{id: baseline, uses: train, start: fresh, epochs: 20, batch_size: 64, lr: 0.1, weight_decay: 1e-4,
     validate_every: 20}}
  - {{id: sparse, uses: sparsify, start: fresh, epochs: 12, batch_size: 64, lr: 0.1, weight_decay: 1e-4,
     regularizer: {{uses: network-slimming, share: 0.6, by: 0.7}}, strength: auto, validate_every: 12}}
{cuts}
"""
CUT = """
  - {{id: pruned-{ratio}, uses: prune, start: sparse, criterion: bn-gamma, scope: global, ratio: {ratio},
     compensate: fold}}"""
ROW = """
  - {{id: {id}-{ratio}, uses: finetune, start: pruned-{ratio}, epochs: {epochs}, batch_size: 64, lr: 0.02,
     weight_decay: 1e-4, validate_every: {epochs}{more}}}"""


def measure(seed: int, ratios: list[float], epochs: int, folder: Path) -> dict[str, float]:
    """Stage id -> accuracy of one seed."""
    cuts = [
        CUT.format(ratio=ratio)
        + "".join(ROW.format(id=id, ratio=ratio, epochs=epochs, more=more) for id, more in ROWS.items())
        for ratio in ratios
    ]
    recipe = folder / f"seed-{seed}.yaml"
    recipe.write_text(RECIPE.format(seed=seed, cuts="".join(cuts)))
    out = run.start(load(recipe), folder / f"seed-{seed}").folder
    return {file.parent.name: read(file.parent)[-1]["val_accuracy"] for file in out.glob("*/metrics.jsonl")}


def row(found: list[dict[str, float]], id: str, ratio: float) -> str:
    values, alone = ([each[f"{name}-{ratio}"] for each in found] for name in (id, "alone"))
    against = ", ".join(f"{a - b:+.4f}" for a, b in zip(values, alone, strict=True))
    return f"{statistics.mean(values):.4f}" + (f" ({against})" if id != "alone" else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.6, 0.75], help="of the channels that go")
    parser.add_argument("--epochs", type=int, default=8, help="of fine-tuning")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(seed, options.ratios, options.epochs, Path(folder)) for seed in range(options.seeds)]
    for id in ("baseline", "sparse"):
        print(f"{id}: {statistics.mean(each[id] for each in found):.4f}")
    print("| fine-tuned | " + " | ".join(f"{ratio:.0%} of the channels cut" for ratio in options.ratios) + " |")
    print("| --- |" + " ---: |" * len(options.ratios))
    for id in ROWS:
        print(f"| {id} | " + " | ".join(row(found, id, ratio) for ratio in options.ratios) + " |")


if __name__ == "__main__":
    main()
