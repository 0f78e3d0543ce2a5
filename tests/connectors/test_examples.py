"""Every example is loaded, and does with small data what its bundle expects."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors.base import Sample
from connectors.config import ConnectOptions, load_config
from connectors.contract import run
from connectors.encoding import Encoding
from connectors.errors import BadSample
from connectors.numbered_streams import Segment
from connectors.pipeline import Pipeline
from connectors.process import find_beside
from connectors.supervisor import pipeline_of
from grf_core.bundle import load_bundle
from grf_core.data.physionet_2012 import parse_record

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/*.yaml"))
STREAMS = {
    "CAN": "radar speed steering_angle wheel_speed",
    "IMU": "accelerometer gyro gyro_bias gyro_uncalibrated magnetometer magnetometer_uncalibrated",
    "GNSS": "live_gnss_qcom live_gnss_ublox raw_gnss_qcom raw_gnss_ublox",
}
STAY = """Time,Parameter,Value
00:00,RecordID,42
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,80
00:07,GCS,15
00:07,HR,73
00:07,Temp,35.1
00:37,HR,77
00:37,HR,78
00:37,pH,7.4
01:37,Temp,98.6
01:37,NIMAP,9999
03:10,HCT,33.7
03:10,Weight,80.6
"""


@pytest.fixture(autouse=True)
def path_of_modules() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_every_example_is_a_file_that_can_be_run(file: Path) -> None:
    find_beside(file)
    options = load_config(file, {"COMMA2K19": "/nowhere"})
    for entry in options.sources.values():
        entry.from_.build()
        for route in entry.routes:
            assert route.encoder is None or route.encoder.build()
    assert file.name in (ROOT / "examples" / "README.md").read_text()


async def segments_of(options: ConnectOptions, name: str, samples: list[Sample]) -> tuple[list[Segment], Pipeline]:
    entry = options.sources[name]
    pipeline = pipeline_of(entry.from_.build(), entry)
    factories = {index: route.encoder.build() for index, route in enumerate(entry.routes) if route.encoder}
    encoding = Encoding(pipeline, factories)
    return [*await encoding.take(samples, wall_s=0.0), *await encoding.end()], pipeline


def test_the_car_has_fourteen_streams_that_its_bundle_knows(tmp_path: Path) -> None:
    find_beside(ROOT / "examples" / "car" / "car.yaml")
    example = importlib.import_module("make_bundle")
    example.make(tmp_path / "bundle")
    widths = {one.name: one.width for one in load_bundle(tmp_path / "bundle").config.modalities}
    for folder, streams in STREAMS.items():
        for index, stream in enumerate(streams.split()):
            place = tmp_path / "log" / "processed_log" / folder / stream
            place.mkdir(parents=True)
            times = 46_408.0 + np.arange(0.0, 3.0, 2.0 if "qcom" in stream else 0.01 + 0.01 * index)
            values = np.full((len(times), widths[stream]), np.nan if stream == "radar" else 1.0)
            for name, array in (("t", times), ("value", values)):
                with (place / name).open("wb") as file:
                    np.save(file, array)
    options = load_config(ROOT / "examples" / "car" / "car.yaml", {"COMMA2K19": str(tmp_path / "log"), "SPEED": "max"})

    async def main() -> tuple[list[Segment], Pipeline]:
        async with options.sources["drive"].from_.build().opened() as source:
            samples = [sample async for batch in source for sample in batch]
        assert [sample.event_time_s for sample in samples] == sorted(sample.event_time_s or 0.0 for sample in samples)
        return await segments_of(options, "drive", samples)

    segments, pipeline = run(main())
    assert {segment.modality: segment.frames.shape[1] for segment in segments} == widths
    assert pipeline.tally.bad == {}
    assert max(len(segment.frames) for segment in segments) <= 64


def test_a_bed_gives_the_very_frames_that_its_bundle_was_trained_on() -> None:
    find_beside(ROOT / "examples" / "icu" / "icu.yaml")
    publish = importlib.import_module("publish")
    messages = list(publish.messages_of("bed-42", STAY))
    samples = [
        Sample(
            f"icu/bed-42/{message.kind}",
            json.dumps(message.values).encode(),
            publish.ADMITTED_S + 60.0 * message.minutes,
            None,
            number,
            f"m{number}",
        )
        for number, message in enumerate(messages)
    ]
    options = load_config(ROOT / "examples" / "icu" / "icu.yaml", {})
    segments, pipeline = run(segments_of(options, "ward", samples))
    assert pipeline.tally.bad == {}
    expected = {stream.stream: stream for stream in parse_record("42.txt", "42", STAY)}
    assert {segment.modality for segment in segments} == set(expected)
    for name, stream in expected.items():
        mine = [segment for segment in segments if segment.stream == name]
        assert [segment.event_time_s - publish.ADMITTED_S for segment in mine] == stream.times_s.tolist()
        assert np.allclose(np.concatenate([segment.frames for segment in mine]), stream.frames, atol=1e-6)
    bundle = load_bundle(ROOT / "bundles" / "physionet-2012").config
    assert {one.name: one.width for one in bundle.modalities} == {
        segment.modality: segment.frames.shape[1] for segment in segments
    }


def test_a_beds_encoder_goes_on_from_its_snapshot_and_refuses_what_it_does_not_know() -> None:
    find_beside(ROOT / "examples" / "icu" / "icu.yaml")
    example = importlib.import_module("icu_encoder")

    def chart(minutes: int, **values: float) -> Sample:
        return Sample("icu/b/vitals", json.dumps(values).encode(), 60.0 * minutes)

    async def frames(encoder: Any, *samples: Sample) -> list[Any]:
        return [made.values.tolist() for made in await encoder.encode(samples=samples)]

    one, other = example.Bedside("vitals"), example.Bedside("vitals")
    first = run(frames(one, chart(1, HR=70.0), chart(2, Temp=37.0)))
    assert len(first) == 2
    other.restore(state=one.snapshot())
    assert run(frames(one, chart(90, HR=80.0))) == run(frames(other, chart(90, HR=80.0)))
    for bad in (
        chart(91, Mood=1.0),
        Sample("k", b"[1]", 1.0),
        Sample("k", b"{", 1.0),
        Sample("k", b'{"HR": "x"}', 1.0),
    ):
        with pytest.raises(BadSample):
            run(frames(one, chart(91, HR=1e9), bad))
    with pytest.raises(BadSample, match="none of patient"):
        example.Measurements().encoder(stream="b/imaging")


def test_a_watch_gives_what_the_bundle_motion_knows() -> None:
    options = load_config(ROOT / "examples" / "watch" / "watch.yaml", {})
    samples = []
    for number in range(180):  # three seconds at 60 Hz
        at_s = 1_700_000_000.0 + number / 60
        motion = {"t": at_s * 1000, "a": [math.sin(number / 9), 0.0, 9.81], "r": [1.0, 2.0, 3.0]}
        samples.append(Sample("phone/mine", json.dumps(motion).encode(), None, at_s + 0.03))
    segments, pipeline = run(segments_of(options, "page", samples))
    assert pipeline.tally.bad == {}
    bundle = load_bundle(ROOT / "bundles" / "motion").config
    widths = {one.name: (one.width, one.max_frames) for one in bundle.modalities}
    for modality, (width, max_frames) in widths.items():
        mine = [segment for segment in segments if segment.modality == modality]
        assert [len(segment.frames) for segment in mine] == [10, 10, 10]
        assert all(segment.frames.shape[1] == width and len(segment.frames) <= max_frames for segment in mine)
        assert {segment.session for segment in mine} == {"mine"}
