"""The JSON Schema of manifest.json, generated from the models of `runtime.manifest`: docs/manifest.schema.json.

python -m runtime.manifest_schema > docs/manifest.schema.json
"""

import json
import sys
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from runtime.manifest import Manifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Says what the models leave to the parser, and leaves out what only repeats the names of fields."""

    def generate(self, schema: CoreSchema, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        document = super().generate(schema, mode)
        # A default is for whoever builds a Manifest in Python; whoever parses one refuses it without its version.
        return {"$schema": DIALECT, **document, "required": ["schema_version", *document["required"]]}

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Require the tag, by which the parser chooses. `discriminator` is OpenAPI's, unknown to JSON Schema."""
        union = super().tagged_union_schema(schema)
        tag = union.pop("discriminator")["propertyName"]
        return {**union, "required": [tag]}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Refuse keys that do not match the pattern of the keys, as the parser does."""
        found = super().dict_schema(schema)
        return {**found, "additionalProperties": False} if "patternProperties" in found else found


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a manifest. What relates two fields to each other is not in it."""
    return Manifest.model_json_schema(schema_generator=_Generator)


def render() -> str:
    """Text of docs/manifest.schema.json."""
    return json.dumps(manifest_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
