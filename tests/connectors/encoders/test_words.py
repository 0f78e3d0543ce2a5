"""Voice activity, words and their embeddings, over real speech of espeak-ng."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from connectors.base import Sample
from connectors.encoders.processes import Job, Work
from connectors.encoders.recognizers import (
    FasterWhisperOptions,
    HeardWord,
    PocketsphinxOptions,
    VoskOptions,
)
from connectors.encoders.text_embedding import TextEmbedding
from connectors.encoders.transcription import TranscriptionOptions, TranscriptionWorkshop
from connectors.encoders.voice_activity import VoiceActivityWorkshop
from connectors.encoders.words import WordsOptions, WordsWorkshop
from connectors.errors import BadSample, MissingExtra, SourceBroken
from connectors.media import Sound
from tests.connectors.encoders.speech import SILENCE, blocks, spoken

GRAMMAR = """#JSGF V1.0;
grammar lamp;
public <command> = turn the <colour> light <state>;
<colour> = red | green | blue | white;
<state> = on | off;
"""
SENTENCE = "turn the green light on"


@pytest.fixture(scope="session")
def sentence(server_program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return spoken(server_program("espeak-ng"), SENTENCE, tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="session")
def transcription() -> TranscriptionWorkshop:
    return TranscriptionWorkshop(TranscriptionOptions(recognizer=PocketsphinxOptions(grammar=GRAMMAR)))


def heard(work: Work, samples: Sequence[Sample], *, end: bool = True) -> list[Any]:
    results = [result for sample in samples for result in work.encode([sample])]
    return results + (list(work.end()) if end else [])


# ---- voice activity ----


def test_speech_is_likely_where_somebody_speaks_and_nowhere_else(sentence: Sound) -> None:
    work = VoiceActivityWorkshop().work("s")
    frames = heard(work, blocks(SILENCE, sentence, SILENCE, start_s=100.0))
    speech = np.concatenate([one.values for one in frames])
    times_s = np.concatenate([one.times_s for one in frames])
    assert speech.shape[1] == 1
    np.testing.assert_allclose(np.diff(times_s), 0.032, atol=1e-9)
    during = (times_s > 101.3) & (times_s < 101 + len(sentence) / 16_000 - 0.4)
    assert (speech[during, 0] > 0.5).mean() > 0.8
    assert (speech[times_s < 100.9, 0] < 0.3).all()
    assert (speech[times_s > times_s[-1] - 0.5, 0] < 0.3).all()


def test_streams_in_one_call_are_heard_as_each_alone(sentence: Sound) -> None:
    workshop = VoiceActivityWorkshop()
    streams = [blocks(SILENCE, sentence), blocks(sentence, SILENCE), blocks(sentence[3000:])]
    works = [workshop.work(str(number)) for number in range(3)]
    together = workshop.encode([Job(work, samples) for work, samples in zip(works, streams, strict=True)])
    for samples, outcome in zip(streams, together, strict=True):
        alone = workshop.work("x").encode(samples)
        assert not isinstance(outcome, Exception)
        np.testing.assert_allclose(outcome[0].values, alone[0].values, atol=1e-4)
        np.testing.assert_array_equal(outcome[0].times_s, alone[0].times_s)


def test_a_bad_sample_of_one_stream_leaves_the_others_of_the_call_alone(sentence: Sound) -> None:
    workshop = VoiceActivityWorkshop()
    good, bad = workshop.work("good"), workshop.work("bad")
    outcomes = workshop.encode([Job(bad, [Sample("sound", "no sound", 0.0)]), Job(good, blocks(sentence))])
    assert isinstance(outcomes[0], BadSample)
    assert not isinstance(outcomes[1], Exception)


# ---- words ----


def test_a_sentence_of_the_grammar_is_understood_with_its_times(
    transcription: TranscriptionWorkshop, sentence: Sound
) -> None:
    said = heard(transcription.work("s"), blocks(SILENCE, sentence, SILENCE, start_s=50.0))
    final = [one for one in said if one.is_final]
    assert [one.text for one in final] == [SENTENCE]
    words = final[0].words
    assert 51.0 < words[0].start_s < 51.4
    assert 51.0 + len(sentence) / 16_000 - 0.8 < words[-1].end_s < 51.1 + len(sentence) / 16_000
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)


def test_words_are_told_before_the_sentence_is_over(transcription: TranscriptionWorkshop, sentence: Sound) -> None:
    said = heard(transcription.work("s"), blocks(SILENCE, sentence, SILENCE))
    partial = [one for one in said if not one.is_final]
    assert len(partial) >= 2
    assert len({one.text for one in partial}) == len(partial)
    assert partial[0].heard_until_s < said[-1].heard_until_s - 0.5
    times = [one.heard_until_s for one in said]
    assert times == sorted(times)


def test_silence_says_nothing(transcription: TranscriptionWorkshop) -> None:
    assert heard(transcription.work("s"), blocks(SILENCE, SILENCE)) == []


def test_two_sentences_are_two_utterances_and_sound_that_ends_ends_the_last(
    transcription: TranscriptionWorkshop, sentence: Sound
) -> None:
    said = heard(transcription.work("s"), blocks(sentence, SILENCE, sentence))
    assert [one.text for one in said if one.is_final] == [SENTENCE, SENTENCE]


def test_an_utterance_does_not_depend_on_those_before_it_or_beside_it(
    transcription: TranscriptionWorkshop, sentence: Sound
) -> None:
    alone = heard(transcription.work("a"), blocks(SILENCE, sentence, SILENCE))
    work = transcription.work("b")
    heard(work, blocks(sentence // 4, SILENCE, start_s=-60.0), end=False)
    again = heard(work, blocks(SILENCE, sentence, SILENCE))
    assert [one for one in again if one.heard_until_s > 0] == alone


def test_a_gap_in_the_sound_ends_what_was_being_said(transcription: TranscriptionWorkshop, sentence: Sound) -> None:
    cut_off = blocks(SILENCE, sentence[:-1600])
    said = heard(transcription.work("s"), cut_off + blocks(sentence, SILENCE, start_s=9.0))
    final = [one for one in said if one.is_final]
    assert len(final) == 2
    assert final[0].heard_until_s < 4.0
    assert final[1].words[0].start_s >= 8.9


@pytest.mark.parametrize("cut", [5, 17, 23])
def test_transcription_goes_on_from_a_snapshot(transcription: TranscriptionWorkshop, sentence: Sound, cut: int) -> None:
    samples = blocks(SILENCE, sentence, SILENCE)
    whole = heard(transcription.work("a"), samples)
    first, second = transcription.work("b"), transcription.work("c")
    begun = heard(first, samples[:cut], end=False)
    second.restore(json.loads(json.dumps(first.snapshot())))
    assert begun + heard(second, samples[cut:]) == whole


def test_keywords_are_found_among_other_words(sentence: Sound) -> None:
    options = PocketsphinxOptions(keywords=("light", "umbrella"), threshold=1e-30)
    workshop = TranscriptionWorkshop(TranscriptionOptions(recognizer=options))
    final = [one for one in heard(workshop.work("s"), blocks(SILENCE, sentence, SILENCE)) if one.is_final]
    assert [word.text for one in final for word in one.words] == ["light"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"grammar": "#JSGF V1.0; grammar g; public <s> = qwrtzuiop;"}, "dictionary"),
        ({"grammar": "#JSGF this is none"}, "pocketsphinx"),
        ({"grammar": "/nowhere/commands.gram"}, "nowhere"),
        ({"keywords": ("qwrtzuiop",)}, "dictionary"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_told_when_the_encoder_is_opened(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SourceBroken, match=reason):
        PocketsphinxOptions(**options).build()


def test_a_grammar_and_keywords_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="not both"):
        PocketsphinxOptions(grammar="#JSGF", keywords=("word",))


# ---- recognizers with a user's own model: their interface, for no model can be had here ----


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Has the files that a model of Whisper must have, and nothing in them."""
    for part in ("model.bin", "tokenizer.json"):
        (tmp_path / part).touch()
    return str(tmp_path)


@pytest.mark.parametrize("options", [FasterWhisperOptions(model="/nowhere"), VoskOptions(model="/nowhere")])
def test_a_model_that_is_not_there_is_not_fetched(options: Any) -> None:
    with pytest.raises(SourceBroken, match="/nowhere: no folder with a model"):
        options.build()


def test_whisper_without_its_tokenizer_is_refused_for_the_library_would_fetch_one(folder: str) -> None:
    (Path(folder) / "tokenizer.json").unlink()
    with pytest.raises(SourceBroken, match=r"tokenizer\.json is not there"):
        FasterWhisperOptions(model=folder).build()


@pytest.mark.parametrize(("options", "extra"), [(FasterWhisperOptions, "whisper"), (VoskOptions, "vosk")])
def test_without_the_package_the_extra_is_named(
    options: Any, extra: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    monkeypatch.setitem(sys.modules, "vosk", None)
    with pytest.raises(MissingExtra, match=extra):
        options(model=folder).build()


def test_whisper_is_given_whole_utterances_and_asked_for_words(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float, dict[str, Any]]] = []

    class WhisperModel:
        def __init__(self, model: str, **options: Any) -> None:
            assert model == folder

        def transcribe(self, sound: np.ndarray, **options: Any) -> tuple[list[Any], None]:
            asked.append((len(sound), float(np.abs(sound).max()), options))
            words = [
                SimpleNamespace(word=" green", start=0.1, end=0.4),
                SimpleNamespace(word=" light", start=0.4, end=0.7),
            ]
            return [SimpleNamespace(words=words), SimpleNamespace(words=None)], None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=WhisperModel))
    recognizer = FasterWhisperOptions(model=folder, language="en").build().new()
    recognizer.begin()
    for _ in range(3):
        recognizer.add(np.full(512, -16_384, np.int16))
    assert recognizer.words_so_far() is None
    assert recognizer.finish() == [HeardWord("green", 0.1, 0.4), HeardWord("light", 0.4, 0.7)]
    ((length, loudest, options),) = asked
    assert (length, loudest) == (1536, 0.5)
    assert options["word_timestamps"] is True
    assert options["language"] == "en"


def test_vosk_tells_words_so_far_and_keeps_what_it_ended_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KaldiRecognizer:
        made = 0

        def __init__(self, model: Any, rate_hz: int, *grammar: str) -> None:
            KaldiRecognizer.made += 1
            assert json.loads(grammar[0]) == ["green", "[unk]"]
            self._heard = 0

        def SetWords(self, on: bool) -> None: ...  # noqa: N802 - as Vosk names it
        def SetPartialWords(self, on: bool) -> None: ...  # noqa: N802 - as Vosk names it

        def AcceptWaveform(self, sound: bytes) -> bool:  # noqa: N802 - as Vosk names it
            self._heard += 1
            return self._heard == 2

        def Result(self) -> str:  # noqa: N802 - as Vosk names it
            return json.dumps({"text": "green", "result": [{"word": "green", "start": 0.1, "end": 0.3, "conf": 1.0}]})

        def PartialResult(self) -> str:  # noqa: N802 - as Vosk names it
            return json.dumps({"partial": "green", "partial_result": [{"word": "[unk]", "start": 0.5, "end": 0.6}]})

        def FinalResult(self) -> str:  # noqa: N802 - as Vosk names it
            return json.dumps({"text": "green", "result": [{"word": "green", "start": 0.8, "end": 0.9, "conf": 1.0}]})

    vosk = SimpleNamespace(SetLogLevel=lambda level: None, Model=lambda folder: folder, KaldiRecognizer=KaldiRecognizer)
    monkeypatch.setitem(sys.modules, "vosk", vosk)
    recognizer = VoskOptions(model=str(tmp_path), words=("green",)).build().new()
    recognizer.begin()
    recognizer.add(np.zeros(512, np.int16))
    assert recognizer.words_so_far() == []
    recognizer.add(np.zeros(512, np.int16))
    assert recognizer.words_so_far() == [HeardWord("green", 0.1, 0.3)]
    assert recognizer.finish() == [HeardWord("green", 0.1, 0.3), HeardWord("green", 0.8, 0.9)]
    recognizer.begin()
    assert recognizer.finish() == [HeardWord("green", 0.8, 0.9)]
    assert KaldiRecognizer.made == 2


# ---- embeddings ----


@pytest.fixture(scope="session")
def embedding() -> TextEmbedding:
    return TextEmbedding()


def test_sentences_that_mean_the_same_are_near_each_other(embedding: TextEmbedding) -> None:
    vectors = embedding.sentences(["turn the light on", "switch on the lamp", "the stock market fell"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    same, other = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert same > 0.6 > other + 0.3


def test_tokens_are_told_in_their_context(embedding: TextEmbedding) -> None:
    first, second = embedding.tokens(["the bank of the river", "bank"])
    assert first.shape == (5, 384)
    assert second.shape == (1, 384)
    assert not np.allclose(first[1], second[0], atol=0.1)


def test_a_folder_that_holds_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceBroken, match="nothing is downloaded"):
        TextEmbedding(str(tmp_path / "nowhere"))
    with pytest.raises(SourceBroken, match=str(tmp_path)):
        TextEmbedding(str(tmp_path))


@pytest.mark.parametrize("units", ["sentence", "token"])
def test_no_frame_is_further_back_than_the_lag_that_closes_windows(sentence: Sound, units: Any) -> None:
    options = WordsOptions(recognizer=PocketsphinxOptions(grammar=GRAMMAR), units=units)
    lag_s, work = options.build().lag_s, WordsWorkshop(options).work("s")
    newest_s, frames = -np.inf, []
    for sample in blocks(SILENCE, sentence, SILENCE, sentence, SILENCE):
        for one in work.encode([sample]):
            assert one.times_s[0] >= newest_s - lag_s
            frames.append(one)
        assert sample.event_time_s is not None
        newest_s = sample.event_time_s
    assert frames


@pytest.mark.parametrize(("units", "partials"), [("sentence", True), ("sentence", False), ("token", True)])
def test_words_become_frames_at_the_times_they_were_known(sentence: Sound, units: Any, partials: bool) -> None:
    options = WordsOptions(recognizer=PocketsphinxOptions(grammar=GRAMMAR), units=units, partials=partials)
    workshop = WordsWorkshop(options)
    samples = blocks(SILENCE, sentence, SILENCE)
    frames = heard(workshop.work("s"), samples)
    values = np.concatenate([one.values for one in frames])
    times_s = np.concatenate([one.times_s for one in frames])
    assert values.shape[1] == 384
    assert (np.diff(times_s) > 0).all()
    if units == "token":
        assert len(values) == len(SENTENCE.split())
        assert 1.0 < times_s[0] < times_s[-1] < 1.1 + len(sentence) / 16_000
    else:
        assert len(values) > 2 if partials else len(values) == 1
        expected = TextEmbedding().sentences([SENTENCE])[0] if not partials else values[-1]
        np.testing.assert_allclose(values[-1], expected, atol=1e-4)
    (together,) = workshop.encode([Job(workshop.work("t"), samples)])
    assert not isinstance(together, Exception)
    np.testing.assert_allclose(np.concatenate([one.values for one in together]), values, atol=1e-4)
