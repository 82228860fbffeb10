"""What SQL of an addon may consist of: allow lists over PostgreSQL's parse tree.

Everything that is not named here is refused, so syntax of a later PostgreSQL is refused until somebody looked at it.
"""

from __future__ import annotations

from pglast import ast
from pglast.enums import AlterTableType, ObjectType

EXPRESSIONS: frozenset[type] = frozenset(
    {
        ast.A_ArrayExpr,
        ast.A_Const,
        ast.A_Expr,
        ast.A_Indices,
        ast.A_Star,
        ast.Alias,
        ast.BitString,
        ast.BoolExpr,
        ast.Boolean,
        ast.BooleanTest,
        ast.CTECycleClause,
        ast.CTESearchClause,
        ast.CaseExpr,
        ast.CaseWhen,
        ast.CoalesceExpr,
        ast.Float,
        ast.GroupingFunc,
        ast.GroupingSet,
        ast.InferClause,
        ast.Integer,
        ast.JoinExpr,
        ast.JsonArrayConstructor,
        ast.JsonFormat,
        ast.JsonIsPredicate,
        ast.JsonKeyValue,
        ast.JsonObjectConstructor,
        ast.JsonOutput,
        ast.JsonReturning,
        ast.JsonValueExpr,
        ast.LockingClause,
        ast.MergeSupportFunc,
        ast.MergeWhenClause,
        ast.MinMaxExpr,
        ast.MultiAssignRef,
        ast.NamedArgExpr,
        ast.NullTest,
        ast.OnConflictClause,
        ast.RangeSubselect,
        ast.ResTarget,
        ast.ReturningClause,
        ast.ReturningOption,
        ast.RowExpr,
        ast.SetToDefault,
        ast.SortBy,
        ast.String,
        ast.SubLink,
        ast.WindowDef,
    }
)
"""Nodes that carry no name of an object outside themselves; their children are judged."""

SQL_VALUES = frozenset(
    {
        "SVFOP_CURRENT_DATE",
        "SVFOP_CURRENT_TIME",
        "SVFOP_CURRENT_TIME_N",
        "SVFOP_CURRENT_TIMESTAMP",
        "SVFOP_CURRENT_TIMESTAMP_N",
        "SVFOP_LOCALTIME",
        "SVFOP_LOCALTIME_N",
        "SVFOP_LOCALTIMESTAMP",
        "SVFOP_LOCALTIMESTAMP_N",
    }
)

BUILTIN_TYPES = frozenset(
    """
    bool boolean int2 int4 int8 smallint integer int bigint float4 float8 real numeric decimal money
    text varchar bpchar char character name bytea bit varbit
    date time timetz timestamp timestamptz interval
    uuid json jsonb jsonpath inet cidr macaddr macaddr8
    point line lseg box path polygon circle tsvector tsquery
    int4range int8range numrange tsrange tstzrange daterange
    int4multirange int8multirange nummultirange tsmultirange tstzmultirange datemultirange
    serial serial2 serial4 serial8 smallserial bigserial
    citext ltree hstore vector geometry geography
    void record
    """.split()  # noqa: SIM905 - a table of words reads better than a list of strings.
)
"""Built-in types, and types of well-known extensions. No `reg*` type: a cast to one looks up any object by name."""

FUNCTIONS = frozenset(
    """
    abs ceil ceiling floor round trunc mod div sign sqrt cbrt power exp ln log log10 pi degrees radians random
    sin cos tan asin acos atan atan2 width_bucket greatest least factorial gcd lcm random_normal
    count sum avg min max bool_and bool_or every string_agg array_agg json_agg jsonb_agg json_object_agg
    jsonb_object_agg bit_and bit_or stddev stddev_pop stddev_samp variance var_pop var_samp corr percentile_cont
    percentile_disc mode any_value
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
    lower upper initcap length char_length character_length octet_length bit_length concat concat_ws format left right
    lpad rpad trim btrim ltrim rtrim repeat replace reverse split_part position strpos substr substring overlay
    starts_with translate ascii chr md5 sha224 sha256 sha384 sha512 encode decode convert_from convert_to quote_literal
    quote_nullable quote_ident to_hex normalize is_normalized regexp_replace regexp_match regexp_matches
    regexp_split_to_array regexp_split_to_table regexp_count regexp_instr regexp_like regexp_substr
    string_to_array string_to_table array_to_string unnest like_escape
    array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position array_positions
    array_prepend array_remove array_replace array_upper cardinality trim_array array_sample array_shuffle
    now current_timestamp transaction_timestamp statement_timestamp clock_timestamp timeofday age date_part date_trunc
    date_bin extract make_date make_time make_timestamp make_timestamptz make_interval justify_days justify_hours
    justify_interval isfinite to_char to_date to_number to_timestamp timezone date time timestamp timestamptz interval
    date_add date_subtract overlaps
    gen_random_uuid uuidv4 uuidv7 uuid_generate_v4 uuid_extract_timestamp uuid_extract_version
    to_json to_jsonb array_to_json row_to_json json_build_array json_build_object jsonb_build_array jsonb_build_object
    json_object jsonb_object json_array_elements jsonb_array_elements json_array_elements_text
    jsonb_array_elements_text json_array_length jsonb_array_length json_each jsonb_each json_each_text jsonb_each_text
    json_extract_path jsonb_extract_path json_extract_path_text jsonb_extract_path_text json_object_keys
    jsonb_object_keys json_typeof jsonb_typeof json_strip_nulls jsonb_strip_nulls jsonb_set jsonb_set_lax jsonb_insert
    jsonb_pretty jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array jsonb_path_query_first
    json_to_record jsonb_to_record json_to_recordset jsonb_to_recordset jsonb_concat jsonb_delete
    to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_rank ts_rank_cd ts_headline
    setweight strip numnode querytree tsvector_to_array array_to_tsvector
    generate_series generate_subscripts nullif coalesce num_nulls num_nonnulls
    isempty lower_inc upper_inc lower_inf upper_inf range_merge range_agg int4range int8range numrange tsrange
    tstzrange daterange
    host hostmask masklen netmask network set_masklen family
    current_setting text int4 int8 float8 numeric bool varchar
    similarity word_similarity unaccent crypt gen_salt digest hmac
    like_escape similar_to_escape similar_escape
    """.split()  # noqa: SIM905 - a table of words reads better than a list of strings.
)
"""Functions that neither reach outside the addon's tables nor change a session, a lock or another backend."""

FIELDS = frozenset({"key", "value", "lexeme", "positions", "weights", "ordinality"})
"""Columns that the functions above give their rows; no function is called like one of them."""

UNNAMED_ROWS = frozenset(
    {
        "generate_series",
        "generate_subscripts",
        "json_object_keys",
        "jsonb_object_keys",
        "jsonb_path_query",
        "regexp_matches",
        "regexp_split_to_table",
        "string_to_table",
        "unnest",
    }
)
"""Functions whose only column is called like their alias in FROM; with others that name would not be a column."""

SEQUENCE_FUNCTIONS = frozenset({"nextval", "currval", "setval"})
"""Allowed when the sequence is written as a plain unqualified literal."""

CATALOG_QUALIFIED = frozenset({"pg_catalog"})
"""The parser itself spells some syntax (`EXTRACT`, `TRIM`, `int`) with this schema; the allow lists still decide."""

TRIGGER_FUNCTIONS = frozenset({"suppress_redundant_updates_trigger", "tsvector_update_trigger"})

STORAGE_OPTIONS = frozenset({"fillfactor", "fastupdate", "pages_per_range", "autosummarize", "deduplicate_items"})

INDEX_METHODS = frozenset({"btree", "hash", "gin", "gist", "spgist", "brin", "hnsw", "ivfflat"})

ALTER_TABLE: frozenset[AlterTableType] = frozenset(
    {
        AlterTableType.AT_AddColumn,
        AlterTableType.AT_ColumnDefault,
        AlterTableType.AT_DropNotNull,
        AlterTableType.AT_SetNotNull,
        AlterTableType.AT_SetExpression,
        AlterTableType.AT_DropExpression,
        AlterTableType.AT_SetStatistics,
        AlterTableType.AT_SetStorage,
        AlterTableType.AT_SetCompression,
        AlterTableType.AT_DropColumn,
        AlterTableType.AT_AddConstraint,
        AlterTableType.AT_AlterConstraint,
        AlterTableType.AT_ValidateConstraint,
        AlterTableType.AT_DropConstraint,
        AlterTableType.AT_AlterColumnType,
        AlterTableType.AT_AddIdentity,
        AlterTableType.AT_SetIdentity,
        AlterTableType.AT_DropIdentity,
    }
)

ALTER_TABLE_REASONS: dict[AlterTableType, str] = {
    AlterTableType.AT_EnableRowSecurity: "row security belongs to the kernel",
    AlterTableType.AT_DisableRowSecurity: "row security belongs to the kernel",
    AlterTableType.AT_ForceRowSecurity: "row security belongs to the kernel",
    AlterTableType.AT_NoForceRowSecurity: "row security belongs to the kernel",
    AlterTableType.AT_ChangeOwner: "an addon's objects keep their owner",
    AlterTableType.AT_SetRelOptions: "options of a relation decide who reads through it",
    AlterTableType.AT_AddInherit: "inheritance crosses the isolation of a table",
    AlterTableType.AT_AttachPartition: "partitions would need policies of their own",
}

RENAMES: frozenset[ObjectType] = frozenset(
    {
        ObjectType.OBJECT_TABLE,
        ObjectType.OBJECT_VIEW,
        ObjectType.OBJECT_COLUMN,
        ObjectType.OBJECT_INDEX,
        ObjectType.OBJECT_SEQUENCE,
        ObjectType.OBJECT_TABCONSTRAINT,
        ObjectType.OBJECT_TYPE,
        ObjectType.OBJECT_DOMAIN,
        ObjectType.OBJECT_ATTRIBUTE,
    }
)

DROPS: frozenset[ObjectType] = frozenset(
    {
        ObjectType.OBJECT_TABLE,
        ObjectType.OBJECT_VIEW,
        ObjectType.OBJECT_INDEX,
        ObjectType.OBJECT_SEQUENCE,
        ObjectType.OBJECT_TYPE,
        ObjectType.OBJECT_DOMAIN,
        ObjectType.OBJECT_FUNCTION,
        ObjectType.OBJECT_TRIGGER,
    }
)

COMMENTS: dict[ObjectType, int] = {
    ObjectType.OBJECT_TABLE: 1,
    ObjectType.OBJECT_VIEW: 1,
    ObjectType.OBJECT_INDEX: 1,
    ObjectType.OBJECT_SEQUENCE: 1,
    ObjectType.OBJECT_COLUMN: 2,
    ObjectType.OBJECT_TABCONSTRAINT: 2,
    ObjectType.OBJECT_TRIGGER: 2,
    ObjectType.OBJECT_TYPE: 1,
    ObjectType.OBJECT_DOMAIN: 1,
    ObjectType.OBJECT_FUNCTION: 1,
}
"""What may carry a comment, and how many parts its unqualified name has."""

FUNCTION_OPTIONS = frozenset({"language", "as", "volatility", "strict", "cost", "rows", "parallel"})

FORBIDDEN_STATEMENTS: dict[str, str] = {
    "AlterRoleStmt": "roles belong to the operator",
    "AlterRoleSetStmt": "roles belong to the operator",
    "CreateRoleStmt": "roles belong to the operator",
    "DropRoleStmt": "roles belong to the operator",
    "GrantStmt": "privileges belong to the kernel",
    "GrantRoleStmt": "privileges belong to the kernel",
    "AlterDefaultPrivilegesStmt": "privileges belong to the kernel",
    "AlterOwnerStmt": "an addon's objects keep their owner",
    "ReassignOwnedStmt": "an addon's objects keep their owner",
    "DropOwnedStmt": "an addon's objects keep their owner",
    "VariableSetStmt": "settings of the session and the role belong to the kernel",
    "VariableShowStmt": "settings of the session belong to the kernel",
    "AlterSystemStmt": "settings of the server belong to its administrator",
    "AlterDatabaseStmt": "the database belongs to its administrator",
    "AlterDatabaseSetStmt": "settings of the database belong to its administrator",
    "TransactionStmt": "each migration already runs in one transaction of its own",
    "DoStmt": "anonymous code blocks cannot be judged",
    "CallStmt": "procedures cannot be judged",
    "CopyStmt": "COPY reaches files and programs; write INSERT",
    "CreateExtensionStmt": "extensions are installed by the database's administrator",
    "AlterExtensionStmt": "extensions are installed by the database's administrator",
    "CreatePolicyStmt": "row security belongs to the kernel",
    "AlterPolicyStmt": "row security belongs to the kernel",
    "CreateSchemaStmt": "an addon has exactly the schema that it was given",
    "AlterObjectSchemaStmt": "an addon has exactly the schema that it was given",
    "CreateEventTrigStmt": "event triggers see the whole database",
    "AlterEventTrigStmt": "event triggers see the whole database",
    "RuleStmt": "rules rewrite statements of other roles",
    "ListenStmt": "notification channels belong to the kernel",
    "NotifyStmt": "notification channels belong to the kernel",
    "UnlistenStmt": "notification channels belong to the kernel",
    "PrepareStmt": "prepared statements outlive the judgement",
    "ExecuteStmt": "prepared statements outlive the judgement",
    "DeallocateStmt": "prepared statements outlive the judgement",
    "ExplainStmt": "EXPLAIN ANALYZE runs what it explains; leave it out",
    "DeclareCursorStmt": "cursors outlive the judgement",
    "FetchStmt": "cursors outlive the judgement",
    "LockStmt": "locks are taken by the installer",
    "LoadStmt": "libraries are loaded by the database's administrator",
    "CreatePLangStmt": "languages are installed by the database's administrator",
    "CreateForeignServerStmt": "foreign data leaves the database",
    "CreateForeignTableStmt": "foreign data leaves the database",
    "CreateFdwStmt": "foreign data leaves the database",
    "CreateUserMappingStmt": "foreign data leaves the database",
    "ImportForeignSchemaStmt": "foreign data leaves the database",
    "CreatePublicationStmt": "replication leaves the database",
    "CreateSubscriptionStmt": "replication leaves the database",
    "DiscardStmt": "settings of the session belong to the kernel",
    "AlterFunctionStmt": "drop the function and create it again, so that the whole of it is judged",
    "VacuumStmt": "maintenance belongs to the database",
    "ReindexStmt": "maintenance belongs to the database",
    "ClusterStmt": "maintenance belongs to the database",
    "CheckPointStmt": "maintenance belongs to the database",
    "SecLabelStmt": "security labels belong to the database's administrator",
}
"""Refused anyway, since they are not allowed; here they get a reason that helps."""
