"""Where wires run: the curve that the front end draws between sockets and reroutes, what it passes behind, and a way round."""

from collections.abc import Iterable
import heapq
import math

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, width, height
FARTHEST = 80  # of a control point from its reroute, as in the front end
CELL, CLEAR, OUT, MARGIN = 8, 4, 14, 80  # of the grid that ways are sought on; between a way and a node; straight out of a socket; round all nodes
# Where the front end writes the titles of groups, above all by the font that it has: [[title, box], ...].
TITLES = """() => {
    const drawn = document.createElement("canvas").getContext("2d");
    return app.canvas.graph.groups.map(({ title, pos: [x, y], font_size }) => {
        drawn.font = `${font_size}px ${LiteGraph.GROUP_FONT}`;
        return [title, [x + font_size / 2, y, drawn.measureText(title).width, LiteGraph.NODE_TITLE_HEIGHT / 2 + font_size / 2 + 1]];
    });
}"""

CHEAPEST = 0.5  # price of a cell that a wire of the same socket runs through; a free one costs 1


def _between(a: Point, b: Point, start: Point | None, end: Point | None, count: int = 40) -> list[Point]:
    """A cubic curve; without a control point it leaves to the right, and comes from the left, by a quarter of the distance."""
    reach = math.dist(a, b) * 0.25
    start, end = start or (reach, 0), end or (-reach, 0)
    c, d = (a[0] + start[0], a[1] + start[1]), (b[0] + end[0], b[1] + end[1])
    shares = [i / count for i in range(count + 1)]
    return [tuple((1 - t) ** 3 * a[i] + 3 * (1 - t) ** 2 * t * c[i] + 3 * (1 - t) * t * t * d[i] + t ** 3 * b[i] for i in (0, 1))  # type: ignore
            for t in shares]


def curve(source: Point, target: Point, reroutes: Iterable[Point] = ()) -> list[Point]:
    """Points of a wire as the front end draws it (Reroute.calculateAngle and renderLink of its litegraph)."""
    stops = [source, *reroutes, target]
    points, start = [], None
    for i, (here, there) in enumerate(zip(stops, stops[1:])):
        end = None
        if i + 2 < len(stops):
            after = stops[i + 2]
            ahead = math.atan2(after[1] - there[1], after[0] - there[0])
            came = math.atan2(there[1] - here[1], there[0] - here[0])
            half = (came - ahead) / 2
            half += math.pi if abs(half) > math.pi / 2 else 0
            turn = came - half
            near = min(FARTHEST, math.dist(here, there) / 4)
            end = (-near * math.cos(turn), -near * math.sin(turn))
        points += _between(here, there, start, end)
        if end:
            far = min(FARTHEST, math.dist(there, stops[i + 2]) / 4)
            start = (far * math.cos(turn), far * math.sin(turn))
    return points


def behind(points: list[Point], boxes: Iterable[Box], clear: float = 0) -> float:
    """How long a wire runs behind boxes, in pixels; `clear`: beside them counts too."""
    grown = [(x - clear, y - clear, x + w + clear, y + h + clear) for x, y, w, h in boxes]
    return sum(math.dist(a, b) for a, b in zip(points, points[1:])
               if any(left < a[0] < right and top < a[1] < bottom for left, top, right, bottom in grown))


class Ways:
    """Ways round nodes and the bars of groups, with their titles, on a grid. Wires of one socket share theirs, others keep apart where there is room."""

    def __init__(self, boxes: list[Box], bars: list[Box], bounds: Box):
        left, top, width, height = bounds
        self.origin = (CELL * (left // CELL) - MARGIN, CELL * (top // CELL) - MARGIN)  # nodes stand on multiples of a cell
        self.size = (int((width + 2 * MARGIN) // CELL), int((height + 2 * MARGIN) // CELL))
        self.blocked = set()
        for clear, found in ((CLEAR, boxes), (0, bars)):
            for x, y, w, h in found:
                first, last = self.cell((x - clear, y - clear)), self.cell((x + w + clear - 1, y + h + clear - 1))
                self.blocked |= {(i, j) for i in range(first[0], last[0] + 1) for j in range(first[1], last[1] + 1)}
        self.used: dict[tuple[int, int], set] = {}

    def cell(self, point: Point) -> tuple[int, int]:
        return int((point[0] - self.origin[0]) // CELL), int((point[1] - self.origin[1]) // CELL)

    def point(self, cell: tuple[int, int]) -> Point:
        return self.origin[0] + (cell[0] + 0.5) * CELL, self.origin[1] + (cell[1] + 0.5) * CELL

    def find(self, socket, source: Point, target: Point) -> list[Point]:
        """The corners of a way from a socket to an input; none where there is no way."""
        start, goal = self.cell((source[0] + OUT, source[1])), self.cell((target[0] - OUT, target[1]))
        moves = ((1, 0), (0, 1), (0, -1), (-1, 0))
        best = {(start, 0): 0.0}
        came: dict = {}
        queue = [(0.0, 0.0, start, 0)]
        while queue:
            _, cost, here, way = heapq.heappop(queue)
            if here == goal:
                break
            if cost > best.get((here, way), math.inf):
                continue
            for turn, (dx, dy) in enumerate(moves):
                cell = here[0] + dx, here[1] + dy
                if not (0 <= cell[0] < self.size[0] and 0 <= cell[1] < self.size[1]) or cell in self.blocked and cell not in (start, goal):
                    continue
                users = self.used.get(cell, set())
                price = CHEAPEST if socket in users else 1 + 1.5 * len(users)
                whole = cost + price + (0 if turn == way else 5)
                if whole < best.get((cell, turn), math.inf):
                    best[cell, turn] = whole
                    came[cell, turn] = here, way
                    left = CHEAPEST * (abs(cell[0] - goal[0]) + abs(cell[1] - goal[1]))
                    heapq.heappush(queue, (whole + left, whole, cell, turn))
        else:
            return []
        state, cells = (here, way), []
        while state in came:
            cells.append(state[0])
            state = came[state]
        cells = [start, *reversed(cells)]
        for cell in cells:
            self.used.setdefault(cell, set()).add(socket)
        corners = [b for a, b, c in zip(cells, cells[1:], cells[2:]) if (b[0] - a[0], b[1] - a[1]) != (c[0] - b[0], c[1] - b[1])]
        return [self.point(cell) for cell in corners]


def route(socket, ends: list[tuple[Point, Point]], boxes: list[Box], ways: Ways, allowed: float = 4) -> list[Point]:
    """The fewest reroutes with which a wire runs in front of empty space.

    ends: of the wire, in each renderer. boxes: the nodes that it is not tied to.
    """
    def hidden(stops: list[Point]) -> float:
        return max(behind(curve(source, target, stops), boxes, 2) for source, target in ends)

    source, target = ends[0]
    if hidden([]) <= allowed:
        return []
    corners = ways.find(socket, source, target)
    if not corners:
        return []

    def beside(*distances: float) -> list[Point]:
        """Stops before and behind each corner, which keep the curve in its lane."""
        stops = []
        for here, corner, after in zip([source, *corners], corners, [*corners[1:], target]):
            for other, behind_it in ((here, False), (after, True)):
                length = math.dist(other, corner) or 1
                for distance, share in sorted(zip(distances, (0.2, 0.45)), reverse=not behind_it):
                    stops.append(tuple(c + (o - c) * min(distance / length, share) for c, o in zip(corner, other)))
        return stops

    best = None
    for stops in (corners, beside(24), beside(14, 40)):
        kept, worth = list(stops), hidden(stops)
        least = max(worth, allowed)
        i = 0
        while i < len(kept):  # leave out what is not needed
            fewer = kept[:i] + kept[i + 1:]
            if hidden(fewer) <= least:
                kept = fewer
            else:
                i += 1
        found = (max(hidden(kept), allowed), len(kept), kept)
        best = found if best is None or found[:2] < best[:2] else best
    return best[2]
