"""The form that brings a bundle (contract 16): a file `bundle`, and `signature` as text or as a file."""

from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from metacore.bundle.signature import MAX_SIGNATURE_BYTES, Signature
from metacore.errors import InvalidInput, PayloadTooLarge, SignatureRefused

MAX_FIELDS = 8
FORM_OVERHEAD = 65_536
"""Bytes that a form may have besides its two parts: boundaries, headers, small fields."""

FORM_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["bundle"],
                    "properties": {
                        "bundle": {"type": "string", "format": "binary", "description": "The bundle, a tar.gz"},
                        "signature": {
                            "type": "string",
                            "description": "The signature object as JSON; a file part is taken, too",
                        },
                    },
                }
            }
        },
    }
}


class _TooLarge(MultiPartException):
    """Of this kind, so that the parser closes what it has spooled."""


async def read_bundle_form(request: Request, max_bytes: int) -> tuple[bytes, Signature | None]:
    """The bundle's bytes, at most `max_bytes`, and its signature when one came.

    Raises:
        InvalidInput: no form, no bundle in it, or a signature that is not the JSON object of contract 9.
        PayloadTooLarge: as soon as more has come than a bundle and a signature may have.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise InvalidInput("send the bundle as multipart/form-data, in the field 'bundle'", code="invalid_form")
    stream = _bounded(request.stream(), max_bytes + MAX_SIGNATURE_BYTES + FORM_OVERHEAD)
    parser = MultiPartParser(
        request.headers, stream, max_files=2, max_fields=MAX_FIELDS, max_part_size=MAX_SIGNATURE_BYTES
    )
    try:
        form = await parser.parse()
    except _TooLarge:
        raise PayloadTooLarge(f"the bundle is larger than {max_bytes} bytes") from None
    except MultiPartException as error:
        raise InvalidInput(f"the form cannot be read: {error.message}", code="invalid_form") from None
    except (ValueError, LookupError) as error:
        # A boundary or character set that nobody knows.
        raise InvalidInput("the form cannot be read: its headers are broken", code="invalid_form") from error
    try:
        return await _bundle(form, max_bytes), await _signature(form)
    finally:
        await form.close()


async def _bundle(form: FormData, max_bytes: int) -> bytes:
    part = form.get("bundle")
    if not isinstance(part, UploadFile):
        raise InvalidInput("the form needs the bundle as a file in its field 'bundle'", code="bundle_required")
    content = await part.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise PayloadTooLarge(f"the bundle is larger than {max_bytes} bytes")
    return content


async def _signature(form: FormData) -> Signature | None:
    part = form.get("signature")
    content = await part.read(MAX_SIGNATURE_BYTES + 1) if isinstance(part, UploadFile) else part
    if not content:
        return None
    try:
        return Signature.from_json(content)
    except SignatureRefused as error:
        # Not a verdict over the bundle: this field of the form is not what it has to be.
        raise InvalidInput(error.message, code=error.code) from None


async def _bounded(stream: AsyncIterator[bytes], limit: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > limit:
            raise _TooLarge("too large")
        yield chunk
