"""Installed distributions and local files in, a Registry of everything that has a name out."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from . import hookspecs
from .errors import CompressError, nearest
from .registry import DISABLE, KINDS, Kind, Registry, Source


def load(files: Iterable[Path] = ()) -> Registry:
    """The registry of every installed plugin and of the given files (executed; one content only once a process).

    A plugin that cannot be imported becomes one of `problems`. Raises CompressError where one is wrong in itself: a
    hook that does not exist, a thing of the wrong kind, a name that another one has, a file that fails.
    """
    manager = pluggy.PluginManager("compress")
    manager.add_hookspecs(hookspecs)
    sources: dict[str, Source] = {}
    found: dict[str, dict[str, Any]] = {kind.field: {} for kind in KINDS}
    owners: dict[tuple[str, str], Source] = {}
    problems: list[str] = []
    hashes: dict[Path, str] = {}

    for entry, source in _enabled(problems):
        if source.name in sources:
            raise CompressError(
                f"two plugins are called '{source.name}', of {sources[source.name].origin} and of {source.origin}; "
                f"uninstall one, or switch it off: {DISABLE}={entry.dist.name if entry.dist else source.name}"
            )
        sources[source.name] = source
        try:
            things = _register(manager, entry.load(), source)
        except CompressError:
            raise
        except (Exception, SystemExit) as error:
            problems.append(f"plugin {source} does not load: {_said(error)}; {source.cure}")
            continue
        _file(things, source, found, owners)
    for path in files:
        source = Source(path.stem, str(path), path)
        module, hashes[path] = _execute(path)
        try:
            things = _register(manager, module, source)
        except CompressError:
            raise
        except Exception as error:
            raise CompressError(f"plugin {source}: {_said(error)}; {source.cure}") from error
        _file(things, source, found, owners)
    return Registry(**found, hook=manager.hook, owners=owners, problems=tuple(problems), files=hashes)


@cache
def installed() -> Registry:
    """The registry of the installed plugins, loaded once."""
    return load()


def _enabled(problems: list[str]) -> list[tuple[EntryPoint, Source]]:
    """The entry points of group `compress` that the environment does not switch off."""
    off = {name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip()}
    kept, known = [], set()
    for entry in entry_points(group="compress"):
        distribution = entry.dist.name if entry.dist else "?"
        known |= {entry.name, distribution}
        if not off & {entry.name, distribution}:
            version = f" {entry.dist.version}" if entry.dist else ""
            kept.append((entry, Source(entry.name, distribution + version)))
    problems.extend(f"{DISABLE} names no plugin '{name}'{nearest(name, known)}" for name in sorted(off - known))
    return kept


def _execute(path: Path) -> tuple[ModuleType, str]:
    """Run a plugin file as a module of its own; the same content is run once a process."""
    try:
        code = path.read_bytes()
    except OSError as error:
        raise CompressError(f"plugin file {path}: {error.strerror}") from None
    sha256 = hashlib.sha256(code).hexdigest()
    name = f"compress_file_{path.stem}_{hashlib.sha256(bytes(path.resolve()) + code).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name], sha256
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CompressError(f"plugin file {path}: expected a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look the module of a class up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise CompressError(f"plugin file {path}{f':{line}' if line else ''}: {_said(error)}") from error
    return module, sha256


def _register(manager: pluggy.PluginManager, plugin: Any, source: Source) -> dict[str, list[Any]]:
    """What one plugin registers, by kind; its observers are hooked up."""
    try:
        manager.register(plugin, name=source.origin if source.file else source.name)
    except pluggy.PluginValidationError as error:
        raise CompressError(f"plugin {source}: {' '.join(str(error).split())}; {source.cure}") from None
    except ValueError:
        raise CompressError(f"plugin {source} is another plugin's module a second time; {source.cure}") from None
    hooks = manager.get_hookcallers(plugin) or []
    known = [name for name in vars(hookspecs) if name.startswith("compress_")]
    unmarked = [name for name in dir(plugin) if name.startswith("compress_register_")]
    for name in [hook.name for hook in hooks if not hook.has_spec()]:
        raise CompressError(f"plugin {source}: there is no hook '{name}'{nearest(name, known)}")
    for name in sorted(set(unmarked) - {hook.name for hook in hooks}):
        raise CompressError(f"plugin {source}: '{name}' lacks its decorator @hookimpl")
    if not hooks:
        raise LookupError("it implements no hook, e.g. @hookimpl def compress_register_criteria()")

    things: dict[str, list[Any]] = {}
    for kind in KINDS:
        call = _implementation(manager, kind.hook, source)
        if call is None:
            continue
        try:
            result = call()
        except Exception:
            manager.unregister(plugin)
            raise
        if not isinstance(result, list | tuple):
            raise CompressError(f"plugin {source}: {kind.hook} must return a list, not {type(result).__name__}")
        for thing in result:
            _hold(thing, kind, source)
        things[kind.field] = list(result)
    return things


def _implementation(manager: pluggy.PluginManager, hook: str, source: Source) -> Callable[[], Any] | None:
    name = source.origin if source.file else source.name
    implementations = getattr(manager.hook, hook).get_hookimpls()
    return next((each.function for each in implementations if each.plugin_name == name), None)


def _hold(thing: Any, kind: Kind, source: Source) -> None:
    """Raise CompressError unless `thing` is what a hook of that kind may return."""
    shown = getattr(thing, "__qualname__", repr(thing))
    if kind.interface:
        module, name = kind.interface.split(":")
        interface = getattr(import_module(f"{__package__}.{module}"), name)
        if not (isinstance(thing, type) and issubclass(thing, interface)):
            raise CompressError(f"plugin {source}: {kind.hook} must return subclasses of {name}, not {shown}")
        if "name" in {each.name for each in fields(thing)}:
            raise CompressError(f'plugin {source}: {shown}.name must be a plain `name = "..."` without a type')
    elif not callable(thing):
        raise CompressError(f"plugin {source}: {kind.hook} must return classes or functions, not {shown}")
    if not _names(thing, kind):
        cure = '`function.ops = ("an_aten_op",)`' if kind.field == "op_rules" else '`name = "..."` in its body'
        raise CompressError(f"plugin {source}: {shown} has no name; write {cure}")


def _names(thing: Any, kind: Kind) -> tuple[str, ...]:
    """What a thing is called: an op rule by the ops it speaks for, a Typer app and a class by their name."""
    if kind.field == "op_rules":
        return tuple(getattr(thing, "ops", ()))
    name = getattr(thing, "name", None) or getattr(getattr(thing, "info", None), "name", None)
    if isinstance(name, str) and name:
        return (name,)
    function = "" if isinstance(thing, type) else getattr(thing, "__name__", "")
    return (function.replace("_", "-"),) if function else ()


def _file(
    things: Mapping[str, list[Any]],
    source: Source,
    found: dict[str, dict[str, Any]],
    owners: dict[tuple[str, str], Source],
) -> None:
    """Put things under their names. Raises CompressError where a name is taken."""
    for kind in KINDS:
        named = [(name, thing) for thing in things.get(kind.field, []) for name in _names(thing, kind)]
        for name, thing in named:
            if name in found[kind.field]:
                other = owners[kind.field, name]
                raise CompressError(
                    f"two plugins register a {kind.singular} called '{name}': {other} and {source}; {source.cure}"
                )
            found[kind.field][name] = thing
            owners[kind.field, name] = source


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
