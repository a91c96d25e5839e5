"""Files are whole or not there, numbered ones never written over, and a disk that is full or read-only is one line."""

import errno
import os
from pathlib import Path
import subprocess
import sys
import threading

import pytest

from dit_blocks.dit_impl.sources import atomic
from dit_blocks.dit_impl.sources.atomic import replace_atomically, write_new

WRITE = {"bytes": lambda aside: aside.write_bytes(b"x" * 100)}


def numbered(folder: Path):
    return lambda number: folder / f"x_{number:05}_.txt"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_many_writers_get_a_name_each(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    start, paths = threading.Barrier(8), []

    def write(who: int) -> None:
        start.wait()
        for _ in range(5):
            paths.append(write_new(numbered(tmp_path), 1, lambda aside: aside.write_text(str(who))))
    threads = [threading.Thread(target=write, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 40 and names(tmp_path) == [f"x_{number:05}_.txt" for number in range(1, 41)]
    assert sorted(path.read_text() for path in paths) == sorted(str(who) for who in range(8) for _ in range(5))


def test_a_name_that_is_taken_is_left_alone(tmp_path):
    numbered(tmp_path)(1).write_text("old")
    assert write_new(numbered(tmp_path), 1, lambda aside: aside.write_text("new")) == numbered(tmp_path)(2)
    assert numbered(tmp_path)(1).read_text() == "old" and names(tmp_path) == ["x_00001_.txt", "x_00002_.txt"]


@pytest.mark.parametrize("save", [replace_atomically, lambda path, write: write_new(lambda number: path, 1, write)])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_went_wrong_first_is_told(tmp_path, monkeypatch, save, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "unlink too")))
    with pytest.raises(OSError) as error:
        save(tmp_path / "x.txt", fail)
    assert str(error.value) == f"{tmp_path / 'x.txt'} can't be written: {os.strerror(code)}"


@pytest.mark.parametrize("save", [replace_atomically, lambda path, write: write_new(lambda number: path, 1, write)])
def test_a_name_of_300_letters_is_one_line(tmp_path, save):
    with pytest.raises(OSError, match="can't be written: File name too long"):
        save(tmp_path / ("x" * 300), lambda aside: aside.write_text("x"))
    assert names(tmp_path) == []


def test_a_name_as_long_as_can_be_is_written(tmp_path):
    replace_atomically(tmp_path / ("x" * 255), lambda aside: aside.write_text("x"))
    assert names(tmp_path) == ["x" * 255]


@pytest.mark.parametrize("times", [2, 99])
def test_a_file_that_windows_has_locked(tmp_path, monkeypatch, times):
    replace, locked = os.replace, iter(range(times))

    def replace_or_not(aside, path):
        if next(locked, None) is not None:
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(aside, path)
    monkeypatch.setattr(os, "replace", replace_or_not)
    monkeypatch.setattr(atomic, "LOCKS", True)
    monkeypatch.setattr(atomic, "PAUSE", 0)
    (tmp_path / "x").write_text("old")
    if times == 2:
        replace_atomically(tmp_path / "x", lambda aside: aside.write_text("new"))
        assert (tmp_path / "x").read_text() == "new"
    else:
        with pytest.raises(OSError, match="a program has it open, perhaps this one; save under another name"):
            replace_atomically(tmp_path / "x", lambda aside: aside.write_text("new"))
        assert (tmp_path / "x").read_text() == "old" and names(tmp_path) == ["x"]


PROGRAM = """
import sys, torch
from pathlib import Path
from dit_blocks.standalone.images import save_pngs
sys.stdin.readline()
for _ in range(2):
    print(*(result["filename"] for result in save_pngs(torch.zeros(2, 4, 4, 3), "x", "output", Path(sys.argv[1]), {})))
"""


def test_programs_that_save_into_one_folder_lose_no_picture(tmp_path):
    programs = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(5)]
    for program in programs:  # all at once, when all have loaded
        program.stdin.write("go\n")
        program.stdin.flush()
    saved = [name for program in programs for name in program.communicate()[0].split()]
    assert len(saved) == len(set(saved)) == 20 and names(tmp_path) == sorted(saved)
