"""A small library: its database, two tables, their rows, and how many of them there are."""

import json

import pulumi
from sqlite_resources import Count, Database, Row, Table

config = pulumi.Config()
books = config.get_object("books") or {"emma": {"title": "Emma", "year": 1815}}

database = Database("library", path="library.db", opts=pulumi.ResourceOptions(protect=False))
columns = ["title", "year", *(config.get_object("moreColumns") or [])]
book_table = Table("books", database.path, "books", columns)
reader_table = Table(
    "readers",
    database.path,
    "readers",
    ["card"],
    opts=pulumi.ResourceOptions(depends_on=[book_table], delete_before_replace=True),
)

rows = [
    Row(f"book-{key}", book_table, key, values, opts=pulumi.ResourceOptions(parent=book_table))
    for key, values in books.items()
]
rows.append(
    Row(
        "reader-ann",
        reader_table,
        "ann",
        {"card": config.require_secret("card")},
        opts=pulumi.ResourceOptions(parent=reader_table, aliases=[pulumi.Alias(name="reader-one")]),
    )
)

count = Count(
    "count",
    database.path,
    ["books", "readers"],
    after=pulumi.Output.all(*[row.id for row in rows]),
    opts=pulumi.ResourceOptions(depends_on=rows),
)

pulumi.export("database", database.path)
pulumi.export("pageSize", database.pageSize)
pulumi.export("counts", count.counts)
pulumi.export(
    "summary",
    pulumi.Output.all(path=database.path, counts=count.counts).apply(
        lambda found: json.dumps({"path": found["path"], "counts": found["counts"]}, sort_keys=True)
    ),
)
pulumi.export("card", config.require_secret("card").apply(lambda card: f"card {card}"))
