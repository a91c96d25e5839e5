"""How many small mistakes the tests notice: mutmut over rooms of dit_impl, a table out.

    .venv/bin/pip install mutmut
    python -m benchmarks.mutation                        all rooms of ROOMS
    python -m benchmarks.mutation tokens sampling        these
    python -m benchmarks.mutation tokens --survivors     and what nothing noticed, as diffs
    python -m benchmarks.mutation training --every 4     every fourth mistake of a room: a sample, where all take too long

mutmut wants sources that lie as they are imported. Here the repository's root is the package, so it is copied to a folder dit_blocks first,
under the system's folder for temporary files. Each mistake is tried in a fork of a process that has imported torch, on the tests that reach
its function, fastest first. A verdict is kept until the function changes; survivors are always tried again.
"""

import argparse
import os
from pathlib import Path
import shutil
import sys
import tempfile

ROOT = Path(__file__).resolve().parent.parent
AWAY = Path(tempfile.gettempdir()) / "dit_blocks_mutants"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "node_modules", "__pycache__", "screenshots", "browser", ".hypothesis", ".pytest_cache")
# a room → its files under dit_impl, and the test files that are about them
ROOMS = {
    "tokens": (["tokens/*"], ["test_patch", "test_token_ops", "test_patch_methods", "test_batches", "test_token_edges"]),
    "sampling": (["sampling/*"], ["test_flow", "test_sampling", "test_inpainting", "test_coarse_steps", "test_sampling_edges",
                                  "test_solver_numbers", "test_level", "test_mixed", "test_regions", "test_batches"]),
    "handle": (["handle/*"], ["test_handle_edges", "test_handle_exact", "test_class_label", "test_block_plan", "test_step_cache",
                              "test_patch_methods", "test_patch_regions", "test_regions", "test_coarse_steps", "test_batches",
                              "test_inpainting", "test_inside"]),
    "step": (["step/*"], ["test_inside", "test_probe", "test_batches", "test_inpainting", "test_regions", "test_step_edges"]),
    "cost": (["cost/*"], ["test_budget", "test_costs", "test_coarse_steps", "test_cost_edges"]),
    "training": ([f"training/{part}.py" for part in ("loop", "losses", "objectives", "state", "optimizers")],
                 ["test_training_loop", "test_training_rules", "test_training_edges", "test_training_draws", "test_training_steps",
                  "test_training_mix"]),
}
KILLED, TIMEOUT, UNTRIED = "killed", "timeout", "not checked"


def staged(room: str) -> Path:
    """Lay the repository out as mutmut wants it: → the folder to run it in."""
    files, tests = ROOMS[room]
    there = AWAY / room
    shutil.copytree(ROOT, there / "dit_blocks", ignore=LEFT_OUT, dirs_exist_ok=True)
    for copied in (there / "dit_blocks").rglob("*.py"):  # of an earlier run, since moved
        if not (ROOT / copied.relative_to(there / "dit_blocks")).exists():
            copied.unlink()
    (there / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)  # which test reaches what; it may have changed

    def lines(values: list[str]) -> str:
        return "".join(f"\n    {value}" for value in values)
    test_files = [f"dit_blocks/tests/{name}.py" for name in tests]
    (there / "pytest.ini").write_text("[pytest]\npythonpath = dit_blocks/tests\nmarkers = host: needs a real ComfyUI\n"
                                      "addopts = --confcutdir=dit_blocks/tests --import-mode=importlib -p no:cacheprovider\n")
    (there / "setup.cfg").write_text(
        f"[mutmut]\nsource_paths = dit_blocks/dit_impl\nonly_mutate = {lines([f'dit_blocks/dit_impl/{name}' for name in files])}\n"
        f"also_copy = {lines(['dit_blocks', 'pytest.ini'])}\n"
        f"pytest_add_cli_args_test_selection = {lines(test_files)}\n"
        f"pytest_add_cli_args = {lines(['-c', 'pytest.ini'])}\n"
        "track_dependencies = false\nuse_git_change_detection = false\ntimeout_constant = 10\ntimeout_multiplier = 5\n")
    return there


def run(room: str, processes: int, survivors: bool, every: int) -> dict[str, int]:
    """Try a room's mutants, or every so many of each function's: → verdict → how many."""
    os.chdir(staged(room))
    os.environ["PYTHONPATH"] = str(Path("mutants").resolve())  # of processes that tests start
    from mutmut import __main__ as mutmut
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.runners.harness import PytestRunner
    from mutmut.state import state
    from mutmut.stats import status_by_exit_code
    as_given = PytestRunner.run_tests
    PytestRunner.run_tests = lambda self, *, mutant_name, tests: as_given(
        self, mutant_name=mutant_name, tests=sorted(tests, key=lambda test: state().duration_by_test.get(test, 0)))
    for path in mutmut.walk_mutatable_files():
        data = mutmut.SourceFileMutationData(path=path)
        data.load()
        data.exit_code_by_key = {key: code if status_by_exit_code[code] == KILLED else None for key, code in data.exit_code_by_key.items()}
        if data.exit_code_by_key:
            data.save()
    collected = mutmut.collect_source_file_mutation_data

    def sampled(**which):
        found, by_path = collected(**which)
        return [one for one in found if int(one[1].rpartition("_")[2]) % every == 0], by_path
    mutmut.collect_source_file_mutation_data = sampled
    mutmut._run((), processes)
    told: dict[str, int] = {}
    for data, name, code in collected(mutant_names=())[0]:
        verdict = status_by_exit_code[code]
        told[verdict] = told.get(verdict, 0) + 1
        if survivors and verdict not in (KILLED, TIMEOUT, UNTRIED):
            print(f"# {verdict}: {name}\n{get_diff_for_mutant(name, path=data.path)}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description="How many small mistakes the tests notice.")
    parser.add_argument("rooms", nargs="*", choices=[*ROOMS, []], help="of dit_impl; all if none is named")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try every n-th mistake alone")
    parser.add_argument("--survivors", action="store_true", help="show what nothing noticed")
    asked = parser.parse_args()
    rows = []
    for room in asked.rooms or ROOMS:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:  # mutmut keeps its settings in the process
            told = run(room, asked.processes, asked.survivors, asked.every)
            killed, whole = told.get(KILLED, 0) + told.get(TIMEOUT, 0), sum(told.values())
            tried = whole - told.get(UNTRIED, 0)
            os.write(writer, f"| {room} | {whole:,} | {tried:,} | {killed:,} ({killed / tried:.1%}) |".encode())
            os._exit(0)
        os.close(writer)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{room}: mutmut stopped")
        rows.append(os.read(reader, 1000).decode())
    print("\n".join(["", "| room | mistakes | tried | noticed of those tried |", "|---|---|---|---|", *rows]))


if __name__ == "__main__":
    main()
