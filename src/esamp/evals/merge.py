"""One run from several that share a configuration and have seeds of their own. Source: ours.

A run does seed after seed, so its logs are those of its seeds one behind the other: seeds may be
done at the same time, on several machines.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from esamp.errors import UsageError
from esamp.evals.config import RunConfig
from esamp.evals.folder import CALIBRATION, ENVIRONMENT, RunFolder, key_of
from esamp.evals.paper import FILE as PAPER
from esamp.evals.run import sum_up

Parts = Sequence[tuple[RunFolder, RunConfig]]


def merge_runs(parts: Parts, into: Path) -> dict[str, Any]:
    """Write the run that would have done all seeds, in the order of the parts; return its summary.

    A merge that was cut is gone on with, and parts may be added behind those that are merged.

    Args:
        parts: Complete runs, and their configurations.
        into: Folder of the whole.

    Raises:
        UsageError: They are not complete, not of one configuration, have a seed in common or
            matched arms at different temperatures; or `into` holds something else.
        EsampError: The disk is full; what was done stays.
    """
    config = _whole(parts)
    first = parts[0][0]
    beside = {
        "items.json": first.read("items.json"),
        PAPER: first.read(PAPER) if first.has(PAPER) else {},
        ENVIRONMENT: _environment(parts),
        CALIBRATION: _calibration(parts),
    }
    for part, its in parts:
        _check_complete(part, its)
    with RunFolder.open(into, config) as folder:
        for name, data in beside.items():
            if data:
                folder.write(name, data)
        keys = [[key] for batch in config.batches() for key in batch.keys]
        for number, log in enumerate(folder.logs(config)):
            done = log.resume(keys)
            lines = chain.from_iterable(part.logs(its)[number].lines() for part, its in parts)
            log.append(islice(lines, done, None))
        folder.timings.mend()
        known = {key_of(line) for line in folder.timings.lines()}
        lines = chain.from_iterable(part.timings.lines() for part, _ in parts)
        folder.timings.append(line for line in lines if key_of(line) not in known)
        return sum_up(config, folder)


def _whole(parts: Parts) -> RunConfig:
    """Return the first configuration with the seeds of all."""
    first, config = parts[0]
    seeds: dict[int, Path] = {}
    for part, its in parts:
        different = dataclasses.replace(its, seeds=config.seeds).differences(config.to_json())
        if different:
            raise UsageError(
                f"{part.path} is not of the configuration of {first.path} "
                f"({'; '.join(different)}): merge runs that differ in nothing but seeds"
            )
        for seed in its.seeds:
            if seed in seeds:
                raise UsageError(
                    f"seed {seed} is in {seeds[seed]} and in {part.path}: give each seed once"
                )
            seeds[seed] = part.path
    return dataclasses.replace(config, seeds=list(seeds))


def _check_complete(part: RunFolder, config: RunConfig) -> None:
    for log in part.logs(config):
        keys = (key for batch in config.batches() for key in batch.keys)
        if any(line is None or key_of(line) != key for key, line in zip_longest(keys, log.lines())):
            raise UsageError(
                f"{part.path} is not complete ({log.path.name}): give its `esamp eval` again, and "
                "it goes on where it stopped"
            )


def _calibration(parts: Parts) -> dict[str, Any]:
    """Return the temperatures of matched arms, one for all seeds as in one run."""
    found = [(part.path, part.read(CALIBRATION)) for part, _ in parts if part.has(CALIBRATION)]
    for path, data in found:
        if data != found[0][1]:
            raise UsageError(
                f"{path} and {found[0][0]} found different temperatures for matched arms, where "
                "one run has one: begin with one seed, and start the others with its "
                "calibration.json in their folders"
            )
    return found[0][1] if found else {}


def _environment(parts: Parts) -> Mapping[str, Any]:
    """Return what all parts ran on, or where that differs, what each did."""
    each = {str(part.path): part.read(ENVIRONMENT) for part, _ in parts}
    first = next(iter(each.values()))
    return first if all(data == first for data in each.values()) else each
