"""One process of a small run; started by torchrun, or alone.

python tests/e2e/train_worker.py FOLDER SETTINGS [--stop-after STEPS] [--hit-at STEP --hit-by SIGNAL --hit-rank RANK] [--poison STEP …]
python tests/e2e/train_worker.py FOLDER SETTINGS --counts FILE
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from cellfm.config import PretrainConfig, from_dict, to_dict
from cellfm.nn import CellFM
from cellfm.train import loop, open_world, pretrain
from tests.unit.train.conftest import Job, TwoKinds, small_config

LANES = 4
# Which library multiplies is chosen with a stopwatch when a run begins; on a busy machine two runs may choose otherwise.
loop.routing_pays = lambda dim: False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--hit-at", type=int, default=-1)
    parser.add_argument("--hit-by", default="SIGKILL")
    parser.add_argument(
        "--hit-rank", type=int, default=0, help="of the process that gets the signal"
    )
    parser.add_argument("--poison", type=int, nargs="*", default=())
    parser.add_argument("--counts", type=Path, help="h5ad file to pretrain on as users do")
    options = parser.parse_args()
    if options.counts:
        pretrain_on_counts(options)
        return
    job = Job(root=options.folder.parent, config=config(options.settings))
    with open_world("cpu") as world, torch.device("meta"):
        network = CellFM(job.config.model)
        with torch.device("cpu"):
            result = pretrain(
                job.config,
                TwoKinds(n_lanes=LANES, poison=tuple(options.poison)),
                network=network,
                run_folder=job.folder(options.folder.name),
                held_out=[job.held_out] if world.is_first else [bare(job)],
                world=world,
                stop_after=options.stop_after,
                progress=lambda now: hit(now.step, world.rank, options),
            )
            if world.is_first:
                save_file(dict(result.network.state_dict()), options.folder / "whole.safetensors")
                sys.stdout.write(f"{result.step} {result.skipped}\n")


def pretrain_on_counts(options: argparse.Namespace) -> None:
    """Cells, masks and baselines are those of the package, not invented here."""
    from cellfm.genes import Vocabulary
    from cellfm.tl import pretrain_file

    symbols = json.loads(options.counts.with_suffix(".genes.json").read_text())
    result = pretrain_file(
        options.counts,
        config(options.settings),
        options.folder,
        vocabulary=Vocabulary.from_symbols(symbols),
        device="cpu",
    )
    if result.network is not None:
        save_file(dict(result.network.state_dict()), options.folder / "whole.safetensors")
        sys.stdout.write(f"{result.step} {result.skipped}\n")


def config(settings: dict[str, dict[str, object]]) -> PretrainConfig:
    content = to_dict(small_config())
    for section, fields in settings.items():
        content[section] |= fields
    return from_dict(PretrainConfig, content)


def bare(job: Job):
    """Held-out cells as the other processes have them: without baselines."""
    from dataclasses import replace

    return replace(job.held_out, baselines={})


def hit(step: int, rank: int, options: argparse.Namespace) -> None:
    if step == options.hit_at and rank == options.hit_rank:
        os.kill(os.getpid(), getattr(signal, options.hit_by))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as interrupt:
        sys.exit(128 + interrupt.args[0])
