"""safetensors files in, a mapping of names to tensors out: each is read when it is asked for, and none is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CompressError, nearest


class Shards(Mapping[str, Tensor]):
    """The tensors of a safetensors file, or of all that lie in a folder, by name.

    Opening reads the headers only. Raises CompressError where there is no such file, one is broken, or two hold
    a tensor of the same name.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        path = Path(path)
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files or not files[0].exists():
            raise CompressError(f"weights: no safetensors file at {path}; give a file or a folder of shards")
        self._file: dict[str, Path] = {}
        for file in files:
            for name in self._names(file):
                if name in self._file:
                    raise CompressError(f"weights: '{name}' is in {self._file[name].name} and in {file.name}")
                self._file[name] = file

    @staticmethod
    def _names(file: Path) -> list[str]:
        try:
            with safe_open(file, framework="pt") as shard:
                return list(shard.keys())
        except (SafetensorError, OSError) as error:
            raise CompressError(f"weights: {file} is no safetensors file: {str(error).splitlines()[0]}") from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._file:
            raise KeyError(f"no tensor '{name}'{nearest(name, self._file)}")
        with safe_open(self._file[name], framework="pt") as shard:
            return shard.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)
