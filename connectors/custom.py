"""A source or an encoder of your own, named in the file by module and class.

    from: {kind: python, class: my_package.ward:Belt, options: {port: /dev/ttyUSB0}}

The class is a `connectors.base.Source` (or an `EncoderFactory`) and is called with the options by name. Test it with
`connectors.contract`.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

from pydantic import ConfigDict, Field

from connectors.base import Source, SourceOptions
from connectors.encoders.base import EncoderFactory, EncoderOptions
from connectors.errors import SourceBroken

CLASS = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class PythonOptions(SourceOptions):
    model_config = ConfigDict(populate_by_name=True)

    kind: Literal["python"] = "python"
    class_: str = Field(alias="class", pattern=CLASS, description="module:Class, a connectors.base.Source.")
    options: dict[str, Any] = Field({}, description="Passed to it by name.")

    def build(self) -> Source:
        source = _made(self.class_, self.options)
        if not isinstance(source, Source):
            raise SourceBroken(f"{self.class_} is not a connectors.base.Source")
        return source


class PythonEncoderOptions(EncoderOptions):
    model_config = ConfigDict(populate_by_name=True)

    kind: Literal["python"] = "python"
    class_: str = Field(alias="class", pattern=CLASS, description="module:Class, an EncoderFactory.")
    options: dict[str, Any] = Field({}, description="Passed to it by name.")

    def build(self) -> EncoderFactory:
        factory = _made(self.class_, self.options)
        if not isinstance(factory, EncoderFactory):
            raise SourceBroken(f"{self.class_} is not a connectors.encoders.base.EncoderFactory")
        return factory


def _made(name: str, options: dict[str, Any]) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)(**options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SourceBroken(f"{name}: {error}") from error
