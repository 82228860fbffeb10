"""The form that brings a bundle (contract 16): a file `bundle`, and `signature` as text or as a file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from metacore.api.uploads import uploaded_form
from metacore.bundle.signature import MAX_SIGNATURE_BYTES, Signature
from metacore.errors import InvalidInput, PayloadTooLarge, SignatureRefused

MAX_FIELDS = 8

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


@asynccontextmanager
async def bundle_form(request: Request, max_bytes: int) -> AsyncIterator[FormData]:
    """The form in the body, once it has come; its files are on the disk until the block ends or they are read.

    Raises:
        InvalidInput: no form.
        PayloadTooLarge: as soon as more has come than a bundle and a signature may have.
        TooSlow: it does not come in reasonable time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise InvalidInput("send the bundle as multipart/form-data, in the field 'bundle'", code="invalid_form")
    async with uploaded_form(
        request,
        "bundle",
        max_bytes,
        max_files=2,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_SIGNATURE_BYTES,
        other=MAX_SIGNATURE_BYTES,
    ) as form:
        yield form


async def read_bundle_form(form: FormData, max_bytes: int) -> tuple[bytes, Signature | None]:
    """The bundle's bytes, at most `max_bytes`, and its signature when one came. Of both nothing is on the disk then.

    Raises:
        InvalidInput: no bundle in the form, or a signature that is not the JSON object of contract 9.
        PayloadTooLarge: the bundle has more bytes.
    """
    found = await _bundle(form, max_bytes), await _signature(form)
    await form.close()
    return found


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
