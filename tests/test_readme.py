"""The plugins that README and docs show: each is loaded, held against the conformance kit, and used in a run."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import compress
from compress import hookspecs, testing
from compress.cli import main
from compress.plugins import load

ROOT = Path(__file__).parents[1]
PLUGIN = re.compile(r"<!-- plugin: (\S+\.py) -->\n```python\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"(?<!-->\n)^```python\n(.*?)```", re.DOTALL | re.MULTILINE)
README = ROOT / "README.md"
PAGE = ROOT / "docs/plugins.md"
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("compress_")}


def plugins(page: Path) -> dict[str, str]:
    """File name -> code of the plugins that a page shows."""
    return dict(PLUGIN.findall(page.read_text(encoding="utf-8")))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The plugins of README and docs/plugins.md as files in the folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    for name, code in {**plugins(README), **plugins(PAGE)}.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    return {path.name: path for path in sorted(tmp_path.glob("*.py"))}


def test_every_hook_has_its_arguments_and_an_example_on_the_page() -> None:
    text, code = PAGE.read_text(encoding="utf-8"), "\n".join(plugins(PAGE).values())
    for name, hook in HOOKS.items():
        arguments = ", ".join(inspect.signature(hook).parameters)
        assert f"`{name}({arguments})`" in text, f"docs/plugins.md does not show `{name}({arguments})`"
        assert f"@hookimpl\ndef {name}(" in code, f"docs/plugins.md has no example of {name}"


def test_every_example_is_loaded_and_registers_something(files: dict[str, Path]) -> None:
    registry = load(files.values())
    assert {path.name for path in registry.files} == set(files) and len(files) >= 12
    sources = {source.file for source in registry.owners.values()}
    assert {path for path in files.values() if path.name != "diary.py"} <= sources


def test_the_examples_conform(files: dict[str, Path], tmp_path: Path) -> None:
    registry = load(files.values())

    def mine(kind: str) -> list[Any]:
        owned = [name for (field, name), source in registry.owners.items() if field == kind and source.file]
        return [registry.make(kind, name) for name in owned]

    for criterion in mine("criteria"):
        testing.check_criterion(criterion)
    for regularizer in mine("regularizers"):
        testing.check_regularizer(regularizer)
    (architecture,), (dataset,), (task,) = mine("architectures"), mine("datasets"), mine("tasks")
    testing.check_architecture(architecture, 2, (32, 32))
    testing.check_task(task, architecture.build(2, (32, 32)), testing.check_dataset(dataset))
    for distillation in mine("distillations"):
        testing.check_distillation(distillation)
    for policy in mine("policies"):
        testing.check_policy(policy, *testing.small_network())
    for exporter in mine("exporters"):
        (tmp_path / "out").mkdir()
        testing.check_exporter(exporter, *testing.small_network(), tmp_path / "out")
    for plugin in [*mine("stages"), *mine("compensations")]:
        testing.check_plugin(plugin)


RECIPE = """\
version: 1
name: everything
plugins: [{files}]
model: resnet
data: {{uses: stripes, images: 16}}
policy: {{uses: wide-only, least: 100}}
stages:
  - {{id: sparse, uses: sparsify, regularizer: filter-lasso, epochs: 1, batch_size: 8}}
  - {{id: smallest, uses: prune, criterion: my-l1, ratio: 0.3}}
  - {{id: pruned, uses: prune, criterion: my-taylor, ratio: 0.3, calibration: 1}}
  - {{id: sums, uses: checksums}}
  - {{id: written, uses: export, formats: [pt2]}}
  - {{id: evaluate, uses: evaluate, seconds: 0.1}}
  - {{id: report, uses: report}}
"""


def test_a_run_uses_the_examples(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    Path("all.yaml").write_text(RECIPE.format(files=", ".join(files)))
    assert main(["run", "all.yaml", "--out", "one"]) == 0, capsys.readouterr().err
    diary = Path("one/diary.txt").read_text().splitlines()
    assert diary[0] == "sparse begins" and diary[1].startswith("sparse, epoch 1: loss ") and "sums is done" in diary
    assert re.fullmatch(r"finished with \d+ parameters", diary[-1])
    assert Path("one/written/pt2/model.pt2").is_file()
    compress_file = load(files.values()).commands["largest"]
    capsys.readouterr()
    compress_file(Path("one"), rows=2)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_compensation_keeps_each_filters_norm(files: dict[str, Path]) -> None:
    model, example = testing.small_network()
    graph = compress.trace(model, example)
    keep_norm = load([files["keep_norm.py"]]).make("compensations", "keep-norm")
    plan = compress.plan(graph, "l1", ratio=0.5)
    plain, kept = compress.apply(model, graph, plan), compress.apply(model, graph, plan, compensate=keep_norm)
    for name, select in plain.edits.select.items():
        if 1 in select and 0 not in select:
            before, after = (net.get_parameter(name).flatten(1).norm(dim=1) for net in (model, kept.model))
            torch.testing.assert_close(before, after)
            assert (plain.model.get_parameter(name).flatten(1).norm(dim=1) < before).all()


def test_the_op_rule_frees_what_was_frozen(files: dict[str, Path]) -> None:
    @torch.library.custom_op("demo::scaled", mutates_args=())
    def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    scaled.register_fake(lambda x, factor: torch.empty_like(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.ops.demo.scaled(self.first(x), 2.0))

    model, example = Net(), torch.rand(1, 3, 8, 8)
    without = compress.trace(model, example)
    assert "demo::scaled" in without.explain() and without["first"].frozen is not None
    graph = compress.trace(model, example, rules=load([files["scaled.py"]]).op_rules)
    assert graph["first"].frozen is None
    pruned = compress.apply(model, graph, compress.plan(graph, "l1", ratio=0.5))
    assert pruned.model.get_parameter("first.weight").shape == (4, 3, 3, 3)


def test_the_readme_shows_a_criterion_and_its_python_runs(files: dict[str, Path]) -> None:
    assert list(plugins(README)) == ["my_criterion.py"]
    code = "\n".join(PYTHON.findall(README.read_text(encoding="utf-8")))
    assert "compress.prune(" in code and "compress.load(" in code
    exec(compile(code, "README.md", "exec"), {})
