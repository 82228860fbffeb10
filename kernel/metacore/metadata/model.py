"""The wire shapes of contract 4. The JSON keys are relied upon by clients: a change of one is a major version."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    """Reads contract keys (camelCase) or Python names; `as_json` omits empty optional keys."""

    KEEP: ClassVar[frozenset[str]] = frozenset()
    """The keys that are written even when they are empty."""

    model_config = ConfigDict(populate_by_name=True, extra="ignore", frozen=True)

    def as_json(self) -> dict[str, Any]:
        """The JSON object, without keys whose value is None, '', [] or {} — except those in `KEEP`."""
        shown: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            key = info.alias or name
            value = _plain(getattr(self, name))
            if key in self.KEEP or (
                value is not None and value != "" and value != [] and value != {} and value is not False
            ):
                shown[key] = value
        return shown


def _plain(value: Any) -> Any:
    if isinstance(value, Wire):
        return value.as_json()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class OptionDef(Wire):
    KEEP: ClassVar[frozenset[str]] = frozenset({"value", "label"})
    value: Any
    label: str = ""
    color: str = ""
    icon: str = ""


class ValidationDef(Wire):
    regex: str = ""
    min: float | None = None
    max: float | None = None
    custom: str = ""


class ColumnDef(Wire):
    KEEP: ClassVar[frozenset[str]] = frozenset({"key", "label", "type", "sortable", "filterable"})
    key: str
    label: str = ""
    type: str = "text"
    sortable: bool = False
    filterable: bool = False
    options: list[OptionDef] = []
    use_options: bool = Field(default=False, alias="useOptions")
    cell_style: str = Field(default="", alias="cellStyle")
    style_config: dict[str, Any] = Field(default={}, alias="styleConfig")
    tooltip: str = ""
    description: str = ""
    base_path: str = Field(default="", alias="basePath")
    display_field: str = Field(default="", alias="displayField")
    icon_field: str = Field(default="", alias="iconField")
    relation_path: str = Field(default="", alias="relationPath")
    search_endpoint: str = Field(default="", alias="searchEndpoint")
    hidden: bool = False
    ref: str = ""
    validation: ValidationDef | None = None


class FieldDef(Wire):
    """`type` is one of text, textarea, select, search, number, date, email, url, boolean, image.

    `validation` is a string where an author wrote one (`min:3|max:200`): such a rule is the client's to read.
    """

    KEEP: ClassVar[frozenset[str]] = frozenset({"key", "label", "type", "required"})
    key: str
    label: str = ""
    type: str = "text"
    required: bool = False
    validation: ValidationDef | str | None = None
    options: list[OptionDef] = []
    default_value: Any = Field(default=None, alias="defaultValue")
    hide_in_view: bool = Field(default=False, alias="hideInView")
    search_endpoint: str = Field(default="", alias="searchEndpoint")
    placeholder: str = ""
    ref: str = ""


class ActionDef(Wire):
    KEEP: ClassVar[frozenset[str]] = frozenset({"key", "label"})
    key: str
    name: str = ""
    label: str = ""
    icon: str = ""
    css_class: str = Field(default="", alias="class")
    color: str = ""
    type: str = ""
    link_url: str = Field(default="", alias="linkUrl")
    condition: Any = None
    confirm: bool = False
    confirm_message: str = Field(default="", alias="confirmMessage")
    fields: list[FieldDef] = []
    requires_state: list[str] = Field(default=[], alias="requiresState")
    is_collection: bool = Field(default=False, alias="isCollection")


class FilterDef(Wire):
    """`type` is one of select, boolean, date_range, number_range, text."""

    KEEP: ClassVar[frozenset[str]] = frozenset({"key", "label", "type", "column"})
    key: str
    label: str = ""
    type: str = "text"
    column: str = ""
    default: Any = None
    options: list[OptionDef] = []
    search_endpoint: str = Field(default="", alias="searchEndpoint")


class TableMetadata(Wire):
    KEEP: ClassVar[frozenset[str]] = frozenset(
        {"title", "columns", "enableCRUDActions", "perPageOptions", "defaultPerPage"}
    )
    title: str = ""
    columns: list[ColumnDef] = []
    search_columns: list[str] = Field(default=[], alias="searchColumns")
    filters: list[FilterDef] = []
    actions: list[ActionDef] = []
    enable_crud_actions: bool = Field(default=True, alias="enableCRUDActions")
    per_page_options: list[int] = Field(default=[10, 20, 50, 100], alias="perPageOptions")
    default_per_page: int = Field(default=20, alias="defaultPerPage")
    search_placeholder: str = Field(default="", alias="searchPlaceholder")


class ModalMetadata(Wire):
    KEEP: ClassVar[frozenset[str]] = frozenset({"title", "fields"})
    title: str = ""
    create_title: str = Field(default="", alias="createTitle")
    edit_title: str = Field(default="", alias="editTitle")
    delete_title: str = Field(default="", alias="deleteTitle")
    fields: list[FieldDef] = []
    custom_actions: list[ActionDef] = Field(default=[], alias="customActions")
    messages: dict[str, str] = {}
