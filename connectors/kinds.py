"""Every kind of source and of encoder that a file can name. A new transport or encoder adds its options here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from connectors.custom import PythonEncoderOptions, PythonOptions
from connectors.files import FilesOptions

AnySource = Annotated[FilesOptions | PythonOptions, Field(discriminator="kind")]
AnyEncoder = PythonEncoderOptions
