"""A plugin class in, what its docstrings say about it and about each of its options out."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise

from .options import Plugin

ENTRY = re.compile(r"(?:^|(?<=\.\s))(\w+(?:,\s\w+)*):\s+(?=\S)", re.MULTILINE)
"""`lr: ` or `heads, groups: ` at the start of a line or of a sentence."""


def introduction(cls: type[Plugin]) -> str:
    """The class docstring without what it says about single options."""
    names = {field.name for field in fields(cls)}
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    return "\n\n".join(filter(None, (_split(paragraph, names)[0] for paragraph in paragraphs)))


def meanings(cls: type[Plugin]) -> dict[str, str]:
    """Option -> what it means; an option that nothing is said about is left out.

    It is said by a docstring below the field, or by `option: what it means.` in the docstring of a class that has the
    option; several options may share it (`heads, groups: ...`). What a class says itself goes before what it inherits.

    >>> class Blur(Plugin):
    ...     '''Blurs. sigma: the width, in pixels.'''
    ...     name = "blur"
    ...     sigma: float = 1.0
    >>> meanings(Blur), introduction(Blur)
    ({'sigma': 'The width, in pixels.'}, 'Blurs.')
    """
    names = {field.name for field in fields(cls)}
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        for paragraph in inspect.cleandoc(each.__dict__.get("__doc__") or "").split("\n\n"):
            found |= _split(paragraph, names)[1]
        found |= {name: text for name, text in _below_fields(each) if name in names}
    return {name: text[:1].upper() + text[1:] for name, text in found.items()}


def _split(paragraph: str, names: set[str]) -> tuple[str, dict[str, str]]:
    """What stands before the first entry about one of the names, and what each entry says, on one line."""
    entries = [match for match in ENTRY.finditer(paragraph) if names.issuperset(re.split(r",\s", match[1]))]
    found: dict[str, str] = {}
    end = len(paragraph)
    for match in reversed(entries):
        said = " ".join(paragraph[match.end() : end].split())
        found = dict.fromkeys(re.split(r",\s", match[1]), said) | found
        end = match.start()
    return paragraph[:end].strip(), found


def _below_fields(cls: type) -> Iterator[tuple[str, str]]:
    """(field, its docstring): a string alone on the line below an annotated name, as attributes are documented."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # built in, or typed into a shell
        return
    (definition,) = ast.parse(textwrap.dedent(source)).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for pair in pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())
