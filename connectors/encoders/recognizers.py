"""Sound into words. A recognizer hears one utterance at a time; whatever recognizes speech can be one.

`pocketsphinx` is what there is without a model of your own. With a grammar (JSGF) or a list of keywords it is fast and,
in a quiet room, good: 59 of 60 words of ten sentences of GRID. Without either it writes down free speech, and
mostly wrongly. For that: `faster_whisper` and `vosk`, with a model that you have (docs/media.md).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import Field, model_validator

from connectors.base import Options
from connectors.errors import SourceBroken, need
from connectors.media import SAMPLE_RATE_HZ, Sound

FRAME_S = 0.01
"""of pocketsphinx"""


class HeardWord(NamedTuple):
    text: str
    start_s: float
    """from the beginning of the utterance"""
    end_s: float


class Recognizer(Protocol):
    """Of one stream. What it has learnt of one utterance is forgotten at the next, so that streams never mix."""

    def begin(self) -> None: ...

    def add(self, sound: Sound) -> None: ...

    def words_so_far(self) -> Sequence[HeardWord] | None:
        """The best guess; may be revised. None if it has none before the end."""

    def finish(self) -> Sequence[HeardWord]: ...


class Recognizers(Protocol):
    """Made once in a process: holds the model."""

    def new(self) -> Recognizer: ...


class PocketsphinxOptions(Options):
    kind: Literal["pocketsphinx"] = "pocketsphinx"
    grammar: str = Field("", description="A JSGF grammar: a file, or its text if that begins with #JSGF.")
    keywords: tuple[str, ...] = Field((), description="Instead of a grammar: words and phrases to listen for.")
    threshold: float = Field(1e-15, gt=0, le=1, description="Of a keyword: smaller finds more, and more wrongly.")

    @model_validator(mode="after")
    def _is_one_search(self) -> PocketsphinxOptions:
        if self.grammar and self.keywords:
            raise ValueError("a grammar or keywords, not both")
        return self

    def build(self) -> Recognizers:
        return _Pocketsphinx(self)


class FasterWhisperOptions(Options):
    kind: Literal["faster_whisper"] = "faster_whisper"
    model: str = Field(min_length=1, description="Folder of a CTranslate2 model of Whisper.")
    language: str | None = Field(None, description="As in en.  [default: heard from the speech]")
    compute_type: str = Field("int8", description="Of CTranslate2.")

    def build(self) -> Recognizers:
        return _FasterWhisper(self)


class VoskOptions(Options):
    kind: Literal["vosk"] = "vosk"
    model: str = Field(min_length=1, description="Folder of a Vosk model.")
    words: tuple[str, ...] = Field((), description="Listen for these only.")

    def build(self) -> Recognizers:
        return _Vosk(self)


AnyRecognizer = Annotated[PocketsphinxOptions | FasterWhisperOptions | VoskOptions, Field(discriminator="kind")]


# ---- pocketsphinx ----


class _Pocketsphinx:
    def __init__(self, options: PocketsphinxOptions) -> None:
        self._sphinx = need("pocketsphinx", "media")
        self._options = options
        self._grammar = _grammar_text(options.grammar) if options.grammar else ""
        # A grammar that cannot be used is told now; loading the model takes half a second, so the first stream gets it.
        self._ready: list[Recognizer] = [self._make()]

    def new(self) -> Recognizer:
        return self._ready.pop() if self._ready else self._make()

    def _make(self) -> Recognizer:
        searches = self._grammar or self._options.keywords
        try:
            decoder = self._sphinx.Decoder(
                loglevel="FATAL", samprate=SAMPLE_RATE_HZ, **({"lm": None} if searches else {})
            )
            if self._grammar:
                decoder.add_jsgf_string("grammar", self._grammar)
                decoder.activate_search("grammar")
            elif self._options.keywords:
                self._listen_for(decoder)
        except (RuntimeError, ValueError, TypeError) as error:
            raise SourceBroken(f"pocketsphinx: {error}; a word that is not in its dictionary?") from error
        return _PocketsphinxRecognizer(decoder)

    def _listen_for(self, decoder: Any) -> None:
        """It reads keywords from a file only."""
        for word in " ".join(self._options.keywords).lower().split():
            if decoder.lookup_word(word) is None:
                raise ValueError(f"no such word: {word}")
        lines = [f"{keyword.lower()} /{self._options.threshold:g}/\n" for keyword in self._options.keywords]
        handle, name = tempfile.mkstemp(suffix=".kws")
        try:
            with os.fdopen(handle, "w") as file:
                file.writelines(lines)
            decoder.add_kws("keywords", name)
            decoder.activate_search("keywords")
        finally:
            os.unlink(name)


def _grammar_text(grammar: str) -> str:
    if grammar.lstrip().startswith("#JSGF"):
        return grammar
    try:
        return Path(grammar).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceBroken(f"the grammar {grammar}: {error}") from error


class _PocketsphinxRecognizer:
    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._fresh_cmn = decoder.get_cmn(False)
        """what it takes a voice and a microphone to sound like before it has heard them"""

    def begin(self) -> None:
        self._decoder.set_cmn(self._fresh_cmn)
        self._decoder.start_utt()

    def add(self, sound: Sound) -> None:
        self._decoder.process_raw(sound.tobytes(), False, False)

    def words_so_far(self) -> Sequence[HeardWord]:
        return self._words()

    def finish(self) -> Sequence[HeardWord]:
        self._decoder.end_utt()
        return self._words()

    def _words(self) -> list[HeardWord]:
        if self._decoder.hyp() is None:
            return []
        return [
            # "read(2)" is the second pronunciation of a word; <sil>, [NOISE] and (NULL) are none.
            HeardWord(one.word.partition("(")[0].strip(), one.start_frame * FRAME_S, (one.end_frame + 1) * FRAME_S)
            for one in self._decoder.seg()
            if not one.word.startswith(("<", "[", "("))
        ]


# ---- faster-whisper ----


class _FasterWhisper:
    def __init__(self, options: FasterWhisperOptions) -> None:
        for part in ("model.bin", "tokenizer.json"):  # without the second one the library would ask the network
            if not (Path(options.model) / part).is_file():
                raise SourceBroken(f"{options.model}: no folder with a model of Whisper, {part} is not there")
        whisper = need("faster_whisper", "whisper")
        self._model = whisper.WhisperModel(options.model, device="auto", compute_type=options.compute_type)
        self._language = options.language

    def new(self) -> Recognizer:
        return _WhisperRecognizer(self._model, self._language)


class _WhisperRecognizer:
    """Whisper hears whole utterances, so there is nothing before the end."""

    def __init__(self, model: Any, language: str | None) -> None:
        self._model = model
        self._language = language
        self._sounds: list[Sound] = []

    def begin(self) -> None:
        self._sounds = []

    def add(self, sound: Sound) -> None:
        self._sounds.append(sound)

    def words_so_far(self) -> None:
        return None

    def finish(self) -> Sequence[HeardWord]:
        sound = np.concatenate(self._sounds).astype(np.float32) / 32768
        segments, _ = self._model.transcribe(
            sound, language=self._language, word_timestamps=True, condition_on_previous_text=False
        )
        return [HeardWord(one.word.strip(), one.start, one.end) for segment in segments for one in segment.words or ()]


# ---- Vosk ----


class _Vosk:
    def __init__(self, options: VoskOptions) -> None:
        if not Path(options.model).is_dir():
            raise SourceBroken(f"{options.model}: no folder with a model of Vosk")
        self._vosk = need("vosk", "vosk")
        self._vosk.SetLogLevel(-1)
        self._model = self._vosk.Model(options.model)
        self._words = options.words

    def new(self) -> Recognizer:
        return _VoskRecognizer(self._kaldi)

    def _kaldi(self) -> Any:
        grammar = [json.dumps([*self._words, "[unk]"])] if self._words else []
        recognizer = self._vosk.KaldiRecognizer(self._model, SAMPLE_RATE_HZ, *grammar)
        recognizer.SetWords(True)
        recognizer.SetPartialWords(True)
        return recognizer


class _VoskRecognizer:
    """A new one for each utterance: its times go on, and it adapts. It ends utterances by itself as well: kept."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._kept: list[HeardWord] = []

    def begin(self) -> None:
        self._recognizer = self._make()
        self._kept = []

    def add(self, sound: Sound) -> None:
        if self._recognizer.AcceptWaveform(sound.tobytes()):
            self._kept += _vosk_words(self._recognizer.Result(), "result")

    def words_so_far(self) -> Sequence[HeardWord]:
        return [*self._kept, *_vosk_words(self._recognizer.PartialResult(), "partial_result")]

    def finish(self) -> Sequence[HeardWord]:
        return [*self._kept, *_vosk_words(self._recognizer.FinalResult(), "result")]


def _vosk_words(answer: str, name: str) -> list[HeardWord]:
    return [
        HeardWord(one["word"], one["start"], one["end"])
        for one in json.loads(answer).get(name, ())
        if one["word"] != "[unk]"
    ]
