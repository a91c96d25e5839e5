"""Lets others follow a run, node by node."""

from .live_graph import LiveGraph


class Watcher:
    """Called for every node of a run, also for those that expansions added. Override the methods that you need."""

    def begin(self, graph: LiveGraph, known: dict[str, dict]) -> None:
        """The run begins. known: cached nodes → what they show."""

    def start(self, id: str) -> None:
        """A node is called."""

    def finish(self, id: str, ui: dict[str, list]) -> None:
        """A node has finished or was cached. ui: what it shows."""
