"""From the bytes of a request to input tensors, in a bounded pool of threads: the event loop decodes no input.

Two steps, because the model, and so its preprocessing, is known only in between: `read` finds out what the body holds,
`prepare` turns each input into tensors. A content type is a hint; the bytes decide.
"""

import asyncio
import base64
import binascii
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from runtime.errors import InputError
from runtime.preprocess import IMAGE_FORMATS, Input, Preprocessor, Row
from server.errors import InvalidRequest, ServerError, TooLarge, Unsupported, from_input_error
from server.settings import Settings
from server.work import Deadline

Params = ParamSpec("Params")
Result = TypeVar("Result")
Scalar = str | int | float | bool | None

INLINE_BYTES = 16_384
"""Bodies of at most this size are taken apart on the event loop: handing them to a thread would cost more."""
MAX_FIELDS = 16
MAX_FIELD_BYTES = 1024
FORMATS = f"{', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}"


@dataclass(frozen=True)
class Body:
    """What a request body holds: its inputs, and the parameters that were written beside them, unchecked."""

    inputs: tuple[Input, ...]
    fields: Mapping[str, Scalar] = field(default_factory=dict)


class Decoder:
    """Reads bodies and prepares inputs in `settings.decode_workers` threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.decode_workers, thread_name_prefix="decode")

    async def read(self, content_type: str, body: bytes) -> Body:
        """Find out what a body holds and check it against the limits. Raises ServerError."""
        if len(body) <= INLINE_BYTES:
            return read_body(content_type, body, self._settings)
        return await self.run(read_body, content_type, body, self._settings)

    async def prepare(self, preprocessor: Preprocessor, inputs: Sequence[Input], deadline: Deadline) -> list[Row]:
        """Turn inputs into tensors, one row each. Raises ServerError; with several inputs it names the bad one.

        What has not begun by the deadline is not decoded: DeadlineExceeded.
        """
        loop = asyncio.get_running_loop()
        tasks = [loop.run_in_executor(self._pool, _prepare, preprocessor, value, deadline) for value in inputs]
        rows = await asyncio.gather(*tasks, return_exceptions=True)
        prepared: list[Row] = []
        for index, row in enumerate(rows):
            if isinstance(row, InputError):
                error = from_input_error(row)
                raise (error.at(index) if len(inputs) > 1 else error) from row
            if isinstance(row, BaseException):
                raise row
            prepared.append(row)
        return prepared

    async def run(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """Run a function in one of the threads, so that it does not hold up the event loop."""
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _prepare(preprocessor: Preprocessor, value: Input, deadline: Deadline) -> Row:
    deadline.seconds_left()
    return preprocessor.prepare(value)


def read_body(content_type: str, body: bytes, settings: Settings) -> Body:
    """Find out what a body holds: a multipart form, an image, JSON with inputs, or a text. Raises ServerError."""
    if not body:
        raise InvalidRequest("empty_input", "The request body is empty; send an image, a text, or JSON with inputs.")
    declared, options = parse_options_header(content_type)
    if declared == b"multipart/form-data":
        result = _read_form(body, options.get(b"boundary", b""))
    elif is_image(body):
        result = Body((body,))
    elif declared.startswith(b"image/"):
        raise _not_an_image(body)
    elif _is_json(declared, body):
        result = _read_json(body)
    else:
        result = Body((_as_text(body),))
    check_limits(result.inputs, settings)
    return result


def is_image(data: bytes) -> bool:
    """Whether data begins like a PNG, JPEG, WebP, GIF or BMP file."""
    return (
        data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"))
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or (data[:2] == b"BM" and data[6:10] == bytes(4))  # a text may well begin with BM
    )


def _is_json(declared: bytes, body: bytes) -> bool:
    if declared in (b"application/json", b"text/json") or declared.endswith(b"+json"):
        return True
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and b'"inputs"' in body


def _read_json(body: bytes) -> Body:
    try:
        document = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("bad_json", f"The body is not valid JSON: {error}.") from error
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InvalidRequest(
            "bad_json", 'The JSON must be an object with a list named inputs, such as {"inputs":[{"text":"..."}]}.'
        )
    fields: dict[str, Scalar] = {}
    for name, value in document.items():
        if isinstance(value, dict | list) and name != "inputs":
            raise InvalidRequest("bad_parameter", f"{name[:100]} must be a single value, not a list or an object.")
        if name != "inputs":
            fields[name] = value
    if not document["inputs"]:
        raise InvalidRequest("empty_input", "inputs is empty; send at least one image or text.")
    return Body(tuple(_json_input(item, f"inputs[{index}]") for index, item in enumerate(document["inputs"])), fields)


def _json_input(item: object, where: str) -> Input:
    match item:
        case {"image": str(encoded), **rest} if not rest:
            try:
                return base64.b64decode("".join(encoded.split()), validate=True)
            except (binascii.Error, ValueError) as error:
                raise InvalidRequest(
                    "bad_base64", f"{where}.image is not the base64 form of an image file: {error}."
                ) from error
        case {"text": str(text), **rest} if not rest:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest("not_a_text", f"{where}.text holds half of a surrogate pair.") from error
            return text
    raise InvalidRequest(
        "bad_json", f'{where} must be {{"image": "<base64>"}} or {{"text": "..."}}, with a string and nothing else.'
    )


def _as_text(data: bytes) -> str:
    if data.startswith(b"\x89PNG"):
        raise _not_an_image(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unsupported(
            "unrecognized_input",
            f"The data is neither an image ({FORMATS}), nor JSON with inputs, nor UTF-8 text "
            f"(byte {error.start} is not valid).",
        ) from error
    if "\0" in text:
        raise Unsupported(
            "unrecognized_input", f"The data is neither an image ({FORMATS}), nor JSON with inputs, nor text."
        )
    return text


def _not_an_image(data: bytes) -> ServerError:
    if data.startswith(b"\x89PNG"):
        return InvalidRequest(
            "broken_image", "The PNG image lost its line breaks on the way; with curl use --data-binary instead of -d."
        )
    return Unsupported("not_an_image", f"The data is not an image in a supported format ({FORMATS}).")


class _Form:
    """Collects the parts of a multipart body from the parser's callbacks."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self.fields: dict[str, Scalar] = {}
        self.complete = False
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = ""
        self._data = bytearray()

    def begin(self) -> None:
        self._disposition = ""
        self._data = bytearray()
        if len(self.fields) > MAX_FIELDS:
            raise TooLarge("too_many_fields", f"The form has more than {MAX_FIELDS} fields besides its files.")

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value.decode("utf-8", "replace")
        self._header.clear()
        self._value.clear()

    def data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def part_end(self) -> None:
        # The header parser wants one byte per character; names are compared as UTF-8.
        _, options = parse_options_header(self._disposition.encode().decode("latin-1"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == "file":
            self.files.append(bytes(self._data))
        elif b"filename" in options:
            raise InvalidRequest("bad_form", f"A file must be sent in the form field file, not {name[:100]!r}.")
        elif name in self.fields:
            raise InvalidRequest("bad_parameter", f"{name[:100]} is given more than once.")
        elif len(self._data) > MAX_FIELD_BYTES:
            raise TooLarge("field_too_large", f"The form field {name[:100]!r} exceeds {MAX_FIELD_BYTES} bytes.")
        else:
            self.fields[name] = self._data.decode("utf-8", "replace")

    def end(self) -> None:
        self.complete = True


def _read_form(body: bytes, boundary: bytes) -> Body:
    form = _Form()
    try:
        if not boundary:
            raise FormParserError("the content type names no boundary")
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_part_data": form.data,
                "on_part_end": form.part_end,
                "on_end": form.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest("bad_form", f"The multipart form cannot be read: {error}.") from error
    if not form.complete:
        raise InvalidRequest("bad_form", "The multipart form ends before its closing boundary.")
    if not form.files:
        raise InvalidRequest("empty_input", "The form has no field named file; send one, as in curl -F file=@cat.png.")
    inputs: list[Input] = []
    for index, data in enumerate(form.files):
        try:
            if not data:
                raise InvalidRequest("empty_input", "The file is empty (0 bytes).")
            inputs.append(data if is_image(data) else _as_text(data))
        except ServerError as error:
            raise (error.at(index) if len(form.files) > 1 else error) from error
    return Body(tuple(inputs), form.fields)


def check_limits(inputs: Sequence[Input], settings: Settings) -> None:
    """Raise TooLarge for too many inputs, or a text that is too long."""
    if len(inputs) > settings.max_inputs:
        raise TooLarge("too_many_inputs", f"The request has {len(inputs)} inputs; the limit is {settings.max_inputs}.")
    for index, value in enumerate(inputs):
        if isinstance(value, str) and len(value) > settings.max_text_chars:
            error = TooLarge(
                "text_too_long", f"The text has {len(value)} characters; the limit is {settings.max_text_chars}."
            )
            raise error.at(index) if len(inputs) > 1 else error
