"""Files as they are, and as they should not be. Every file is made here."""

from __future__ import annotations

import asyncio
import struct
import wave
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pydantic import ValidationError

from connectors.base import Sample
from connectors.errors import BadSample, SourceBroken
from connectors.media import Undecodable, picture_of, sound_of
from connectors.media_file import MediaFileOptions, tracks_in
from tests.connectors.media_materials import grey, tone, write_media
from tests.connectors.samples import times_of


def read(path: Path, position: Any = None, **options: Any) -> list[Sample]:
    return list(MediaFileOptions(path=str(path), **options).build().samples(position))


def read_until_error(path: Path, **options: Any) -> tuple[list[Sample], str]:
    samples: list[Sample] = []
    with pytest.raises(SourceBroken) as told:
        samples.extend(MediaFileOptions(path=str(path), **options).build().samples(None))
    return samples, str(told.value)


def pictures_of(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.stream_key.endswith("/pictures")]


def sound_in(samples: list[Sample]) -> np.ndarray:
    return np.concatenate([sound_of(sample) for sample in samples if sample.stream_key.endswith("/sound")])


def test_pictures_and_sound_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    path = write_media(tmp_path / "talk.mkv", [grey(number) for number in range(25)], tone(440, 1.0))
    samples = read(path, start=100.0)
    assert [sample.stream_key for sample in samples[:2]] == ["talk/pictures", "talk/sound"]
    times = times_of(samples)
    assert times == sorted(times)
    assert [sample.event_time_s for sample in pictures_of(samples)] == pytest.approx(
        [100 + number / 25 for number in range(25)]
    )
    np.testing.assert_array_equal(sound_in(samples), tone(440, 1.0))
    assert [sample.position for sample in samples] == list(range(1, len(samples) + 1))


def test_sound_of_any_rate_and_channels_becomes_one_channel_at_16_khz(tmp_path: Path) -> None:
    stereo = write_media(tmp_path / "a.wav", sound=tone(1000, 1.0, rate_hz=44_100), rate_hz=44_100, channels=2)
    sound = sound_in(read(stereo, pictures=False))
    assert abs(len(sound) - 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(sound[:16_000].astype(float)))
    assert int(spectrum.argmax()) == pytest.approx(1000 * len(sound[:16_000]) / 16_000, abs=1)
    assert np.abs(sound[100:-100]).max() == pytest.approx(8000, rel=0.02)


@pytest.mark.parametrize("block_s", [0.032, 0.1, 1.0])
def test_blocks_have_one_length_and_their_times_are_those_of_their_first_number(tmp_path: Path, block_s: float) -> None:
    path = write_media(tmp_path / "a.wav", sound=tone(300, 2.05))
    samples = read(path, pictures=False, block_s=block_s, start=0.0)
    assert {len(sample.value) for sample in samples[:-1]} == {round(block_s * 16_000)}
    assert [sample.event_time_s for sample in samples] == pytest.approx([n * block_s for n in range(len(samples))])


@pytest.mark.parametrize(("has_hz", "asked_hz", "given"), [(50, 25, 25), (25, 25, 25), (30, 25, 25), (10, 25, 10)])
def test_the_rate_of_pictures_is_bounded_and_never_filled_up(
    tmp_path: Path, has_hz: int, asked_hz: float, given: int
) -> None:
    # Matroska keeps milliseconds: times are rounded, and none of the pictures may be lost by that.
    path = write_media(tmp_path / "a.mkv", [grey(n % 30) for n in range(has_hz)], pictures_hz=has_hz)
    samples = read(path, sound=False, pictures_hz=asked_hz, start=0.0)
    assert len(samples) == given
    steps = [b - a for a, b in pairwise(times_of(samples))]
    assert min(steps) > 0.5 / asked_hz


def test_wide_pictures_are_made_smaller_and_keep_their_shape(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", [grey(3, width=128, height=96)] * 3)
    assert {sample.value.shape for sample in read(path, sound=False, width=64)} == {(48, 64, 3)}
    assert {sample.value.shape for sample in read(path, sound=False, width=256)} == {(96, 128, 3)}


CORNERS = np.repeat(np.repeat(np.array([[30, 90, 150], [60, 120, 210]], np.uint8), 24, axis=0), 24, axis=1)
"""[48, 72] of six fields, none like another"""


@pytest.mark.parametrize(
    ("turned", "shown"),
    [
        ({"degrees": 0}, CORNERS),
        ({"degrees": 90}, np.rot90(CORNERS)),
        ({"degrees": 180}, np.rot90(CORNERS, 2)),
        ({"degrees": -90}, np.rot90(CORNERS, -1)),
        ({"degrees": 0, "hflip": True}, CORNERS[:, ::-1]),
        ({"degrees": 0, "vflip": True}, CORNERS[::-1]),
        ({"degrees": 90, "hflip": True}, np.rot90(CORNERS)[:, ::-1]),
        ({"degrees": -90, "hflip": True}, np.rot90(CORNERS, -1)[:, ::-1]),
    ],
)
def test_pictures_stand_as_they_are_to_be_shown(tmp_path: Path, turned: dict[str, Any], shown: np.ndarray) -> None:
    path = write_media(tmp_path / "a.mkv", [np.stack([CORNERS] * 3, axis=2)] * 2, turned=turned)
    for sample in read(path, sound=False):
        np.testing.assert_array_equal(picture_of(sample)[:, :, 0], shown)
    height, width = shown.shape
    smaller = {sample.value.shape for sample in read(path, sound=False, width=24)}
    assert smaller == {(round(24 * height / width), 24, 3)}


def test_after_a_position_everything_is_what_it_was(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "a.mp4", [grey(n) for n in range(25)], tone(440, 1.0), video="mpeg4", audio="aac", rate_hz=16_000
    )
    samples = read(path)
    for cut in (1, 13, len(samples)):
        rest = read(path, position=samples[cut - 1].position)
        assert len(rest) == len(samples) - cut
        for before, again in zip(samples[cut:], rest, strict=True):
            assert before[:1] + before[2:5] == again[:1] + again[2:5]
            np.testing.assert_array_equal(before.value, again.value)


@pytest.mark.parametrize("position", ["there", -1, 1.5, True])
def test_a_position_of_something_else_is_refused(tmp_path: Path, position: Any) -> None:
    path = write_media(tmp_path / "a.wav", sound=tone(440, 0.5))
    with pytest.raises(SourceBroken, match="no position"):
        read(path, position=position, pictures=False)


def test_the_start_is_given_or_told_by_the_file_or_zero(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.wav", sound=tone(440, 0.5))
    assert read(path, pictures=False)[0].event_time_s == 0.0
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert read(path, pictures=False, start="2026-01-01T13:00:00+01:00")[0].event_time_s == noon.timestamp()
    with pytest.raises(ValidationError, match="zone"):
        read(path, pictures=False, start="2026-01-01T12:00:00")
    with pytest.raises(ValidationError, match=r"'1700000000.5' is no date .* seconds since 1970 stand without quotes"):
        read(path, pictures=False, start="1700000000.5")
    dated = tmp_path / "dated.mp4"
    with av.open(str(dated), "w") as container:
        container.metadata["creation_time"] = "2026-01-01T12:00:00Z"
        track = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(440, 0.5)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    assert read(dated, pictures=False)[0].event_time_s == pytest.approx(noon.timestamp(), abs=0.1)


# ---- what is wrong with files ----


def test_a_track_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    silent = write_media(tmp_path / "silent.mkv", [grey(1)] * 5)
    _, reason = read_until_error(silent)
    assert "silent.mkv has no audio track; sound: false" in reason
    assert tracks_in(str(silent)) == {"pictures"}
    assert len(read(silent, sound=False)) == 5


@pytest.mark.parametrize("content", [b"", b"this is no video" * 100, bytes(range(256)) * 40])
def test_what_is_no_media_file_is_told_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)
    _, reason = read_until_error(path)
    assert "notes.mp4" in reason
    with pytest.raises(SourceBroken, match="notes"):
        tracks_in(str(path))


def test_a_file_that_is_not_there_breaks_and_is_not_waited_for(tmp_path: Path) -> None:
    _, reason = read_until_error(tmp_path / "nowhere.mp4")
    assert "nowhere.mp4" in reason


@pytest.mark.parametrize(
    ("name", "audio", "told"),
    [("a.avi", "pcm_s16le", "pictures: it is cut short"), ("a.mkv", "aac", "its header says 4.1 s")],
)
def test_a_truncated_file_is_given_as_far_as_it_goes_and_then_told(
    tmp_path: Path, name: str, audio: str, told: str
) -> None:
    path = write_media(tmp_path / name, [grey(n % 30) for n in range(100)], tone(440, 4.0), video="mpeg4", audio=audio)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    samples, reason = read_until_error(path)
    assert told in reason
    good = [sample for sample in samples if not isinstance(sample.value, Undecodable)]
    assert 20 < len(good) < 80


def test_a_truncated_file_without_its_index_is_told_at_once(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", [grey(n % 30) for n in range(50)], video="mpeg4")
    path.write_bytes(path.read_bytes()[:-200])
    samples, reason = read_until_error(path, sound=False)
    assert samples == []
    assert "a.mp4" in reason


@pytest.mark.parametrize("says", [0xFFFF_FF00, 0x7000_0000])
def test_a_header_that_lies_about_gigabytes_costs_nothing(tmp_path: Path, says: int) -> None:
    path = tmp_path / "large.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone(440, 1.0).tobytes())
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", says)
    path.write_bytes(content)
    samples, reason = read_until_error(path, pictures=False)
    assert "its header lies" in reason
    assert sum(len(sample.value) for sample in samples) == 16_000


def test_a_picture_larger_than_any_screen_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.avi", [grey(1)] * 3, video="mjpeg")
    content = path.read_bytes()
    # Width and height in the stream's header, and in the picture's.
    lying = content.replace(struct.pack("<II", 64, 48), struct.pack("<II", 30_000, 30_000))
    lying = lying.replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 30_000, 30_000))
    assert lying != content
    path.write_bytes(lying)
    _, reason = read_until_error(path, sound=False)
    assert "30000" in reason or "could be decoded" in reason


def packets_of(path: Path) -> list[tuple[int, int]]:
    """Where each packet of pictures is in the file, and its size."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def test_a_broken_packet_keeps_its_place_and_the_others_are_decoded(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.avi", [grey(n) for n in range(20)], video="mpeg4")
    at, size = packets_of(path)[7]
    content = bytearray(path.read_bytes())
    content[at + 8 : at + 8 + size // 2] = bytes(size // 2)
    path.write_bytes(content)
    samples = read(path, sound=False, start=0.0)
    broken = [number for number, sample in enumerate(samples) if isinstance(sample.value, Undecodable)]
    assert broken == [7]
    assert len(samples) == 20
    assert samples[7].event_time_s == pytest.approx(7 / 25, abs=1e-3)
    with pytest.raises(BadSample, match="Invalid data"):
        picture_of(samples[7])


def test_a_codec_broken_from_end_to_end_is_told(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.avi", [grey(n) for n in range(20)], video="mpeg4")
    content = bytearray(path.read_bytes())
    for at, size in packets_of(path):
        content[at + 8 : at + 8 + size] = bytes(size)
    path.write_bytes(content)
    _, reason = read_until_error(path, sound=False)
    assert "nothing in it could be decoded" in reason


def test_memory_stays_small_while_a_long_file_is_read(tmp_path: Path) -> None:
    """Pictures are made when they are handed over, a few at a time."""
    path = write_media(tmp_path / "long.mkv", [grey(n % 30, width=320, height=240) for n in range(300)])

    async def main() -> int:
        largest = 0
        async with MediaFileOptions(path=str(path), sound=False).build().opened() as source:
            async for batch in source:
                largest = max(largest, len(batch))
        return largest

    assert asyncio.run(main()) <= 16
