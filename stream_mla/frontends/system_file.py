"""The form of a system file, which differs from `Accelerator` in four conveniences.

Cores come in groups of `count` identical ones, with their type in a file of its own or in place; the end of a
link may be a whole group; a link's bandwidth may be per cycle of the clock; a `mesh` stands for all links of a grid.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, cast

from stream_mla.errors import quoted
from stream_mla.frontends.schema import FAILED, Reader, join, unstructure
from stream_mla.hardware.accelerator import DRAM, Accelerator, Core, CoreType, Dram, Link, LinkKind
from stream_mla.units import (
    BITS_PER_CYCLE,
    BITS_PER_SECOND,
    Hertz,
    PicojoulesPerBit,
    Seconds,
    Unit,
    parse,
    within,
)

_MOST_CORES = 512
"""A system has at most this many cores; the largest GPU has 304. The route between every two of them is kept, 260,000
routes at this number, and a slip in `count` is reported rather than filling the memory."""

ReadFile = Callable[[str, Reader], object]
"""A function that returns the data in a file named in the system file, or FAILED after it noted the problem."""


@dataclass(frozen=True, kw_only=True)
class _CoreFile:
    """Stands for text such as `cores/NAME.yaml`, which is read as the core type in that file."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    """`count` identical cores; `file` or `type` gives their type."""

    name: str
    count: int
    file: _CoreFile | None
    type: CoreType | None


class _End:
    """Stands for `dram`, a core, or a group of cores; it is read as a tuple of their names."""


class _Bandwidth:
    """Stands for a bandwidth per second or per cycle; it is read as bit/s."""


@dataclass(frozen=True, kw_only=True)
class _LinkEntry:
    name: str
    kind: LinkKind
    ends: tuple[_End, ...]
    bandwidth: _Bandwidth
    port_bandwidth: _Bandwidth
    latency: Seconds
    energy: PicojoulesPerBit


_MESH = "mesh"
"""The kind of an entry that stands for many links."""


@dataclass(frozen=True, kw_only=True)
class _MeshEntry:
    """Ends row by row, `columns` in each; every field of the links between neighbours but their ends."""

    name: str
    ends: tuple[_End, ...]
    columns: int
    bandwidth: _Bandwidth
    port_bandwidth: _Bandwidth
    latency: Seconds
    energy: PicojoulesPerBit


class _Links:
    """Stands for an entry of the list of links; it is read as a tuple of links."""


@dataclass(frozen=True, kw_only=True)
class _System:
    name: str
    source: str
    clock: Hertz
    cores: tuple[_Group, ...]
    dram: Dram
    links: tuple[_Links, ...]


class SystemReader(Reader):
    """Reads a system file and the core files it names, with the problems of all of them in one list."""

    def __init__(self, read_file: ReadFile) -> None:
        super().__init__({})
        self._read_file = read_file
        self._type_of_file: dict[str, CoreType | None] = {}
        self._clock: float | None = None
        self._cores_of: dict[str, tuple[str, ...]] = {}
        self._taken = {DRAM}
        """The names of the DRAM, of groups and of cores."""
        self._cores_known = False

    def read(self, hint: Any, value: object, path: str) -> Any:
        """Read as `Reader` does, and each part of a system file in its own form."""
        if hint is Accelerator:
            return self._accelerator(value)
        special: Mapping[Any, Callable[[object, str], Any]] = {
            _Group: self._group,
            _CoreFile: self._core_file,
            CoreType: self._core_type,
            _Links: self._links,
            LinkKind: self._link_kind,
            _End: self._end,
            _Bandwidth: self._bandwidth,
        }
        if isinstance(hint, type) and hint in special:
            return special[hint](value, path)
        found = super().read(hint, value, path)
        if path == "clock" and isinstance(found, float):
            # Accelerator refuses it too, but only after the links, which cannot be read without a clock.
            if found <= 0:
                return self.add("clock must be > 0, got 0", path)
            self._clock = found
        if path == "cores" and found == ():
            return self.add("cores must name at least one core", path)
        if path == "cores" and found is not FAILED:
            self._cores_known = True
        return found

    def _accelerator(self, value: object) -> Any:
        system = self.dataclass(_System, value, "")
        if system is FAILED or self.problems:
            return FAILED
        cores = [
            Core(name=name, type=group.type or group.file)
            for group in system.cores
            for name in self._cores_of[group.name]
        ]
        return self.construct(
            Accelerator,
            {
                "name": system.name,
                "source": system.source,
                "clock": system.clock,
                "cores": tuple(cores),
                "dram": system.dram,
                "links": tuple(link for links in system.links for link in links),
            },
            "",
        )

    def _group(self, value: object, path: str) -> Any:
        group = self.dataclass(_Group, value, path)
        if group is FAILED:
            return FAILED
        given = [key for key in ("file", "type") if key in cast(dict[object, object], value)]
        if len(given) != 1:
            self.add(f"got {' and '.join(given) or 'neither file nor type'}: give one of the two", path)
        left = _MOST_CORES - sum(map(len, self._cores_of.values()))
        if not 1 <= group.count <= left:
            most = f"{max(left, 0)} (a system has at most {_MOST_CORES:,} cores)"
            return self.add(f"count must be from 1 to {most}, got {quoted(group.count)}", join(path, "count"))
        names = _core_names(group.name, group.count)
        if clash := next((name for name in (group.name, *names) if name in self._taken), None):
            return self.add(f"the name {clash!r} is taken: use another", join(path, "name"))
        self._cores_of[group.name] = names
        self._taken |= {group.name, *names}
        return group

    def _core_file(self, value: object, path: str) -> CoreType | None:
        """Read the core type in a file; None after a problem, so that the group still counts and links may name it."""
        if not isinstance(value, str):
            self.add(f"expected the path of a core file, got {quoted(value)}: write text", path)
            return None
        if value not in self._type_of_file:
            reader = Reader({}, file=value)
            data = self._read_file(value, reader)
            core: Any = FAILED if data is FAILED else reader.read(CoreType, data, "")
            self._type_of_file[value] = None if core is FAILED else core
            self.problems += reader.problems
        return self._type_of_file[value]

    def _core_type(self, value: object, path: str) -> CoreType | None:
        core = self.dataclass(CoreType, value, path)
        return None if core is FAILED else core

    def _links(self, value: object, path: str) -> Any:
        if isinstance(value, dict):
            data = dict(cast(dict[object, object], value))
            if data.get("kind") == _MESH:
                del data["kind"]
                return self._mesh(data, path)
        entry: Any = self.dataclass(_LinkEntry, cast(object, value), path)
        if entry is FAILED or not self._cores_known:
            return FAILED
        values = cast(dict[str, object], vars(entry))
        link = self.construct(Link, values | {"ends": _flat(entry.ends)}, path)
        return FAILED if link is FAILED else (link,)

    def _mesh(self, data: dict[object, object], path: str) -> Any:
        entry: Any = self.dataclass(_MeshEntry, data, path)
        if entry is FAILED or not self._cores_known:
            return FAILED
        ends = _flat(entry.ends)
        if entry.columns < 1 or len(ends) % entry.columns:
            return self.add(f"{len(ends)} ends do not fill rows of {entry.columns}", join(path, "columns"))
        if twice := next((end for end in ends if ends.count(end) > 1), None):
            return self.add(f"a mesh needs different ends, got {twice} twice", join(path, "ends"))
        if len(ends) < 2:
            return self.add(f"a mesh needs at least two different ends, got {', '.join(ends)}", join(path, "ends"))
        values = cast(dict[str, object], vars(entry)) | {"kind": LinkKind.LINK, "ends": ends[:2]}
        del values["columns"]
        first = self.construct(Link, values, path)
        return FAILED if first is FAILED else _mesh_links(first, ends, entry.columns)

    def _link_kind(self, value: object, path: str) -> Any:
        if isinstance(value, str) and value in set(LinkKind):
            return LinkKind(value)
        return self.add(f"{quoted(value)} is not a link kind: use one of {', '.join([*LinkKind, _MESH])}", path)

    def _end(self, value: object, path: str) -> Any:
        if not isinstance(value, str):
            return self.add(f"expected the name of an end, got {quoted(value)}: write text", path)
        if value in self._taken or not self._cores_known:
            return self._cores_of.get(value, (value,))
        near = self.closest(value, self._taken)
        advice = f"did you mean {near!r}?" if near else f"use one of {', '.join([DRAM, *self._cores_of])}"
        return self.add(f"{quoted(value)} is neither 'dram' nor a core nor a group of cores: {advice}", path)

    def _bandwidth(self, value: object, path: str) -> Any:
        """Convert to bit/s; FAILED without a word where only the clock is to blame, which has its own problem."""
        try:
            if isinstance(value, str) and value.endswith("/cycle"):
                per_cycle = parse(value, BITS_PER_CYCLE)
                within(per_cycle, BITS_PER_CYCLE, path.rpartition(".")[2])
                if self._clock is None:
                    return FAILED
                number = per_cycle * self._clock
            else:
                number = float(parse(value, _PER_SECOND_OR_CYCLE))
            within(number, BITS_PER_SECOND, path.rpartition(".")[2])
            return number
        except ValueError as error:
            return self.add(str(error), path)


_PER_SECOND_OR_CYCLE = Unit("bit/s or bit/cycle", {**BITS_PER_SECOND.spellings, **BITS_PER_CYCLE.spellings})
"""Names both in messages; the spellings per cycle are converted with the clock before this is asked."""


def unstructure_system(accelerator: Accelerator) -> Any:
    """Return the data of a system file with the core types in place."""
    groups = _groups(accelerator.cores)
    system = _System(
        name=accelerator.name,
        source=accelerator.source,
        clock=accelerator.clock,
        cores=tuple(
            _Group(name=name, count=len(members), file=None, type=members[0].type) for name, members in groups.items()
        ),
        dram=accelerator.dram,
        links=(),
    )
    sizes = {name: len(cores) for name, cores in groups.items()}
    return unstructure(system, _System, {}) | {"links": list(_entries(accelerator.links, sizes))}


def _entries(links: Sequence[Link], size_of_group: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file that stand for the links."""
    for name, run in groupby(links, key=_mesh_name):
        members = tuple(run)
        ends = tuple(dict.fromkeys(end for link in members for end in link.ends))  # row by row, if it is a mesh
        columns = next((n for n in range(1, len(ends) + 1) if _is_mesh(members, name, ends, n)), None)
        if columns is None:
            for link in members:
                yield unstructure(link, Link, {}) | {"ends": _shortened(link.ends, size_of_group)}
        else:
            mesh = {"name": name, "kind": _MESH, "ends": _shortened(ends, size_of_group), "columns": columns}
            fields_of_all = unstructure(members[0], Link, {})
            yield mesh | {key: item for key, item in fields_of_all.items() if key not in mesh}


def _mesh_name(link: Link) -> str:
    """Return the name of the mesh that a link belongs to, judged by its own name; empty if to none."""
    found = link.name.removesuffix(_link_name("", link.ends[0], link.ends[1]))
    return "" if found == link.name else found


def _is_mesh(links: Sequence[Link], name: str, ends: Sequence[str], columns: int) -> bool:
    if not name or len(ends) % columns:
        return False
    return _mesh_links(replace(links[0], name=name), ends, columns) == links


def _flat(ends: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    return tuple(name for names in ends for name in names)


def _mesh_links(like: Link, ends: Sequence[str], columns: int) -> tuple[Link, ...]:
    """Return the links between neighbours, those along the rows first: `like` gives their bandwidth, latency, energy.

    The order decides between routes of one length (see `stream_mla.routes`).
    """

    def neighbours() -> Iterator[tuple[str, str]]:
        yield from ((a, b) for n, (a, b) in enumerate(pairwise(ends), start=1) if n % columns)
        yield from zip(ends, ends[columns:], strict=False)

    return tuple(replace(like, name=_link_name(like.name, a, b), ends=(a, b)) for a, b in neighbours())


def _link_name(mesh: str, a: str, b: str) -> str:
    return f"{mesh}:{a}-{b}"


def _core_names(group: str, count: int) -> tuple[str, ...]:
    return (group,) if count == 1 else tuple(f"{group}[{index}]" for index in range(count))


def _groups(cores: tuple[Core, ...]) -> dict[str, list[Core]]:
    """Gather `core[0], core[1], ...` of one type into the group `core`; every other core is a group of its own."""
    names = {core.name for core in cores}
    groups: dict[str, list[Core]] = {}
    for (base, _), run in groupby(cores, key=lambda core: (core.name.partition("[")[0], core.type)):
        members = list(run)
        numbered = tuple(core.name for core in members) == _core_names(base, len(members))
        if numbered and base not in {DRAM} | names | groups.keys():
            groups[base] = members
        else:
            groups |= {core.name: [core] for core in members}
    return groups


def _shortened(ends: tuple[str, ...], size_of_group: Mapping[str, int]) -> list[str]:
    """Write the names of all cores of a group, where they stand together, as the name of the group."""
    short = list(ends)
    for group, size in size_of_group.items():
        names = list(_core_names(group, size))
        if names[0] in short and short[(start := short.index(names[0])) : start + size] == names:
            short[start : start + size] = [group]
    return short
