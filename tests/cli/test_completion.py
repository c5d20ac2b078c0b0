"""Shell completion as bash does it: the script that the command prints, sourced, and asked what comes next."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a run, a recipe, and `compress` on the PATH."""
    run = tmp_path / "runs/hands-1"
    for stage in ("dense", "cut"):
        (run / stage).mkdir(parents=True)
        (run / stage / "plan.json").write_text("{}")
    (run / "measured").mkdir()
    (run / "recipe.yaml").write_text("")
    (tmp_path / "runs/notes").mkdir()
    (tmp_path / "yours.yaml").write_text("")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/compress"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m compress "$@"\n')
    command.chmod(0o755)
    return tmp_path


def bash(home: Path, script: str) -> list[str]:
    environment = {**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(home)}
    environment |= {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=home, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def complete(home: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in ("compress", *words))
    script = f"""
        source <(compress --show-completion bash)
        spec=$(complete -p compress); function=${{spec##*-F }}; function=${{function%% *}}
        COMP_WORDS=({line}); COMP_CWORD={len(words)}; COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}
        $function compress; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return [each for each in bash(home, script) if each]


def test_bash_completes_commands_recipes_runs_stages_and_options(home: Path) -> None:
    assert complete(home, "ex") == ["export"]
    assert complete(home, "check", "yolov3_h") == ["yolov3_hand"]
    assert complete(home, "check", "your") == ["yours.yaml"]
    assert complete(home, "detect", "runs/h") == ["runs/hands-1", "runs/hands-1/"]
    assert complete(home, "detect", "runs/hands-1", "--stage", "") == ["cut", "dense"]
    assert complete(home, "bench", "runs/hands-1", "--thr") == ["--threads"]


def test_completion_waits_for_no_heavy_import(tmp_path: Path) -> None:
    code = (
        "import sys; from compress.cli import main; main([]);"
        "print(*{'torch', 'numpy', 'scipy', 'pluggy', 'yaml'} & sys.modules.keys(), file=sys.stderr)"
    )
    asked = {"_COMPRESS_COMPLETE": "complete_bash", "COMP_WORDS": "compress check y", "COMP_CWORD": "2"}
    environment = {**os.environ, **asked}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert "yolov3_hand" in done.stdout.split() and done.stderr.strip() == "", done.stderr
