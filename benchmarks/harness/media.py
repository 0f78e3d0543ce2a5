"""Measurements of `benchmarks.connectors` over pictures and sound.

    video_fps_per_core     pictures of 640 x 480 (H.264) read, decoded and handed over as RGB, for each second of one
                           core; bare: PyAV, decoding and converting the same file in a loop
    talk_realtime_factor   seconds of a talking face for each second on the clock: decoding, lips at 25 Hz, log-mel at
                           100 Hz, words and their embeddings, windows, into a sink; bare: the same libraries called
                           one after another in one process, without streams, processes or snapshots; the aim is 1.5

The face is the portrait that matplotlib carries, moving; the voice is espeak-ng's. Without espeak-ng (`make system`)
the talk is left out.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.harness.connector import Taking, runner_of, told
from connectors.encoders.face_mesh import FaceMesh
from connectors.encoders.lips import lips_of
from connectors.encoders.recognizers import PocketsphinxOptions
from connectors.encoders.text_embedding import TextEmbedding
from connectors.encoders.transcription import TranscriptionOptions, TranscriptionWorkshop
from connectors.media import Picture
from connectors.media_file import MediaFileOptions
from connectors.routes import RouteOptions
from grf_core.data.log_mel import log_mel
from runtime.demo.talk import grid_grammar
from tests.connectors.encoders.faces import portrait, shifted
from tests.connectors.encoders.speech import SILENCE, spoken
from tests.connectors.media_materials import write_media

SENTENCE = "bin green at a eight please"
WINDOW = {"seconds": 0.5}


def drawn(number: int) -> Picture:
    """640 x 480: a gradient, noise that stays, and a square that moves."""
    rows, columns = np.mgrid[0:480, 0:640]
    grain = np.random.default_rng(0).integers(0, 40, (480, 640))
    picture = np.stack([rows // 3, columns // 4, grain + 80], axis=-1).astype(np.uint8)
    picture[100:200, (number * 7) % 540 : (number * 7) % 540 + 100] = (250, 240, 20)
    return picture


# ---- decoding ----


async def measure_video(folder: Path, rounds: int, pictures: int) -> dict[str, Any]:
    path = write_media(folder / "video.mp4", [drawn(number) for number in range(pictures)], video="libx264")
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(pictures / cpu_seconds(lambda: bare_decode(path)))
        began_s = time.process_time()
        taken = 0
        async with MediaFileOptions(path=str(path), sound=False).build().opened() as source:
            async for batch in source:
                taken += len(batch)
        assert taken == pictures
        ours.append(pictures / (time.process_time() - began_s))
    return told("video_fps_per_core", bare, ours)


def bare_decode(path: Path) -> None:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frame.to_ndarray(format="rgb24")


def cpu_seconds(work: Callable[[], None]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


# ---- a talking face ----


async def measure_talk(folder: Path, rounds: int, seconds: int) -> dict[str, Any]:
    espeak = shutil.which("espeak-ng")
    if espeak is None:
        print("espeak-ng is not installed: the talk is left out", flush=True)
        return {}
    path = talking(folder, espeak, seconds)
    bare, ours = [], []
    libraries = Bare()
    for turn in range(rounds):
        began_s = time.perf_counter()
        libraries.run(path)
        bare.append(seconds / (time.perf_counter() - began_s))
        ours.append(seconds / await through_the_connector(path, folder / f"talk-{turn}.snapshot"))
    return told("talk_realtime_factor", bare, ours)


def talking(folder: Path, espeak: str, seconds: int) -> Path:
    sentence = np.concatenate([spoken(espeak, SENTENCE, folder), SILENCE])
    sound = np.tile(sentence, -(-seconds * 16_000 // len(sentence)))[: seconds * 16_000]
    face = portrait()
    return write_media(
        folder / "talk.mkv", [shifted(face, number % 8) for number in range(25 * seconds)], sound, video="libx264"
    )


class Bare:
    """The libraries, loaded once, as the processes of the connector are."""

    def __init__(self) -> None:
        options = TranscriptionOptions(recognizer=PocketsphinxOptions(grammar=grid_grammar()))
        self._transcription = TranscriptionWorkshop(options)
        self._embedding = TextEmbedding()

    def run(self, path: Path) -> None:
        mesh, transcription = FaceMesh(), self._transcription.work("s")
        sounds = []
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                landmarks = mesh.landmarks(frame.to_ndarray(format="rgb24"))
                assert landmarks is not None
                lips_of(landmarks, width=frame.width, height=frame.height)
        for sample in MediaFileOptions(path=str(path), pictures=False).build().samples(None):
            sounds.append(sample.value)
            for said in transcription.encode([sample]):
                self._embedding.sentences([said.text])
        log_mel(np.concatenate(sounds))


async def through_the_connector(path: Path, kept: Path) -> float:
    """Seconds from the first picture to the last segment; the encoders' processes are there already."""
    recognizer = {"kind": "pocketsphinx", "grammar": grid_grammar()}
    encoders = {
        "lips": ("**/pictures", {"kind": "lips"}),
        "audio": ("**/sound", {"kind": "log_mel"}),
        "words": ("**/sound", {"kind": "words", "recognizer": recognizer}),
    }
    routes = [
        RouteOptions.model_validate(
            {"match": match, "session": "s", "stream": name, "modality": name, "encoder": encoder, "window": WINDOW}
        )
        for name, (match, encoder) in encoders.items()
    ]
    factories = {index: route.encoder.build() for index, route in enumerate(routes) if route.encoder is not None}
    for factory in factories.values():
        await factory.open()
    sink = Taking()
    runner = runner_of(MediaFileOptions(path=str(path)).build(), routes, factories, sink, kept)
    began_s = time.perf_counter()
    await runner.run()
    took_s = time.perf_counter() - began_s
    assert runner.health == "ended", runner.reason
    assert min(sink.frames.get(name, 0) for name in encoders) > 0, sink.frames
    return took_s
