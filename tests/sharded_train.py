"""`dit-blocks train` as one of several processes under FSDP on CPUs. accelerate turns FSDP on for accelerators alone (`AcceleratorState`:
MULTI_CPU is not among the kinds that become FSDP), so that is done here by hand; all that follows is what it does on them."""

import sys

from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from dit_blocks.dit_impl.training import config, launch
from dit_blocks.standalone.cli import main


class Sharded(launch.Launched):
    def __init__(self):
        super().__init__()
        state = self.accelerator.state
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()
        self.sharded = True

    def prepare(self, objective, optimizers):
        optimizers = super().prepare(objective, optimizers)
        assert all(0 < p.to_local().numel() < p.numel() for p in objective.trained.values() if len(p) > 1)
        return optimizers


if __name__ == "__main__":
    config.Launched = Sharded
    sys.exit(main(["train", sys.argv[1]]))
