"""The `dit-blocks` command: its options, what it prints, and its exit status."""

import argparse
from contextlib import contextmanager
import json
import os
from pathlib import Path
import sys
from typing import Iterator, Sequence

from .errors import NodeError, WorkflowError, one_line, plain, visible

DONE, NODE_FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: → exit status: 0 done, 1 a node failed, 2 the workflow or an option is wrong, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or file that has not every letter, as on Windows, gets escapes for the others
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        return arguments.command(arguments)
    except WorkflowError as error:
        return _fail(WRONG, error)
    except NodeError as error:
        return _fail(NODE_FAILED, error)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # The program that read our output has ended. Without this, Python would complain once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _fail(status: int, why: BaseException | str) -> int:
    print(f"dit-blocks: {why if isinstance(why, str) else one_line(why)}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with an option, where argparse would print the usage."""

    def error(self, message: str):
        raise WorkflowError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dit-blocks", description="DiT Blocks without ComfyUI.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser("run", help="run a workflow and print the pictures it saves")
    run.add_argument("workflow", type=Path, help="a workflow: JSON in the front end's or the API's form, or a picture that carries one")
    _folder_options(run)
    run.add_argument("--set", dest="overrides", metavar="NODE.input=VALUE", action="append", default=[],
                     help="override a widget; NODE is a node's id or title")
    run.add_argument("--json", action="store_true", help="print one JSON object")
    run.set_defaults(command=_run)

    serve = commands.add_parser("serve", help="ComfyUI's front end over the pack, in a browser on this machine")
    serve.add_argument("--port", type=int, default=8188, help="where to listen (8188)")
    serve.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1",
                       help="let other machines in: 0.0.0.0 for all of them (127.0.0.1: none)")
    _folder_options(serve)
    serve.add_argument("--user", type=Path, default=Path("user"), help="folder of settings and saved workflows (./user)")
    serve.add_argument("--max-upload", type=float, metavar="MB", default=50, help="the largest picture or workflow to take (50)")
    serve.add_argument("--front-end", type=Path, metavar="DIR", help="another front end's files than the installed one's")
    serve.add_argument("--open", choices=["yes", "no"], default="no", help="open it in a browser (no)")
    serve.set_defaults(command=_serve)

    nodes = commands.add_parser("nodes", help="list the nodes")
    nodes.add_argument("--json", action="store_true", help="print all that ComfyUI's /object_info says of them")
    nodes.set_defaults(command=_nodes)

    evaluate = commands.add_parser("eval", help="measure the embedded model")
    evaluate.add_argument("model", choices=["embedded"])
    evaluate.add_argument("--prompts", type=Path, help="a file of prompts, one a line, in place of the held-out ones")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.add_argument("--workers", type=int, default=0, metavar="N", help="draw in so many processes by Ray (0: in this one)")
    evaluate.set_defaults(command=_evaluate)

    sweep = commands.add_parser("sweep", help="run a workflow over many values of its widgets; started again, it goes on where it was")
    sweep.add_argument("sweep", type=Path, help="a TOML file: workflow, [grid] or [[entry]], [workers] and [sheet]")
    sweep.add_argument("--out", type=Path, help="folder for the results, in place of the one that the file names")
    sweep.add_argument("--comfyui", metavar="URL", action="append", default=[],
                       help="queue the cells in a running ComfyUI, with its own models; several for several of them")
    sweep.add_argument("--again", action="store_true", help="run the cells that failed once more")
    sweep.add_argument("--input", type=Path, default=Path("input"), help="folder that LoadImage reads from (./input)")
    sweep.add_argument("--models", type=Path, default=Path("models"),
                       help="folder of models, with diffusers and diffusion_models in it (./models)")
    sweep.set_defaults(command=_sweep)

    train = commands.add_parser("train", help="train a model; started again, it goes on where it was; also under accelerate launch")
    train.add_argument("config", type=Path, help="a TOML file: [model], [set] and [train], or the default model's recipe")
    train.set_defaults(command=_train)
    return parser


def _folder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("output"), help="folder for the pictures (./output)")
    parser.add_argument("--input", type=Path, default=Path("input"), help="folder that LoadImage reads from (./input)")
    parser.add_argument("--models", type=Path, default=Path("models"),
                        help="folder of models, with diffusers and diffusion_models in it (./models)")


def _run(arguments: argparse.Namespace) -> int:
    from . import pack, version
    from .executor import Executor
    from .folders import Folders, private_temp, use
    from .node_types import NodeType
    from .workflow import override, read_workflow, title

    _check_is_file(arguments.workflow)
    if arguments.out.exists() and not arguments.out.is_dir():
        raise WorkflowError(f"--out {arguments.out}: it is a file, not a folder")
    classes = pack.load()
    types = {name: NodeType(name, cls) for name, cls in classes.items()}
    folders = Folders(arguments.input.absolute(), arguments.out.absolute(), private_temp(), arguments.models.absolute())
    with use(folders):
        workflow = read_workflow(arguments.workflow, types)
        if newer := version.note(workflow.saved, pack.own_version()):
            print(plain(f"dit-blocks: {arguments.workflow}: {newer}"), file=sys.stderr)
        for option in arguments.overrides:
            override(workflow, option, types)
    executor = Executor(classes, folders)
    with _progress_line() as progress:
        pack.listen(progress.step if progress.shown else None)
        report = executor.run(workflow.prompt, workflow.extra_pnginfo,
                              lambda id: progress.begin(title(id, workflow.prompt, types)))

    images = [str(folders.of(image["type"]) / image["subfolder"] / image["filename"])
              for shown in report.ui.values() for image in shown.get("images", ())]
    if arguments.json:
        nodes = [{"id": node.id, "type": node.type, "seconds": round(node.seconds, 4), "cached": node.cached}
                 for node in report.nodes]
        print(json.dumps({"images": images, "seconds": round(report.seconds, 3), "device": pack.device(),
                          "nodes": nodes}))
        return DONE
    for id, shown in report.ui.items():
        for text in shown.get("text", ()):
            print(visible(f"{title(id, workflow.prompt, types)}: {text}"))
    for image in images:
        print(visible(image))
    return DONE


def _check_is_file(path: Path, option: str = "") -> None:
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero in it
        raise WorkflowError(f"{option}{path}: {getattr(error, 'strerror', None) or one_line(error)}") from error
    if not found:
        raise WorkflowError(f"{option}{path}: there is no such file")


class _Progress:
    """One line on the terminal that says which node is running, and how far it is."""

    def __init__(self, shown: bool):
        self.shown, self.title = shown, ""

    def begin(self, title: str) -> None:
        self.title = title
        self._write(title)

    def step(self, value: int, total: int, preview: object = None) -> None:
        self._write(f"{self.title} {value}/{total}")

    def _write(self, text: str) -> None:
        if self.shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


@contextmanager
def _progress_line() -> Iterator[_Progress]:
    progress = _Progress(sys.stderr.isatty())
    try:
        yield progress
    finally:
        progress._write("")


def _serve(arguments: argparse.Namespace) -> int:
    from .server.start import serve

    serve(arguments)
    return DONE


def _nodes(arguments: argparse.Namespace) -> int:
    from . import pack
    from .folders import Folders, use
    from .node_types import NodeType

    with use(Folders()):
        infos = {name: NodeType(name, cls).info() for name, cls in pack.load().items()}
    if arguments.json:
        print(json.dumps(infos))
    else:
        width = max(map(len, infos))
        for name, info in infos.items():
            print(f"{name:{width}}  {info['display_name']}")
    return DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.prompts is not None:
        _check_is_file(arguments.prompts, "--prompts ")
    from ..dit_impl.training.default_model.evaluate import evaluate_embedded

    from .sweep.drive import each_in

    with _progress_line() as progress, _mistakes_are_the_users(), each_in(arguments.workers) as each:
        progress.begin("eval")
        measures = evaluate_embedded(arguments.prompts, progress.step, each)
    print(json.dumps(measures) if arguments.json else _table(measures))
    return DONE


def _table(measures: dict, before: str = "") -> str:
    """Nested measures, one a line: `accuracy.single.2  0.99`."""
    lines = []
    for name, value in measures.items():
        lines.append(_table(value, f"{before}{name}.") if isinstance(value, dict) else f"{before}{name}  {value}")
    return "\n".join(lines)


def _train(arguments: argparse.Namespace) -> int:
    _check_is_file(arguments.config)
    from ..dit_impl.training.default_model.recipe import is_recipe, train

    with _mistakes_are_the_users():
        if is_recipe(arguments.config):
            train(arguments.config)
        else:
            from ..dit_impl.training.config import train_by
            from ..dit_impl.training.toml import read_toml
            from . import pack
            from .dataset_nodes import read_folder

            print(visible(str(train_by(read_toml(arguments.config), arguments.config.parent, read_folder, pack.free_ram()))))
    return DONE


def _sweep(arguments: argparse.Namespace) -> int:
    _check_is_file(arguments.sweep)
    from .sweep import command

    try:
        with _mistakes_are_the_users():
            failed = command.sweep(arguments.sweep, arguments.out, arguments.input.absolute(), arguments.models.absolute(), arguments.comfyui,
                                   arguments.again)
    except ImportError as error:
        raise command.needs(error) from error
    return NODE_FAILED if failed else DONE


@contextmanager
def _mistakes_are_the_users() -> Iterator[None]:
    """A value or file that the library refuses is a wrong option, and so is one that takes more memory than there is."""
    try:
        yield
    except (ValueError, OSError, MemoryError, RecursionError) as error:
        raise WorkflowError(one_line(error)) from error
    except RuntimeError as error:  # torch has no error of its own for main memory
        if "memory" not in str(error):
            raise
        raise WorkflowError(f"out of memory: {one_line(error)}") from error


if __name__ == "__main__":
    sys.exit(main())
