"""MediaPipe's face mesh: a picture into 468 points of the first face in it.

mediapipe 0.10.21 is the last wheel that carries the model. Its Python layer wants NumPy 1, protobuf 4, OpenCV and
matplotlib; its graph, a binary file and a C++ library, wants none of them. So the graph is driven directly, and of its
package only the bindings are imported: `mediapipe` and `mediapipe.python` stand as empty packages whose own
`__init__` never runs (docs/decisions/media-encoders.md). For its own process: importing it here keeps anything else in
this process from using MediaPipe as its makers meant it.

The points equal those of `mp.solutions.face_mesh.FaceMesh(refine_landmarks=False)`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from connectors.errors import BadSample, SourceBroken
from connectors.media import Picture

VERSION = "0.10.21"
POINTS = 468
GRAPH = "modules/face_landmark/face_landmark_front_cpu.binarypb"
HOW_TO_INSTALL = f"`make setup-media`, or: pip install --no-deps mediapipe=={VERSION}"
TICK_US = 40_000
"""between two pictures: the graph wants times that grow, and uses them for nothing else"""

Landmarks = npt.NDArray[np.float32]


class FaceMesh:
    """Follows one face through the pictures of one stream: where it was found is where it is looked for next."""

    def __init__(self, *, tracking: bool = True) -> None:
        """Raises SourceBroken with what to install."""
        self._bindings = _bindings()
        self._tracking = tracking
        self._graph: Any = None
        self._time_us = 0
        self._found: Any = None

    def landmarks(self, picture: Picture) -> Landmarks | None:
        """[468, 3]: x and y in parts of the picture's width and height, z about as x; None where no face is seen.

        Raises BadSample if the graph refuses the picture; it begins anew then.
        """
        bindings = self._bindings
        try:
            if self._graph is None:
                self._start()
            image = bindings.image_frame.ImageFrame(
                image_format=bindings.image_frame.ImageFormat.SRGB, data=np.ascontiguousarray(picture)
            )
            packet = bindings._packet_creator._create_image_frame_from_image_frame(image)
            self._time_us += TICK_US
            self._found = None
            self._graph.add_packet_to_input_stream(stream="image", packet=packet.at(self._time_us))
            self._graph.wait_until_idle()
            if self._found is None or self._found.is_empty():
                return None
            faces = bindings._packet_getter._get_serialized_proto_list(self._found)
            return points_of(faces[0]) if faces else None
        except (RuntimeError, ValueError) as error:
            self._graph = None
            raise BadSample("format", f"the face mesh refuses the picture: {error}") from error

    def forget(self) -> None:
        """The next picture is the first."""
        self._graph = None

    def _start(self) -> None:
        make = self._bindings._packet_creator
        graph = self._bindings.calculator_graph.CalculatorGraph(binary_graph_path=str(_package() / GRAPH))
        graph.observe_output_stream("multi_face_landmarks", self._on_landmarks, True)
        graph.start_run(
            {
                "num_faces": make.create_int(1),
                "with_attention": make.create_bool(False),
                "use_prev_landmarks": make.create_bool(self._tracking),
            }
        )
        self._graph = graph

    def _on_landmarks(self, _stream: str, packet: Any) -> None:
        self._found = packet


def points_of(message: bytes) -> Landmarks:
    """[P, 3] of a NormalizedLandmarkList: field 1 repeated, a message each of floats x = 1, y = 2, z = 3, and others.

    By hand, because the classes that mediapipe brings are generated for protobuf 4. Raises ValueError.
    """
    points: list[tuple[float, float, float]] = []
    at = 0
    while at < len(message):
        if message[at] != 0x0A or at + 2 > len(message):
            raise ValueError(f"byte {at} begins no landmark")
        end = at + 2 + message[at + 1]
        if message[at + 1] > 0x7F or message[at + 1] % 5 or end > len(message):
            raise ValueError(f"a landmark of {message[at + 1]} bytes")
        values = {1: 0.0, 2: 0.0, 3: 0.0}
        for field in range(at + 2, end, 5):
            if message[field] & 7 != 5:
                raise ValueError(f"field {message[field]:#x} is no float")
            values[message[field] >> 3] = float(np.frombuffer(message, "<f4", 1, field + 1)[0])
        points.append((values[1], values[2], values[3]))
        at = end
    return np.array(points, np.float32).reshape(-1, 3)


@cache
def _package() -> Path:
    """Found before the empty packages stand in its place."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or not spec.submodule_search_locations:
        raise SourceBroken(f"the lips encoder needs mediapipe {VERSION}: {HOW_TO_INSTALL}")
    package = Path(next(iter(spec.submodule_search_locations)))
    if not (package / GRAPH).is_file():
        raise SourceBroken(f"this mediapipe carries no face mesh; {VERSION} does: {HOW_TO_INSTALL}")
    return package


def _bindings() -> ModuleType:
    package = _package()
    for name in ("mediapipe", "mediapipe.python"):
        if name not in sys.modules:
            empty = ModuleType(name)
            empty.__path__ = [str(package.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = empty
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        bindings = importlib.import_module("mediapipe.python._framework_bindings")
    except ImportError as error:
        raise SourceBroken(f"mediapipe cannot be loaded ({error}); {HOW_TO_INSTALL}") from error
    bindings.resource_util.set_resource_dir(str(package.parent))
    logging.getLogger("connectors").debug("mediapipe from %s", package)
    return bindings
