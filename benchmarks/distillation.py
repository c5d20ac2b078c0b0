"""The digits recipe's network, cut hard, in; what fine-tuning gets back with and without a teacher out, as a table.

    python benchmarks/distillation.py

Baseline, sparse network and cut are those of recipes/digits.yaml, but for the ratio; every row is fine-tuned from the
same cut, with the same settings. One thread; accuracy on the 360 validation images, mean and range over the seeds.
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
    "logits-of-sparse": "teacher: sparse, distill: logits",
    "logits-of-baseline": "teacher: baseline, distill: logits",
    "features-of-sparse": f"teacher: sparse, distill: {{uses: features, points: {POINTS}}}",
    "both-of-sparse": f"teacher: sparse, distill: [logits, {{uses: features, points: {POINTS}}}]",
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
  - {{id: pruned, uses: prune, start: sparse, criterion: bn-gamma, scope: global, ratio: {ratio}, compensate: fold}}
{rows}
"""
ROW = """  - {{id: {id}, uses: finetune, start: pruned, epochs: {epochs}, batch_size: 64, lr: 0.02, weight_decay: 1e-4,
     validate_every: {epochs}{more}}}"""


def measure(seed: int, ratio: float, epochs: int, folder: Path) -> dict[str, float]:
    """Stage id -> accuracy of one seed."""
    rows = [ROW.format(id=id, epochs=epochs, more=f", {more}" if more else "") for id, more in ROWS.items()]
    recipe = folder / f"seed-{seed}.yaml"
    recipe.write_text(RECIPE.format(seed=seed, ratio=ratio, rows="\n".join(rows)))
    out = run.start(load(recipe), folder / f"seed-{seed}").folder
    return {id: read(out / id)[-1]["val_accuracy"] for id in ("baseline", "sparse", *ROWS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--ratio", type=float, default=0.9, help="of the channels that go")
    parser.add_argument("--epochs", type=int, default=8, help="of fine-tuning")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(seed, options.ratio, options.epochs, Path(folder)) for seed in range(options.seeds)]
    print("| network | accuracy | lowest | highest |")
    print("| --- | ---: | ---: | ---: |")
    for id in found[0]:
        values = [each[id] for each in found]
        print(f"| {id} | {statistics.mean(values):.4f} | {min(values):.4f} | {max(values):.4f} |")


if __name__ == "__main__":
    main()
