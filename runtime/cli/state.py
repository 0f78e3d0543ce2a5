"""grf state export|import|inspect, grf digest: the store itself, whether or not the runtime is up."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

import click
import numpy as np
from rich.progress import Progress, SpinnerColumn, TextColumn

from runtime.cli.common import NOT_AS_IT_SHOULD_BE, read_settings, settings_options, shown
from runtime.digest import TOLERANCE, SettledSession, difference, digest_of
from runtime.records import SessionRecord
from runtime.rival import is_at_work
from runtime.state_dir import StartError, state_lock
from runtime.store.archive import read_archive, write_archive
from runtime.store_source import open_store, read_store

IMPORT_AT_ONCE = 500


@click.group()
def state() -> None:
    """Export, import and inspect the store."""


@state.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@settings_options
def export_state(file: Path, config: str | None, flags: tuple[str, ...]) -> None:
    """Write all sessions to FILE (.grfstate): a consistent snapshot, also while the runtime is up."""
    records = read_store(read_settings(config, flags))
    with Progress(SpinnerColumn(), TextColumn("{task.completed} sessions"), transient=True) as progress:
        task = progress.add_task("", total=None)
        count = write_archive(file, progress.track(records, task_id=task))
    click.echo(f"{count} sessions in {file}")


@state.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@settings_options
def import_state(file: Path, config: str | None, flags: tuple[str, ...]) -> None:
    """Put all sessions of FILE into the store, over what it has of them. The runtime must be down."""
    settings = read_settings(config, flags)
    for _ in read_archive(file):
        pass  # one that was cut short is not half imported
    records = read_archive(file)
    with (
        state_lock(Path(settings.runtime.state_dir)),
        closing(open_store(settings)) as store,
        Progress(SpinnerColumn(), TextColumn("{task.completed} sessions"), transient=True) as bar,
    ):
        # The lock is of this machine; and what a runtime has in memory it would write over what is imported.
        if settings.runtime.store != "sqlite" and is_at_work(store, settings.runtime.lease_s):
            raise StartError("a runtime is at work on this store: stop it first")
        task = bar.add_task("", total=None)
        while batch := list(islice(records, IMPORT_AT_ONCE)):
            store.restore(batch)
            bar.advance(task, len(batch))
        count = int(bar.tasks[task].completed)
    click.echo(f"{count} sessions from {file}")


@state.command("inspect")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@settings_options
@click.option("--session", help="All that is stored of this session, as JSON.")
@click.option("--tenant", default="default", show_default=True)
def inspect_state(
    file: Path | None, config: str | None, flags: tuple[str, ...], session: str | None, tenant: str
) -> None:
    """One line per session of the store, or of FILE."""
    for record in _records(file, config, flags):
        if session is None:
            click.echo(
                f"{record.key.tenant}/{record.key.session}  version {record.version}  event time"
                f" {record.event_time_s:.3f}  streams {len(record.streams)}  model {shown(record.model_digest[:12])}"
            )
        elif record.key == (tenant, session):
            click.echo(shown(json.dumps(_as_json(record), indent=2, ensure_ascii=False)))
            return
    if session is not None:
        raise click.ClickException(f"no session {session!r} of tenant {tenant!r}")


@click.command()
@settings_options
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Of an archive instead.")
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare with this archive (.grfstate), session by session; exit code 4 if they differ.",
)
def digest(config: str | None, flags: tuple[str, ...], file: Path | None, against: Path | None) -> None:
    """One digest of all settled states in the store; prints one JSON object.

    Equal digests: the same segments were fused once each, in the same order. `contexts` is equal if the contexts are,
    to the bit, which holds on one machine while batches are alike; --against gives their largest difference instead,
    as a part of a context's largest number where that is above 1.
    """
    records = {record.key: record for record in _records(file, config, flags)}
    answer: dict[str, object] = {"sessions": len(records), "digest": _digest(records.values())}
    answer["segments"] = sum(record.version for record in records.values())
    answer["contexts"] = digest_of(
        SettledSession(*record.key, record.version, b"".join(_context_bytes(record)).hex())
        for record in records.values()
    )
    code = 0
    if against is not None:
        others = {record.key: record for record in read_archive(against)}
        differing = [key for key in records.keys() | others.keys() if not _same(records.get(key), others.get(key))]
        largest = max((_distance(records[key], others[key]) for key in records.keys() & others.keys()), default=0.0)
        answer |= {"differing_sessions": len(differing), "largest_context_difference": largest}
        code = NOT_AS_IT_SHOULD_BE if differing or largest > TOLERANCE else 0
    click.echo(json.dumps(answer))
    sys.exit(code)


def _records(file: Path | None, config: str | None, flags: tuple[str, ...]) -> Iterable[SessionRecord]:
    return read_archive(file) if file is not None else read_store(read_settings(config, flags))


def _digest(records: Iterable[SessionRecord]) -> str:
    return digest_of(SettledSession(*record.key, record.version, record.lineage.hex()) for record in records)


def _context_bytes(record: SessionRecord) -> list[bytes]:
    return [] if record.context_KD is None else [np.ascontiguousarray(record.context_KD, dtype="<f4").tobytes()]


def _same(one: SessionRecord | None, other: SessionRecord | None) -> bool:
    return one is not None and other is not None and (one.version, one.lineage) == (other.version, other.lineage)


def _distance(one: SessionRecord, other: SessionRecord) -> float:
    if one.context_KD is None or other.context_KD is None:
        return 0.0 if one.context_KD is other.context_KD else float("inf")
    if one.context_KD.shape != other.context_KD.shape:
        return float("inf")
    return difference(one.context_KD, other.context_KD)


def _as_json(record: SessionRecord) -> dict[str, object]:
    return {
        "tenant": record.key.tenant,
        "session": record.key.session,
        "version": record.version,
        "event_time_s": record.event_time_s,
        "watermark_s": record.watermark_s,
        "lineage": record.lineage.hex(),
        "model_digest": record.model_digest,
        "outputs": record.outputs,
        "shares": record.shares,
        "gate": record.gate,
        "freshness_s": record.freshness_s,
        "streams": [
            {
                "stream": stream.stream,
                "modality": stream.modality,
                "settled_upto": stream.settled_upto,
                "settled_above": stream.settled_above,
            }
            for stream in record.streams
        ],
        "context": None if record.context_KD is None else record.context_KD.tolist(),
        "reset_reason": record.reset_reason,
        "history_rows": len(record.history),
    }
