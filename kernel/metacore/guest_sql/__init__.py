"""SQL that guests send: judged by PostgreSQL's own parser, then run as the addon's guest role.

Never SQL of migrations (`metacore.installer`), and never rows of models through their service (`metacore.dynamic`).
"""
