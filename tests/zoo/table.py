"""Results of the zoo in, docs/zoo.md out."""

from __future__ import annotations

from collections import Counter
from typing import Any

LIMIT = 8
"""GiB that each attempt of Torch-Pruning was given."""

HEAD = """# The zoo

What `compress.prune(model, inputs, ratio=0.5)` makes of networks it has never seen, and what Torch-Pruning 1.6.1 makes
of the same question (l2 magnitude over groups, told which layers give the outputs, otherwise as it comes). Both results
go through the value oracle of `tests/oracle`: every weight carries its own number, so that each surviving element tells
where it comes from; everything else is zeroed in the original, and in float64 the two must agree to 1e-9 (to 1e-6 where
the network's own code rounds to float32).

```
for source in {sources}; do
    python tests/zoo/zoo.py run $source
    python tests/zoo/zoo.py run $source --tools torch-pruning --seconds 90 --gib {gib}
done
python tests/zoo/zoo.py run torchvision regnet_x_8gf regnet_x_16gf regnet_x_32gf regnet_y_32gf --tools inside
python tests/zoo/zoo.py run timm resnest14d --tools inside
python tests/zoo/zoo.py table
```

{totals}

*left*: the share of the parameters that is left; in parentheses with `groups="inside"`, where whole groups of grouped
convolutions leave more than Torch-Pruning does, which cuts inside them; the last column compares these. *frozen*:
groups that stay whole, of all. *error*: the largest relative difference to the masked network, by the oracle in
float64. w: equal only in a second look, where means and variances that the network computes itself leave out what is
masked (to 1e-6). v: no oracle - above 100 million parameters, float32 only, or an average over what masking does not
make zero - but `prune`'s own verification. *s*: seconds for all of it, ours with verification, in float64 on one thread
of a machine that did other work beside; `benchmarks/peer.py` compares fairly. "not done after": cut off; "MemoryError":
it wanted more than {gib} GiB.
{older}"""


def page(results: dict[str, dict[str, Any]], known: dict[str, int], keys: dict[str, str]) -> str:
    """known: how many models each source names. keys: of results of the core as it is now, by source."""
    older = sum(
        found["compress"]["status"] == "ok" and found["compress"]["key"] != keys[source]
        for source, models in results.items()
        for found in models.values()
    )
    remark = f"{older} of the results are of an earlier version of the core, and were right then.\n" if older else ""
    parts = [HEAD.format(sources=" ".join(results), totals=totals(results, known), older=remark, gib=LIMIT)]
    for source, models in results.items():
        if models:
            parts += [f"## {source}\n", table(models), reasons(models), obstacles(models)]
    return "\n".join(part for part in parts if part)


def totals(results: dict[str, dict[str, Any]], known: dict[str, int]) -> str:
    """One row a source: how many models there are, were run, and came out how."""
    head = [
        "| source | models | run | cut and right | 0.45 or less left | groups frozen by verification | failed "
        "| Torch-Pruning right | ours at most 0.05 above its share |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = []
    for source, models in results.items():
        ours = [found["compress"] for found in models.values()]
        theirs = [found["torch-pruning"] for found in models.values() if found["torch-pruning"]]
        right = [found for found in ours if found["status"] == "ok"]
        counts = [
            known[source],
            len(ours),
            len(right),
            sum(found["left"] <= 0.45 for found in right),
            sum(len(found["by_verification"]) for found in right),
            len(ours) - len(right),
        ]
        both = [(f["inside"] or f["compress"], f["torch-pruning"]) for f in models.values() if f["torch-pruning"]]
        both = [(mine, other) for mine, other in both if other["status"] == "ok"]
        near = sum(mine["status"] == "ok" and mine["left"] <= other["left"] + 0.05 for mine, other in both)
        peer = f"{len(both)} of {len(theirs)} | {near} of {len(both)}"
        rows.append(f"| {source} | {' | '.join(map(str, counts))} | {peer} |")
    return "\n".join(head + rows)


def table(models: dict[str, Any]) -> str:
    rows = [
        "| model | parameters | groups | frozen | left | error | s | Torch-Pruning: left | s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in models.items():
        ours, inside, theirs = found["compress"], found["inside"], found["torch-pruning"]
        if ours["status"] == "ok":
            unfit = isinstance(ours["oracle"], str)
            error = f"{ours['error']:.0e} v" if unfit else f"{ours['oracle']:.0e}{' w' * ours['second_look']}"
            cells = [
                f"{ours['params'] / 1e6:.1f} M",
                str(ours["groups"]),
                str(sum(ours["frozen"].values())),
                f"{ours['left']:.2f}" + (f" ({inside['left']:.2f})" if inside else ""),
                error,
                f"{ours['seconds']:.1f}",
            ]
        else:
            cells = ["", "", "", f"fails: {shortened(ours['why'])}", "", ""]
        rows.append(f"| {name} | {' | '.join(cells)} | {torch_pruning_cells(theirs)} |")
    return "\n".join(rows) + "\n"


def torch_pruning_cells(theirs: dict[str, Any] | None) -> str:
    """What is left, and seconds."""
    if theirs is None:
        return "not run | "
    if theirs["status"] == "ok":
        left = f"{theirs['left']:.2f}{' (not compared)' if isinstance(theirs['oracle'], str) else ''}"
        return f"{left} | {theirs['seconds']:.1f}"
    return f"fails: {shortened(theirs['why'])} | "


def shortened(why: str) -> str:
    text = why.replace("|", "\\|").replace("\n", " ")
    return text if len(text) < 80 else text[:77] + "..."


def reasons(models: dict[str, Any]) -> str:
    """Why groups stay whole, over all models: reason, groups, models."""
    groups: Counter[str] = Counter()
    where: Counter[str] = Counter()
    for found in models.values():
        for reason, n in found["compress"].get("frozen", {}).items():
            groups[reason] += n
            where[reason] += 1
    if not groups:
        return ""
    rows = ["| why groups stay whole | groups | models |", "| --- | ---: | ---: |"]
    rows += [f"| {reason} | {n} | {where[reason]} |" for reason, n in groups.most_common()]
    return "\n".join(rows) + "\n"


def obstacles(models: dict[str, Any]) -> str:
    """For each model of which more than 0.45 is left: the groups in the way."""
    lines = []
    for name, found in models.items():
        ours = found["compress"]
        if ours["status"] == "ok" and ours["left"] > 0.45:
            rows = [f"{r['group']} ({r['reach']:.0%} of the parameters: {r['why']})" for r in ours["in_the_way"][:4]]
            lines.append(f"- {name}, {ours['left']:.2f} left: {'; '.join(rows) or 'no single group'}")
    return "\n".join(["More than 0.45 left, and what stands in the way:\n", *lines, ""]) if lines else ""
