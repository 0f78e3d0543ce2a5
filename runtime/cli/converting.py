"""grf convert."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def convert(source: Path, target: Path) -> None:
    """Turn a recording (.grfrec) into an MCAP file (.mcap) or a ROS 2 bag (a folder), or an MCAP file into a recording.

    What a file is, is told by its suffix; a target without one is a bag. An existing target is never written over.
    """
    if target.exists():
        raise click.UsageError(f"{target} is there already")
    count = _convert(source, target)
    click.echo(f"wrote {count} records to {target}")


def _convert(source: Path, target: Path) -> int:
    match source.suffix, target.suffix:
        case ".grfrec", ".mcap":
            from connectors.mcap_segments import to_mcap

            return to_mcap(source, target)
        case ".mcap", ".grfrec":
            from connectors.mcap_segments import from_mcap

            return from_mcap(source, target)
        case ".grfrec", "":
            from connectors.ros_segments import to_bag

            return to_bag(source, target)
    raise click.UsageError(
        f"from {source.suffix or 'a file without suffix'} to {target.suffix or 'a folder'} is no way"
    )
