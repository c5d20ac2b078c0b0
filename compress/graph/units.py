"""Labels in, units and groups out: connected components of the equalities, grouped by the places where they occur."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .graph import Frozen, Group, Link, Member
from .labels import Array, Labels


@dataclass(frozen=True)
class Units:
    """groups, and of_label: (labels,) the global unit number of each label; n_units stands for 'always there'."""

    groups: tuple[Group, ...]
    of_label: Array
    n_units: int


def components(count: int, edges: Iterable[tuple[Array, Array]]) -> Array:
    """(count,) component number of each label."""
    pairs = list(edges)
    if not pairs:
        return np.arange(count)
    left = np.concatenate([a for a, _ in pairs])
    right = np.concatenate([b for _, b in pairs])
    graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def form(labels: Labels, parameters: Collection[str]) -> Units:
    """Components -> units -> groups. Everything resolved before; labels that no parameter holds are always there.

    parameters: names; every other tensor in which units occur is a buffer.
    """
    component = components(labels.count, labels.edges)
    n = int(component.max()) + 1 if labels.count else 0
    names, place_labels, place_of = _places(labels)
    reasons = _freeze(labels, component, component[place_labels])
    if not len(place_labels):
        return Units((), np.zeros(labels.count, dtype=np.int64), 0)
    in_place = component[place_labels]  # (entries,) component of every index of every place
    signature = _signatures(in_place, place_of, reasons, len(names))
    used = np.flatnonzero(np.bincount(in_place))
    first_entry = np.full(n, len(in_place))
    np.minimum.at(first_entry, in_place, np.arange(len(in_place)))
    order = used[np.argsort(first_entry[used])]  # units in the order in which they first occur
    _, first_of, group_of = np.unique(signature[order], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first_of))[group_of]  # group number in order of first occurrence
    sizes = np.bincount(rank)
    by_group = order[np.argsort(rank, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    unit_of_component = np.full(n + 1, len(by_group))
    hidden = np.flatnonzero(reasons.of[by_group[starts[:-1]]] == 0)
    shown = np.setdiff1d(np.arange(len(sizes)), hidden)
    position = 0
    for g in shown:
        members = by_group[starts[g] : starts[g + 1]]
        unit_of_component[members] = np.arange(position, position + len(members))
        position += len(members)
    unit_of_component[unit_of_component >= len(by_group)] = position
    for g in hidden:
        unit_of_component[by_group[starts[g] : starts[g + 1]]] = position
    of_label = unit_of_component[component]
    sizes_shown = [int(sizes[g]) for g in shown]
    said = [reasons[by_group[starts[g]]] for g in shown]
    groups = _groups(labels, parameters, names, place_labels, place_of, of_label, sizes_shown, said)
    return Units(_with_links(labels, groups, of_label, position), of_label, position)


@dataclass(frozen=True)
class Reasons:
    """Why components are frozen. of: (components,) positions in `words`, -1 where they are not; words[0] is None."""

    of: Array
    words: list[str | None]

    def __getitem__(self, component: int) -> str | None:
        """The reason; None where there is none, or none worth a word."""
        return self.words[max(self.of[component], 0)]


def _freeze(labels: Labels, component: Array, in_place: Array) -> Reasons:
    """Why each component is frozen (the first reason that is worth a word). Links carry freezing across."""
    numbers: dict[str | None, int] = {None: 0}
    of = np.full(int(component.max(initial=-1)) + 1, -1)

    def number(reason: str | None) -> int:
        return numbers.setdefault(reason, len(numbers))

    for found, reason in labels.pins:
        mine = component[found]
        of[mine[of[mine] <= (-1 if reason is None else 0)]] = number(reason)  # a word replaces none
    links = [([component[slot] for slot in slots], reason) for slots, reason in labels.links]
    if links:
        linked = np.concatenate([slot for slots, _ in links for slot in slots])
        placed = np.zeros(len(of), dtype=bool)
        placed[in_place] = True
        of[linked[~placed[linked] & (of[linked] < 0)]] = number("it stands for no channel of this network")
    moved = True
    while moved:
        moved = False
        for slots, reason in links:
            stacked = _align(slots, of >= 0)
            frozen = of[stacked] >= 0
            columns = frozen.any(axis=0) & ~frozen.all(axis=0)
            if columns.any():
                of[stacked[:, columns][~frozen[:, columns]]] = number(f"{reason}, and one of them stays")
                moved = True
    return Reasons(of, list(numbers))


def _align(slots: list[Array], frozen: Array) -> Array:
    """The slots of a link as rows, (slots, n): what stays comes first, then by number, so that equals meet.

    frozen: bool, by the numbers that stand in the slots.
    """
    return np.stack([slot[np.lexsort((slot, ~frozen[slot]))] for slot in slots])


def _places(labels: Labels) -> tuple[list[tuple[str, int]], Array, Array]:
    """Names of the places; over all their indices: labels, and place numbers."""
    names = list(labels.places)
    if not names:
        return names, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    arrays = [labels.places[name] for name in names]
    return names, np.concatenate(arrays), np.repeat(np.arange(len(arrays)), [len(a) for a in arrays])


def _signatures(in_place: Array, place_of: Array, reasons: Reasons, places: int) -> Array:
    """(components,) equal for two that occur equally often in the same places and are frozen for the same reason."""
    generator = np.random.default_rng(0)
    keys = generator.integers(1, 2**62, size=places, dtype=np.uint64)
    words = generator.integers(1, 2**62, size=len(reasons.words), dtype=np.uint64)
    signature = np.append(words, np.uint64(0))[reasons.of]  # -1 reads the zero
    np.add.at(signature, in_place, keys[place_of])
    return signature


def _groups(
    labels: Labels,
    parameters: Collection[str],
    names: list[tuple[str, int]],
    place_labels: Array,
    place_of: Array,
    of_label: Array,
    sizes: list[int],
    reasons: list[str | None],
) -> list[Group]:
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    group_of = np.repeat(np.arange(len(sizes) + 1), [*sizes, 1])  # (units + 1,), the last for what is in no group
    first_index = np.searchsorted(place_of, np.arange(len(names)))
    unit = of_label[place_labels]
    entries = np.flatnonzero(unit < starts[-1])
    group = group_of[unit[entries]]
    order = np.argsort(group.astype(np.min_scalar_type(len(sizes))), kind="stable")  # 16 bits are sorted in one go
    group, entries = group[order], entries[order]
    key = group * len(names) + place_of[entries]  # places were in order already
    index = entries - first_index[place_of[entries]]  # position along its dimension
    unit = unit[entries] - starts[group]
    members: dict[int, list[Member]] = defaultdict(list)
    bounds = [*np.flatnonzero(np.diff(key, prepend=-1)).tolist(), len(key)]
    for here, (low, high) in zip(key[bounds[:-1]].tolist(), pairwise(bounds), strict=True):
        g, place = divmod(here, len(names))
        name, dim = names[place]
        role = labels.roles.get((name, dim), "other")
        members[g].append(Member(name, dim, index[low:high], unit[low:high], role, name not in parameters))
    frozen = [Frozen(reason) if reason else None for reason in reasons]
    titles = _titles([members[g] for g in range(len(sizes))])
    return [
        Group(title, size, tuple(members[g]), (), freeze)
        for g, (title, size, freeze) in enumerate(zip(titles, sizes, frozen, strict=True))
    ]


def _titles(members: list[list[Member]]) -> list[str]:
    """A name for each group: the module that first produces it, with the range where several share that module."""
    firsts = [next((m for m in mine if m.role == "out"), mine[0]) for mine in members]
    titles = []
    for first in firsts:
        module, _, leaf = first.name.rpartition(".")
        titles.append(module if leaf == "weight" and first.role in ("out", "norm") and module else first.name)
    shared = {title for title, times in Counter(titles).items() if times > 1}
    for g, first in enumerate(firsts):
        if titles[g] in shared:
            low, high = int(first.index.min()), int(first.index.max()) + 1
            spread = "" if high - low == len(first.index) else f"/{len(first.index)}"
            at = f",dim{first.dim}" if first.role not in ("out", "norm") else ""
            titles[g] = f"{titles[g]}[{low}:{high}{spread}{at}]"
    seen: dict[str, int] = {}
    for g, title in enumerate(titles):
        seen[title] = seen.get(title, 0) + 1
        if seen[title] > 1:
            titles[g] = f"{title}#{seen[title]}"
    return titles


def _with_links(labels: Labels, groups: list[Group], of_label: Array, n_units: int) -> tuple[Group, ...]:
    """Links between units of groups, cut into runs so that every slot of a link lies in one group."""
    starts = np.concatenate([[0], np.cumsum([group.size for group in groups])]).astype(np.int64)
    mine: dict[int, list[Link]] = defaultdict(list)
    stays = np.append(np.repeat([group.frozen is not None for group in groups], np.diff(starts)), True)  # (units + 1,)
    for slots, reason in labels.links:
        units = _align([of_label[slot] for slot in slots], stays)
        if (units == units[:1]).all():
            continue
        group = np.searchsorted(starts, units, side="right") - 1
        free = ~stays[units].any(axis=0)
        patterns = np.unique(group.T[free], axis=0)
        for pattern in patterns:
            columns = free & (pattern == group.T).all(axis=1)
            link = Link(tuple((groups[g].name, units[k, columns] - starts[g]) for k, g in enumerate(pattern)), reason)
            for g in set(pattern.tolist()):
                mine[g].append(link)
    return tuple(
        Group(g.name, g.size, g.members, tuple(mine[i]), g.frozen) if mine[i] else g for i, g in enumerate(groups)
    )
