"""`grf demo talk` over a real worker, with the shipped bundle: a portrait that talks with the voice of espeak-ng.

The portrait's lips do not move and the model knows neither face nor voice: nothing is said here of what is answered,
only that lips and sound are fused, that either may be missing, and that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from connectors.base import Sample
from connectors.contract import run, take
from connectors.errors import SourceBroken
from connectors.testing import ScriptedSource
from grf_core.bundle import load_bundle
from runtime.cli import grf
from runtime.demo.staging import NEVER, Span, Staged, parse_span
from runtime.demo.talk import TalkDemo, Watched, answers_of, grid_grammar
from runtime.demo.talk_board import live_board, summary, truth_of
from runtime.demo.talk_videos import Together, from_files
from runtime.engine.policies import EnginePolicy, OrderPolicy
from tests.connectors.encoders.faces import portrait, shifted
from tests.connectors.encoders.speech import SILENCE, spoken
from tests.connectors.media_materials import grey, tone, write_media
from tests.runtime.worker_harness import RunningWorker

ROOT = Path(__file__).parents[3]
SENTENCE = "bin green at a eight please"
PLAYED_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def clip(server_program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s; its name says what is said."""
    folder = tmp_path_factory.mktemp("clip")
    sound = np.concatenate([SILENCE[:4000], spoken(server_program("espeak-ng"), SENTENCE, folder), SILENCE])[:48_000]
    face = portrait()
    pictures = [shifted(face, number % 4) for number in range(75)]
    return write_media(folder / "bgaa8p.mkv", pictures, sound, video="mjpeg")


def play(
    folder: Path, clips: list[Path], *, mute: Span = NEVER, cover: Span = NEVER, words: bool = False
) -> list[Watched]:
    model = partial(load_bundle(ROOT / "bundles/grid-s1").step_model)
    patient = EnginePolicy(order=OrderPolicy(lateness_s=1.0, idle_timeout_s=2.0))
    with RunningWorker(folder, model=model, engine=patient) as worker:
        show = TalkDemo(worker.endpoint, from_files(clips), mute=mute, cover=cover, words=words)
        try:
            show.start()
            show._player.join(PLAYED_WITHIN_S)
            show.stop()
        finally:
            show.close()
    return show.watched


def test_lips_sound_and_words_of_a_video_are_fused_and_shown(clip: Path, tmp_path: Path) -> None:
    (watched,) = play(tmp_path, [clip], words=True)
    assert watched.health == "ended"
    assert watched.segments == {"lips": 6, "audio": 6}
    assert watched.settled_segments == 12
    assert watched.utterance is not None
    assert watched.utterance.is_final
    assert watched.utterance.text.startswith("bin green at")  # the clip ends before the sentence does
    shares = watched.final["settled"]["shares"] if watched.final else {}
    assert min(shares.values()) > 0.05
    assert len(watched.states) >= 4  # while it played
    shown = rendered(live_board("talk", [watched], NEVER, NEVER), summary([watched]))
    assert "words: " + watched.utterance.text in shown
    assert "of 1 whose name tells" in shown


def test_what_is_missing_is_a_gap_and_the_state_goes_on_with_the_rest(clip: Path, tmp_path: Path) -> None:
    (watched,) = play(tmp_path, [clip], mute=Span(1.0, 2.0), cover=Span(0.0, 1.0))
    assert watched.segments == {"lips": 4, "audio": 4}
    assert watched.settled_segments == 8
    assert watched.samples["pictures"] == 75
    assert watched.samples["sound"] == 20
    # Whatever was missing, every head has an answer at the end.
    answers = answers_of(watched.final["settled"] if watched.final else None)
    assert all(0 < sure <= 1 for _, sure in answers.values())
    times = [state["live"]["event_time_s"] for state in watched.states if state["live"]]
    assert any(1.0 < time_s < 2.1 for time_s in times)  # on the lips alone
    shown = rendered(live_board("talk", [watched], Span(1.0, 2.0), Span(0.0, 1.0)))
    assert "sound" in shown
    assert "face" in shown


def test_nobody_and_nothing_are_told_and_the_next_video_is_played(clip: Path, tmp_path: Path) -> None:
    nobody = write_media(tmp_path / "nobody.mkv", [grey(n % 9) for n in range(25)], tone(300, 1.0))
    silent = write_media(tmp_path / "silent.mkv", [portrait()] * 25, video="mjpeg")
    cut = tmp_path / "cut.avi"
    write_media(cut, [grey(n % 9) for n in range(100)], tone(300, 4.0), video="mpeg4")
    cut.write_bytes(cut.read_bytes()[:50_000])
    watched = play(tmp_path, [nobody, cut, silent])
    assert [one.session for one in watched] == ["nobody", "cut", "silent"]
    assert watched[0].segments["lips"] == 0
    assert watched[0].segments["audio"] == 2
    assert watched[1].health == "broken"
    assert watched[2].segments == {"lips": 2}
    assert all(sum(one.segments.values()) == one.settled_segments for one in watched)
    told = rendered(summary(watched))
    assert "no face was found in 25 pictures" in told
    assert "cut short" in told


def rendered(*parts: Any) -> str:
    console = Console(width=140, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(*parts)
    return capture.get()


# ---- pieces ----


@pytest.mark.parametrize("text", ["", "2", "4..2", "2..2", "-1..2", "a..b", "..3"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no span of seconds such as 2\.\.4"):
        parse_span(text)


def test_a_span_has_its_beginning_and_not_its_end() -> None:
    span = parse_span("2..4")
    assert [time_s in span for time_s in (1.99, 2.0, 3.99, 4.0)] == [False, True, True, False]
    assert 0.0 not in NEVER


def test_staging_takes_sound_away_and_makes_pictures_grey() -> None:
    times = (10.0, 10.5, 11.0)
    script = [Sample("v/sound", np.ones(10, np.int16), time_s) for time_s in times]
    script += [Sample("v/pictures", np.full((4, 4, 3), 200, np.uint8), time_s) for time_s in times]
    seen: list[Sample] = []

    async def main() -> list[Sample]:
        source = Staged(ScriptedSource(script), mute=Span(0.5, 1.0), cover=Span(1.0, 9.0), on_samples=seen.extend)
        async with source.opened():
            return await take(source, len(script))

    samples = run(main())
    assert samples == seen
    assert [sample.event_time_s for sample in samples if sample.stream_key == "v/sound"] == [10.0, 11.0]
    brightness = [int(sample.value.max()) for sample in samples if sample.stream_key == "v/pictures"]
    assert brightness == [200, 200, 96]


def test_several_live_sources_are_one_and_fail_together() -> None:
    from connectors.errors import SourceUnavailable
    from connectors.testing import CRASH, PAUSE, row

    async def main() -> None:
        fine = ScriptedSource([row(1.0), PAUSE(60.0)], delivery="live")
        failing = ScriptedSource([row(2.0), PAUSE(0.05), CRASH], delivery="live")
        both = Together([fine, failing])
        got: list[Sample] = []
        async with both.opened():
            with pytest.raises(SourceUnavailable):
                got.extend([sample async for batch in both for sample in batch])
        assert fine.closed
        assert failing.closed

    run(main())


def test_the_grammar_has_every_sentence_of_the_corpus() -> None:
    from connectors.encoders.recognizers import PocketsphinxOptions

    PocketsphinxOptions(grammar=grid_grammar()).build()
    for word in SENTENCE.split():
        assert word in grid_grammar()


def test_a_name_that_is_no_id_tells_no_truth() -> None:
    assert truth_of("bgaa8p.2")["digit"] == "eight"
    assert truth_of("holiday") == {}


def test_a_file_without_sound_and_pictures_is_refused_before_anything_starts(tmp_path: Path) -> None:
    notes = tmp_path / "notes.mp4"
    notes.write_text("nothing")
    with pytest.raises(SourceBroken, match=r"notes\.mp4"):
        from_files([notes])


@pytest.mark.parametrize("arguments", [[], ["--webcam", "--video", __file__], ["--mute-audio", "4..2", "--webcam"]])
def test_a_wrong_command_line_says_what_is_needed(arguments: list[str]) -> None:
    result = CliRunner().invoke(grf, ["demo", "talk", *arguments])
    assert result.exit_code == 2
    assert "--video" in result.output or "4..2" in result.output
