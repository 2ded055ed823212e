"""Reading bodies: whatever the bytes, the outcome is inputs within the limits or a refusal that says why."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.decode import Body, is_image, read_body
from server.errors import ServerError
from server.settings import Settings
from tests.server.inputs import image_file

SETTINGS = Settings(max_inputs=4, max_text_chars=100)
TYPES = st.sampled_from(
    ["", "text/plain", "application/json", "image/png", "application/x-www-form-urlencoded", "multipart/form-data",
     "multipart/form-data; boundary=b", 'multipart/form-data; boundary="', "multipart/form-data; boundary=" + "b" * 300]
)  # fmt: skip
FORM = "\r\n".join(
    ["--b", 'Content-Disposition: form-data; name="file"; filename="a"', "", "ball", "--b",
     'Content-Disposition: form-data; name="heads"', "", "2", "--b--", ""]
).encode()  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    start, end = sorted((draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole)))))
    return whole[:start] + draw(st.binary(max_size=8)) + whole[end:]


BODIES = st.one_of(
    st.binary(),
    st.text().map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["inputs", "image", "text", "heads"]), inner),
    ).map(lambda value: json.dumps(value).encode()),
    damaged(b'{"inputs": [{"text": "ball"}, {"image": "aGVsbG8="}], "heads": 2}'),
    damaged(FORM),
    damaged(image_file(0)),
)


@given(TYPES | st.text(st.characters(codec="latin-1")), BODIES)
def test_any_bytes_are_read_or_refused(content_type: str, data: bytes) -> None:
    outcome = read_or_refuse(content_type, data)
    if isinstance(outcome, ServerError):
        assert 400 <= outcome.status < 500
        assert str(outcome).endswith(".")
    else:
        assert 1 <= len(outcome.inputs) <= SETTINGS.max_inputs
        assert all(len(value) <= SETTINGS.max_text_chars for value in outcome.inputs if isinstance(value, str))


def read_or_refuse(content_type: str, data: bytes) -> Body | ServerError:
    try:
        return read_body(content_type, data, SETTINGS)
    except ServerError as error:
        return error


def test_the_whole_form_is_read() -> None:
    body = read_body("multipart/form-data; boundary=b", FORM, SETTINGS)
    assert body.inputs == ("ball",)
    assert body.fields == {"heads": "2"}


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_images_are_recognised(image_format: str) -> None:
    assert is_image(image_file(0, image_format))


@given(st.text())
def test_texts_are_not_taken_for_images(text: str) -> None:
    assert not is_image(("BM" + text.replace("\0", "")).encode())
