"""What a disk may hold after the power fails: the weakest reading of POSIX, worked out from a trace of calls.

Data is on the disk only after an fsync of its file, a name only after an fsync of its folder; what waits for one
may be there or not, each for itself and in any order, and data by half. A rename is one step. (The method of
ALICE: Pillai et al. 2014, "All File Systems Are Not Created Equal".)
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.crash.faults import CALLS

Tree = dict[str, bytes]
LIMIT = 2000  # states looked at of one moment; more are sampled


class Recorder:
    """Stands in for `os`, carries everything out, and keeps (name, args, keywords, result)."""

    def __init__(self) -> None:
        self.trace: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            kept = tuple(bytes(a) if isinstance(a, memoryview) else a for a in args)
            result = real(*args, **kwargs)
            self.trace.append((name, kept, kwargs, result))
            return result

        return call

    def mark(self, text: str) -> None:
        """Note a moment in the trace."""
        self.trace.append(("mark", (text,), {}, None))


class Node:
    """A file or folder: what programs see, and what the disk is sure to hold."""

    def __init__(self, folder: bool, durable: bytes = b"") -> None:
        self.folder, self.live, self.durable = folder, durable, durable
        self.names: dict[str, Node] = {}  # as programs see them
        self.kept: dict[str, Node] = {}  # as the disk is sure to hold them
        self.pending: list[tuple[str, str, Node | None]] = []  # (name gone or "", name new or "", node)

    def change(self, gone: str, new: str, node: Node | None) -> None:
        if gone:
            del self.names[gone]
        if new:
            assert node
            self.names[new] = node
        self.pending.append((gone, new, node))


class Disk:
    """Plays a trace and tells all that a power failure at a moment may leave."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, self._load(root)
        self.open: dict[int, tuple[Node, str]] = {}

    def _load(self, path: Path) -> Node:
        if path.is_file():
            return Node(False, path.read_bytes())
        node = Node(True)
        node.names = {entry.name: self._load(entry) for entry in path.iterdir()}
        node.kept = dict(node.names)
        return node

    def _find(self, path: Any, keywords: dict[str, Any]) -> tuple[Node, str] | None:
        """The folder and name of a path; None outside the root."""
        if keywords.get("dir_fd") is not None:
            known = self.open.get(keywords["dir_fd"])
            return (known[0], str(path)) if known else None
        if not Path(path).is_relative_to(self.root) or Path(path) == self.root:
            return None
        node, (*folders, name) = self.top, Path(path).relative_to(self.root).parts
        for part in folders:
            node = node.names[part]
        return node, name

    def play(self, call: tuple[str, tuple[Any, ...], dict[str, Any], Any]) -> None:
        name, args, keywords, result = call
        if name == "open":
            if Path(args[0]) == self.root:
                self.open[result] = (self.top, "")
            elif place := self._find(args[0], keywords):
                folder, new = place
                if new not in folder.names:
                    folder.change("", new, Node(False))
                node = folder.names[new]
                if args[1] & os.O_TRUNC:
                    node.live = b""
                self.open[result] = (node, new)
        elif name in ("write", "fsync", "close") and args[0] in self.open:
            node = self.open[args[0]][0]
            if name == "write":
                node.live += args[1][:result]
            elif name == "close":
                del self.open[args[0]]
            else:
                node.durable, node.kept, node.pending = node.live, dict(node.names), []
        elif name == "mkdir" and (place := self._find(args[0], keywords)):
            place[0].change("", place[1], Node(True))
        elif name in ("unlink", "rmdir") and (place := self._find(args[0], keywords)):
            place[0].change(place[1], "", None)
        elif name == "link" and (place := self._find(args[0], keywords)):
            target = self._find(args[1], keywords)
            assert target
            target[0].change("", target[1], place[0].names[place[1]])
        elif name in ("rename", "replace") and (place := self._find(args[0], keywords)):
            folder, old = place
            target = self._find(args[1], keywords)
            assert target
            assert target[0] is folder, "only renames within a folder are played"
            folder.change(old, target[1], folder.names[old])

    def _nodes(self) -> list[Node]:
        found, todo = [], [self.top]
        while todo:
            node = todo.pop()
            if all(node is not other for other in found):
                found.append(node)
                todo += [*node.names.values(), *node.kept.values(), *(n for _, _, n in node.pending if n)]
        return found

    def crashes(self, rng: random.Random) -> Iterator[Tree]:
        """All trees of files that may be found, or a sample of LIMIT where there are more."""
        nodes = self._nodes()
        names = [(node, change) for node in nodes for change in node.pending]
        dirty = [node for node in nodes if not node.folder and node.live != node.durable]
        choices = [(False, True)] * len(names) + [(0, 1, 2)] * len(dirty)
        size = 2 ** len(names) * 3 ** len(dirty)
        picks = itertools.product(*choices) if size <= LIMIT else (
            tuple(rng.choice(options) for options in choices) for _ in range(LIMIT)
        )  # fmt: skip
        for pick in picks:
            folders = {id(node): dict(node.kept) for node in nodes}
            for (node, (gone, new, target)), there in zip(names, pick, strict=False):
                if there:
                    folders[id(node)].pop(gone, None)
                    if new and target:
                        folders[id(node)][new] = target
            data = {id(node): node.durable for node in nodes}
            for node, much in zip(dirty, pick[len(names) :], strict=True):
                half = node.live[: (len(node.durable) + len(node.live)) // 2]
                data[id(node)] = (node.durable, half, node.live)[much]
            yield dict(self._tree(self.top, "", folders, data))

    def _tree(
        self, node: Node, path: str, folders: dict[int, dict[str, Node]], data: dict[int, bytes]
    ) -> Iterator[tuple[str, bytes]]:
        for name, child in folders[id(node)].items():
            if name.startswith("."):  # litter and locks: nobody reads them
                continue
            if child.folder:
                yield from self._tree(child, f"{path}{name}/", folders, data)
            else:
                yield f"{path}{name}", data[id(child)]
