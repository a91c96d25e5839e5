"""Who wants to hear of a run, node by node."""

from .live_graph import LiveGraph


class Watcher:
    """Hears of every node of a run, of those that others expand to as well. Does nothing unless a method is replaced."""

    def begin(self, graph: LiveGraph, known: dict[str, dict]) -> None:
        """The run begins; of these nodes the answer is known, and so what they show."""

    def start(self, id: str) -> None:
        """A node is called."""

    def finish(self, id: str, ui: dict[str, list]) -> None:
        """A node's answer is there, and so what it shows: it was called, or its answer was known."""
