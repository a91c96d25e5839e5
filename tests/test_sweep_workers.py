"""How many workers a sweep has, and the processes that `--workers` of other commands starts."""

from importlib.util import find_spec
import os
from types import SimpleNamespace

import pytest

from dit_blocks.standalone.errors import WorkflowError
from dit_blocks.standalone.sweep import drive
from dit_blocks.standalone.sweep.plan import Workers


@pytest.mark.parametrize("asked,room", [(dict(), 8), (dict(gpus=1), 2), (dict(gpus=0.5, count=3), 3), (dict(cpus=3), 2), (dict(gpus=4), 0)])
def test_workers_are_as_many_as_there_is_room_for(asked, room):
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0})
    if room:
        assert drive.places(ray, Workers(**asked)) == room
    else:
        with pytest.raises(WorkflowError, match=r"^\[workers\] takes 1 CPUs and 4 GPUs each, where there are 8 and 2$"):
            drive.places(ray, Workers(**asked))


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not here: pip install 'dit-blocks[sweep]'")
def test_processes_of_eval_and_the_benchmarks_answer_in_order():
    with drive.each_in(2) as each:
        found = list(each(lambda item: (os.getpid(), -item), range(6)))
    assert [value for _, value in found] == [0, -1, -2, -3, -4, -5] and os.getpid() not in {process for process, _ in found}
    with drive.each_in(0) as each:
        assert each is map
    with pytest.raises(WorkflowError, match="--workers is at least 0, not -1"), drive.each_in(-1):
        pass
