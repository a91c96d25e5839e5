"""`dit-blocks sweep`: what its file may say, what it keeps, and that no cell is lost or drawn twice however it ends."""

import csv
import gc
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc

from PIL import Image
import pytest
from serve_host import EXAMPLE, Serve, prompt

from dit_blocks.standalone import cli
from dit_blocks.standalone.errors import WorkflowError
from dit_blocks.standalone.sweep import command, drive, record, sheet
from dit_blocks.standalone.sweep.plan import key, read_plan
from dit_blocks.standalone.sweep.record import Record
from dit_blocks.standalone.sweep.worker import Result, Worker

rays = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not here: pip install 'dit-blocks[sweep]'")
arrows = pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="pyarrow is not here: pip install 'dit-blocks[sweep]'")


def written(folder, text: str, **files):
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    (folder / "sweep.toml").write_text(text, encoding="utf-8")
    return folder / "sweep.toml"


@pytest.fixture
def small(tmp_path):
    """A sweep over a workflow that draws 64×64 pixels in two steps."""
    (tmp_path / "small.json").write_text(json.dumps(prompt()))
    return lambda grid, more="": written(tmp_path, f'workflow = "small.json"\n{more}\n[workers]\ncount = 1\n[grid]\n{grid}\n')


# --- the file -------------------------------------------------------------------------------------------------------

def test_a_grid_is_every_combination_and_an_entry_goes_with_each(tmp_path):
    plan = read_plan(written(tmp_path, 'workflow = "w.json"\n[grid]\n"A.x" = [1, 2]\n"B.text" = {file = "p.txt"}\n'
                                       '[[entry]]\n"C.y" = true\n"D.z" = 0.5\n[[entry]]\n"C.y" = false\n"D.z" = 1\n', p_txt="\ufeffone\n\n two \n"))
    cells = list(plan.cells())
    assert len(plan) == len(cells) == 8 and len({key(cell) for cell in cells}) == 8
    assert cells[0] == {"C.y": True, "D.z": 0.5, "A.x": 1, "B.text": "one"} and cells[1]["B.text"] == "two"
    assert plan.varied == ["C.y", "D.z", "A.x", "B.text"] and plan.out == tmp_path / "sweep"
    seeds = read_plan(written(tmp_path, 'workflow = "w.json"\n[grid]\n"A.seed" = {from = -1, to = 2}\n'))
    assert [cell["A.seed"] for cell in seeds.cells()] == [-1, 0, 1, 2]


def test_a_cell_has_one_key_in_whatever_order_and_type_it_is_written():
    assert key({"a.b": 1, "c.d": "x"}) == key({"c.d": "x", "a.b": 1}) != key({"a.b": "1", "c.d": "x"})


@pytest.mark.parametrize("text, line", [
    ('[grid]\n"A.x" = [1]', "workflow is missing"),
    ('workflow = "w"', "there is nothing to vary"),
    ('workflow = "w"\n[grid]\n"A.x" = []', "A.x has no values"),
    ('workflow = "w"\n[grid]\n"A.x" = 3', "A.x is a list of values"),
    ('workflow = "w"\n[grid]\n"A.x" = [1, 1]', "A.x has the same value twice"),
    ('workflow = "w"\n[grid]\n"A.x" = [[1]]', r"A.x: a value is text, a number, true or false, not \[1\]"),
    ('workflow = "w"\n[grid]\n"A.x" = {file = "nowhere.txt"}', "A.x: nowhere.txt: No such file"),
    ('workflow = "w"\n[grid]\n"A.x" = {from = 0, to = 99999999}', "A.x: from 0 to 99999999 are more than"),
    ('workflow = "w"\n[grid]\n"A.x" = {from = 0, to = 9999}\n"B.x" = {from = 0, to = 9999}', "these are 100,000,000 cells"),
    ('workflow = "w"\n[grid]\nx = [1]', "a widget is named as"),
    ('workflow = "w"\nworkers = 3\n[grid]\n"A.x" = [1]', "workers is a table"),
    ('workflow = "w"\n[workers]\ncpus = 0\n[grid]\n"A.x" = [1]', r"\[workers\] cpus is a number from 0.01"),
    ('workflow = "w"\n[grids]\n"A.x" = [1]', "has no setting 'grids'"),
    ('workflow = "w"\n[sheet]\nrows = "B.y"\n[grid]\n"A.x" = [1]', r"\[sheet\] rows is a widget that is varied \(A.x\), not 'B.y'"),
    ('workflow = "w"\n[[entry]]\n"A.x" = 1\n[[entry]]\n"A.y" = 1', "every .*entry.* names the same widgets"),
    ('workflow = "w"\n[[entry]]\n"A.x" = 1\n[[entry]]\n"A.x" = 1', "have the same values"),
    ('workflow = "w"\n[[entry]]\n"A.x" = 1\n[grid]\n"A.x" = [2]', "A.x stands in"),
    ("workflow = [", "not a recipe"),
])
def test_what_a_file_may_not_say_is_one_line(tmp_path, text, line):
    with pytest.raises(WorkflowError, match=line) as error:
        read_plan(written(tmp_path, text))
    assert str(error.value).startswith(f"{tmp_path / 'sweep.toml'}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("grid, line", [
    ('"Patchify.patch_size" = [2, 4, -1]', "patch_size"), ('"Nobody.x" = [1]', "no node 'Nobody'"), ('"Patchify.size" = [1]', "does not exist"),
    ('"Patchify.patch_size" = [2, "x"]', "'x' is not INT")])
def test_a_wrong_widget_or_value_is_told_before_anything_is_drawn(small, grid, line, tmp_path, capsys):
    assert cli.main(["sweep", str(small(grid))]) == 2
    said = capsys.readouterr()
    assert line in said.err and len(said.err.splitlines()) == 1 and not said.out and not (tmp_path / "sweep").exists()


# --- what is kept ---------------------------------------------------------------------------------------------------

def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "cells.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_line_that_a_kill_has_cut_is_written_again(tmp_path):
    kept = Record(tmp_path, {"workflow": "w"})
    kept.add({"A.x": 1}, 0.5, "", {}, {"a.png": b"1"})
    kept.add({"A.x": 2}, 0.5, "", {}, {"a.png": b"2"})
    file = tmp_path / "cells.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    again = Record(tmp_path, {"workflow": "w"})
    assert again.is_done({"A.x": 1}) and not again.is_done({"A.x": 2})
    again.add({"A.x": 2}, 0.5, "", {}, {"a.png": b"3"})
    assert [row["cell"]["A.x"] for row in rows_of(tmp_path)] == [1, 2] and (tmp_path / rows_of(tmp_path)[1]["pictures"][0]).read_bytes() == b"3"


def test_results_of_another_workflow_and_of_another_run_are_left_alone(tmp_path):
    Record(tmp_path, {"workflow": "w"}).add({"A.x": 1}, 0.5, "", {}, {})
    with pytest.raises(WorkflowError, match="holds the results of another workflow"):
        Record(tmp_path, {"workflow": "v"})
    with record.held_by_this(tmp_path), pytest.raises(ValueError, match="another"), record.held_by_this(tmp_path):
        pass
    (tmp_path / "cells.jsonl").write_text("{}\n")
    with pytest.raises(WorkflowError, match="cells.jsonl, line 1: it is no row of a sweep"):
        Record(tmp_path, {"workflow": "w"})


def test_failed_cells_can_run_again_and_no_picture_is_written_over(tmp_path):
    kept = Record(tmp_path, {})
    for x, error in ((1, "no"), (2, ""), (3, "no")):
        kept.add({"A.x": x}, 0.5, error, {}, {} if error else {"a.png": bytes([x])})
    assert kept.failed == 2 and kept.forget_failures() == 2 and kept.failed == 0
    assert [kept.is_done({"A.x": x}) for x in (1, 2, 3)] == [False, True, False]
    kept.add({"A.x": 1}, 0.5, "", {}, {"a.png": b"9"})
    assert [(tmp_path / name).read_bytes() for row in rows_of(tmp_path) for name in row["pictures"]] == [b"\x02", b"9"]


@arrows
def test_csv_and_parquet_hold_every_row_with_its_types(tmp_path, monkeypatch):
    from pyarrow import parquet
    monkeypatch.setattr(record, "BATCH", 2)
    kept = Record(tmp_path, {})
    for x in range(5):
        kept.add({"A.x": x, "A.on": x > 2, "A.mixed": x if x % 2 else str(x)}, x / 2, "" if x else "no", {"Note.text": f"猫 {x}"} if x else {}, {})
    comma, columns = kept.tables()
    read = parquet.read_table(columns).to_pylist()
    assert [row["A.x"] for row in read] == list(range(5)) and [row["A.on"] for row in read] == [False] * 3 + [True] * 2
    assert [row["A.mixed"] for row in read] == ["0", "1", "2", "3", "4"] and read[0]["Note.text"] is None and read[4]["Note.text"] == "猫 4"
    assert read[3]["seconds"] == 1.5 and read[0]["error"] == "no"
    with comma.open(encoding="utf-8", newline="") as file:
        assert [row["Note.text"] for row in csv.DictReader(file)] == ["", *(f"猫 {x}" for x in range(1, 5))]


def test_the_table_is_the_mean_by_any_two_widgets(tmp_path):
    plan = read_plan(written(tmp_path, 'workflow = "w"\n[sheet]\nrows = "A.seed"\ncolumns = "B.p"\nvalue = "Score.text"\n[grid]\n'
                                       '"A.seed" = [7, 5]\n"B.p" = [2, 4]\n"C.q" = ["u", "v"]\n'))
    kept = Record(plan.out, {})
    for at, cell in enumerate(plan.cells()):
        kept.add(cell, 1.0, "broken" if at == 7 else "", {"Score.text": str(at)}, {})
    path, text = sheet.write_table(plan, kept)
    assert list(csv.reader(path.open(encoding="utf-8"))) == [
        ["mean of Score.text by A.seed", "B.p = 2", "B.p = 4"], ["7", "0.5", "2.5"], ["5", "4.5", "6"]]
    assert text.splitlines()[1].split() == ["7", "0.5", "2.5"]


def test_the_sheet_shows_each_cell_in_its_place_and_why_one_failed(tmp_path):
    plan = read_plan(written(tmp_path, 'workflow = "w"\n[sheet]\nsize = 40\n[grid]\n"A.seed" = [1, 2]\n"B.p" = [2, 4, 8]\n'))
    kept, colours = Record(plan.out, {}), {}
    for at, cell in enumerate(reversed(list(plan.cells()))):  # they land in any order
        picture = tmp_path / "x.png"
        colours[tuple(cell.values())] = colour = (40 * at, 255 - 40 * at, 90)
        Image.new("RGB", (64, 64), colour).save(picture)
        kept.add(cell, 1.0, "it broke" if at == 2 else "", {}, {} if at == 2 else {"x.png": picture.read_bytes()})
    (path,) = sheet.write_sheets(plan, kept)
    step, failed = 40 + sheet.GAP, list(reversed(list(plan.cells())))[2]
    with Image.open(path) as image:
        for at, cell in enumerate(plan.cells()):
            x, y = sheet.LABEL + sheet.GAP + at % 3 * step + 20, 2 * sheet.LETTERS + 2 * sheet.GAP + at // 3 * step + 20
            assert cell == failed or image.getpixel((x, y)) == colours[tuple(cell.values())]
            words = image.crop((x - 20, y - 20, x + 20, y + 20))
            assert cell != failed or len(words.getcolors(1600)) > 2


# --- running --------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@rays
@arrows
def test_a_sweep_runs_goes_on_with_more_values_and_draws_what_run_draws(small, tmp_path, capsys):
    file = small('"Add Noise (DiT).seed" = [1, 2]')
    assert cli.main(["sweep", str(file)]) == 0
    said = capsys.readouterr().out
    assert "mean of seconds" in said and str(tmp_path / "sweep" / "sheet.png") in said
    before = rows_of(tmp_path / "sweep")
    assert sorted(row["cell"]["Add Noise (DiT).seed"] for row in before) == [1, 2]
    small('"Add Noise (DiT).seed" = [1, 2, 3]')
    assert cli.main(["sweep", str(file)]) == 0
    after = rows_of(tmp_path / "sweep")
    assert after[:2] == before and after[2]["cell"] == {"Add Noise (DiT).seed": 3}
    alone = Worker(tmp_path / "small.json", (tmp_path, tmp_path), threads=1)
    for row in after:
        (drawn,) = alone.run(row["cell"]).pictures.values()
        (tmp_path / "alone.png").write_bytes(drawn)
        with Image.open(tmp_path / "alone.png") as here, Image.open(tmp_path / "sweep" / row["pictures"][0]) as there:
            assert here.tobytes() == there.tobytes()
    alone.close()


def test_a_cell_that_fails_is_told_and_the_next_one_runs(tmp_path):
    (tmp_path / "small.json").write_text(json.dumps(prompt()))
    worker = Worker(tmp_path / "small.json", (tmp_path, tmp_path))
    broken = worker.run({"Patchify.patch_size": 64})
    assert "patch" in broken.error and "\n" not in broken.error and not broken.pictures
    assert worker.run({"Patchify.patch_size": 4}).error == ""
    again = worker.run({"Patchify.patch_size": 4})  # all from the cache: its picture is still there
    assert len(again.pictures) == 1 and sum(len(names) for *_, names in os.walk(worker.output)) <= 4
    worker.close()
    assert not worker.output.exists()


class Fragile:
    """A worker that dies at some cells: at "once" the first time, at "always" every time. It runs in Ray's processes."""

    def __init__(self, path, folders, threads):
        self.folder = path.parent

    def run(self, cell):
        marker = self.folder / f"died_{cell['A.x']}"
        with (self.folder / "runs.txt").open("a") as runs:
            runs.write(f"{cell['A.x']}\n")
        if cell["A.x"] == "always" or cell["A.x"] == "once" and not marker.exists():
            marker.touch()
            os._exit(1)
        if cell["A.x"] == "raises":
            raise MemoryError("no more of it")
        return Result(0.1, "", {"Note.text": cell["A.x"]}, {})


@pytest.mark.slow
@rays
def test_the_cell_of_a_worker_that_dies_runs_again_but_not_for_ever(tmp_path, monkeypatch):
    from ray import cloudpickle
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(drive, "Worker", Fragile)
    plan = read_plan(written(tmp_path, 'workflow = "w"\n[workers]\ncount = 2\ncpus = 0.5\ntries = 3\n[grid]\n"A.x" = ["a", "once", "b", "always", "raises", "c"]\n'))
    kept = Record(plan.out, {})
    drive.by_ray(plan, kept, (tmp_path, tmp_path), lambda *_: None)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    rows = {row["cell"]["A.x"]: row for row in rows_of(plan.out)}
    assert len(rows_of(plan.out)) == 6 and rows["once"]["texts"] == {"Note.text": "once"}
    assert rows["always"]["error"].startswith("its worker died 3 times") and rows["raises"]["error"] == "no more of it"
    runs = (tmp_path / "runs.txt").read_text().split()
    assert runs.count("always") == 3 and runs.count("once") == 2 and runs.count("a") == 1


@pytest.mark.slow
@rays
def test_a_cluster_is_joined_by_its_address_and_stays(small, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    opened = os.environ | {"RAY_AUTH_MODE": "disabled"}  # a cluster's token is its owner's affair
    head = subprocess.Popen([sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
                             f"--port={port}", "--num-cpus=2", "--num-gpus=1", "--include-dashboard=false", "--disable-usage-stats"],
                            env=opened, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
            time.sleep(0.5)
        file = small('"Add Noise (DiT).seed" = [1, 2]')
        file.write_text(file.read_text().replace("count = 1", f'gpus = 1\naddress = "127.0.0.1:{port}"'))
        done = subprocess.run([sys.executable, "-m", "dit_blocks.standalone.cli", "sweep", str(file)], env=opened, capture_output=True, text=True,
                              timeout=240)
        assert done.returncode == 0, done.stderr
        assert len(rows_of(tmp_path / "sweep")) == 2 and not any(row["error"] for row in rows_of(tmp_path / "sweep"))
        assert head.poll() is None and not socket.socket().connect_ex(("127.0.0.1", port))
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)


@pytest.mark.slow
@rays
@arrows
def test_a_sweep_that_is_killed_goes_on_and_no_cell_is_lost_or_drawn_twice(small, tmp_path):
    file = small('"Add Noise (DiT).seed" = {from = 1, to = 12}')
    run = [sys.executable, "-m", "dit_blocks.standalone.cli", "sweep", str(file)]
    first = subprocess.Popen(run, stderr=subprocess.PIPE)
    lines, deadline = tmp_path / "sweep" / "cells.jsonl", time.monotonic() + 300
    while not (lines.exists() and len(lines.read_text().splitlines()) >= 3):
        assert first.poll() is None and time.monotonic() < deadline, first.stderr.read()[-2000:]
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = lines.read_text()
    assert subprocess.run(run, timeout=300, capture_output=True).returncode == 0
    seeds = [row["cell"]["Add Noise (DiT).seed"] for row in rows_of(tmp_path / "sweep")]
    assert sorted(seeds) == list(range(1, 13)) and lines.read_text().startswith(before[:before.rfind("\n") + 1])


# --- in a running ComfyUI -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Serve(tmp_path_factory.mktemp("serve"))
    yield running
    running.stop()


@pytest.mark.slow
@arrows
def test_cells_are_queued_where_comfyui_runs(server, small, tmp_path, capsys):
    file = small('"Add Noise (DiT).seed" = [1, 2]\n"Patchify.patch_size" = [2, 64]')
    assert cli.main(["sweep", str(file), "--comfyui", server.url, "--comfyui", f"{server.url}/"]) == 1  # 64×64 pixels have no patch of 64 cells
    rows = rows_of(tmp_path / "sweep")
    assert len(rows) == 4 and all(bool(row["pictures"]) == (row["cell"]["Patchify.patch_size"] == 2) for row in rows)
    assert all("Patchify" in row["error"] and "\n" not in row["error"] for row in rows if row["error"])
    alone = Worker(tmp_path / "small.json", (tmp_path, tmp_path))
    for row in rows:
        if row["pictures"]:
            (drawn,) = alone.run(row["cell"]).pictures.values()
            (tmp_path / "alone.png").write_bytes(drawn)
            with Image.open(tmp_path / "alone.png") as here, Image.open(tmp_path / "sweep" / row["pictures"][0]) as there:
                assert here.size == there.size
    alone.close()
    capsys.readouterr()
    assert cli.main(["sweep", str(file), "--comfyui", server.url, "--again"]) == 1
    assert "2 cells that failed run again" in capsys.readouterr().err and len(rows_of(tmp_path / "sweep")) == 4


def test_nobody_there_is_one_line(small, capsys):
    assert cli.main(["sweep", str(small('"Add Noise (DiT).seed" = [1]')), "--comfyui", "http://127.0.0.1:9"]) == 2
    assert "--comfyui http://127.0.0.1:9: " in capsys.readouterr().err


def test_a_cell_that_is_taken_from_the_queue_is_told(tmp_path, monkeypatch):
    from dit_blocks.standalone.sweep.comfyui import ComfyUI
    (tmp_path / "small.json").write_text(json.dumps(prompt()))
    answers = {"object_info": {}, "prompt": {"prompt_id": "x"}, "history/x": {}, "queue": {"queue_running": [], "queue_pending": []}}
    monkeypatch.setattr(ComfyUI, "_json", lambda self, path, body=None: answers[path])
    host = ComfyUI("http://127.0.0.1:1", tmp_path / "small.json")
    assert host.run({}).error == "it was taken from ComfyUI's queue"


def test_when_the_last_comfyui_goes_the_sweep_stops_and_keeps_what_it_has(tmp_path):
    class Host:
        def __init__(self, lives: int):
            self.lives = lives

        def run(self, cell):
            self.lives -= 1
            if self.lives < 0:
                raise drive.Gone("connection refused")
            return Result()
    plan = read_plan(written(tmp_path, 'workflow = "w"\n[grid]\n"A.x" = {from = 1, to = 9}\n'))
    kept = Record(plan.out, {})
    with pytest.raises(WorkflowError, match="no ComfyUI answers any more; 5 of 9 cells are done"):
        drive.by_comfyui(plan, kept, [Host(2), Host(3)], lambda *_: None)
    drive.by_comfyui(plan, kept, [Host(0), Host(9)], lambda *_: None)
    assert sorted(row["cell"]["A.x"] for row in rows_of(plan.out)) == list(range(1, 10))


def test_the_driver_s_memory_does_not_grow_with_the_number_of_cells(tmp_path):
    class Host:
        def run(self, cell):
            return Result(0.1, "", {"Note.text": "x" * 1000}, {})
    used, ends = [], {200, 1200}
    plan = read_plan(written(tmp_path, 'workflow = "w"\n[grid]\n"A.x" = {from = 1, to = 1200}\n'))
    kept = Record(plan.out, {})

    def tell(done, *_):
        if done in ends:
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.start()
    drive.by_comfyui(plan, kept, [Host()], tell)
    tracemalloc.stop()
    assert len(kept.done) == 1200 and used[1] - used[0] < 300 * 1000, used  # 1,000 cells told a megabyte


def test_the_account_of_a_sweep_is_its_workflow(tmp_path):
    plan = read_plan(written(tmp_path, 'workflow = "w.json"\n[grid]\n"A.x" = [1]\n', w_json="{}"))
    one = command.account(plan)
    (tmp_path / "w.json").write_text("[]")
    assert command.account(plan) != one and EXAMPLE.exists()
